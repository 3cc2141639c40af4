"""Detectors as mmdetection 2 names and lays them out, with Swin's own code as the backbone: STViT-R's and Swin's own.

Their background is the last class and has no box or mask; torchvision's is the first and has both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

ROI = "roi_head.bbox_head."
NECK = {"inner_blocks": "lateral_convs", "layer_blocks": "fpn_convs"}
PROPOSALS = {"conv.0.0": "rpn_conv", "cls_logits": "rpn_cls", "bbox_pred": "rpn_reg"}
MASKS = {"mask_predictor.conv5_mask": "upsample", "mask_predictor.mask_fcn_logits": "conv_logits"}


def is_detector(tensors: Mapping[str, Any]) -> bool:
    """Whether these are a two-stage detector's of mmdetection."""
    return any(key.startswith(ROI) for key in tensors)


def design(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], int]:
    """The knobs of a detector that its tensors tell, and its number of classes."""
    cascade = f"{ROI}0.fc_cls.weight" in tensors
    first = f"{ROI}0." if cascade else ROI
    masks = f"roi_head.mask_head.{'0.' if cascade else ''}"
    count = {
        name: len({match[1] for key in tensors if (match := re.match(rf"{re.escape(start)}(\d+)\.", key))})
        for name, start in (("box_convs", f"{first}shared_convs."), ("mask_convs", f"{masks}convs."))
    }
    told = {
        "head": "cascade" if cascade else "mask",
        "masks": any(key.startswith(masks) for key in tensors),
        "width": int(tensors["neck.lateral_convs.0.conv.weight"].shape[0]),
        "fc": int(tensors[f"{first}fc_cls.weight"].shape[1]),
        **({"box_convs": count["box_convs"]} if cascade else {}),
        **({"mask_convs": count["mask_convs"]} if count["mask_convs"] else {}),
    }
    return told, int(tensors[f"{first}fc_cls.weight"].shape[0]) - 1


def heads(names: list[str]) -> dict[str, tuple[str, Callable[[Tensor], Tensor]]]:
    """The published name of each tensor of a detector but the backbone's, by its name here, and how it is laid out."""
    found = {}
    for name in names:
        published = _published(name)
        if published is not None:
            found[name] = published
    return found


def _published(name: str) -> tuple[str, Callable[[Tensor], Tensor]] | None:
    part, _, rest = name.partition(".")
    if part == "neck":
        kind, level, _, end = rest.split(".")
        return f"neck.{NECK[kind]}.{level}.conv.{end}", _same
    if part == "rpn":
        inner, _, end = rest.removeprefix("head.").rpartition(".")
        return f"rpn_head.{PROPOSALS[inner]}.{end}", _same
    if part != "heads":
        return None
    stage = re.match(r"stages\.(\d+)\.", rest)
    number, rest = (f"{stage[1]}.", rest[stage.end() :]) if stage else ("", rest)
    inner, _, end = rest.rpartition(".")
    if inner in MASKS:
        return f"roi_head.mask_head.{number}{MASKS[inner]}.{end}", _with_background if "logits" in inner else _same
    if inner.startswith("mask_head."):
        return f"roi_head.mask_head.{number}convs.{inner.split('.')[1]}.conv.{end}", _same
    if inner == "box_predictor.cls_score":
        return f"{ROI}{number}fc_cls.{end}", _background_first
    if inner == "box_predictor.bbox_pred":
        return f"{ROI}{number}fc_reg.{end}", _boxes_with_background
    if inner in ("box_head.fc6", "box_head.fc7"):
        return f"{ROI}shared_fcs.{int(inner[-1]) - 6}.{end}", _same
    conv = re.fullmatch(r"box_head\.(\d+)\.([01])", inner)
    if conv:
        return f"{ROI}{number}shared_convs.{conv[1]}.{('conv', 'bn')[int(conv[2])]}.{end}", _same
    return f"{ROI}{number}shared_fcs.0.{end}", _same


def _same(x: Tensor) -> Tensor:
    return x


def _background_first(x: Tensor) -> Tensor:
    return x.roll(1, 0)


def _with_background(x: Tensor) -> Tensor:
    """A mask that is never looked at, before the others."""
    return torch.cat([torch.zeros_like(x[:1]), x])


def _boxes_with_background(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:4]), x])
