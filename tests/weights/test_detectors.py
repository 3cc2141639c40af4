"""Published detectors by mmdetection's names: converted, they find what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones.swin import official
from tokenbench.cli import main
from tokenbench.heads.detector import Design, Detector
from tokenbench.methods.dense import Dense
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model
from tokenbench.pyramid import Pyramid
from tokenbench.weights import checkpoints, files

SMALL: dict[str, Any] = {"width": 16, "fc": 24, "mask_convs": 2}


def made(method: Any, head: Any, seed: int) -> Detector:
    torch.manual_seed(seed)
    model = Model(backbones.create("swin_nano"), method)
    design = Design(head=head, box_convs=2 if head == "cascade" else 4, **SMALL)
    detector = Detector(Pyramid(model), 3, design).eval()
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean), torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return detector


def as_mmdetection(detector: Detector, method: Any) -> dict[str, Tensor]:
    """Its tensors by the published names, written down here by hand: background last, without a box or mask."""
    state, found = detector.state_dict(), {}
    body = {key.removeprefix("body."): value for key, value in state.items() if key.startswith("body.")}
    names = {key: official(key) for key in body} if isinstance(method, Dense) else method.published(list(body))
    found |= {f"backbone.{names[key]}": value for key, value in body.items()}
    for level in range(4):
        for end in ("weight", "bias"):
            found[f"neck.lateral_convs.{level}.conv.{end}"] = state[f"neck.inner_blocks.{level}.0.{end}"]
            found[f"neck.fpn_convs.{level}.conv.{end}"] = state[f"neck.layer_blocks.{level}.0.{end}"]
    for end in ("weight", "bias"):
        for theirs, own in (("rpn_conv", "conv.0.0"), ("rpn_cls", "cls_logits"), ("rpn_reg", "bbox_pred")):
            found[f"rpn_head.{theirs}.{end}"] = state[f"rpn.head.{own}.{end}"]
    stages = 3 if detector.design.head == "cascade" else 1
    for i in range(stages):
        own, number = ("heads.", "") if stages == 1 else (f"heads.stages.{i}.", f"{i}.")
        box, mask = f"roi_head.bbox_head.{number}", f"roi_head.mask_head.{number}"
        for end in ("weight", "bias"):
            cls, reg = (state[f"{own}box_predictor.{kind}.{end}"] for kind in ("cls_score", "bbox_pred"))
            found[f"{box}fc_cls.{end}"] = torch.cat([cls[1:], cls[:1]])
            found[f"{box}fc_reg.{end}"] = reg[4:]
            if stages == 1:
                for j in (0, 1):
                    found[f"{box}shared_fcs.{j}.{end}"] = state[f"{own}box_head.fc{6 + j}.{end}"]
            else:
                found[f"{box}shared_fcs.0.{end}"] = state[f"{own}box_head.3.{end}"]
            for j in range(2):
                found[f"{mask}convs.{j}.conv.{end}"] = state[f"{own}mask_head.{j}.0.{end}"]
            found[f"{mask}upsample.{end}"] = state[f"{own}mask_predictor.conv5_mask.{end}"]
            found[f"{mask}conv_logits.{end}"] = state[f"{own}mask_predictor.mask_fcn_logits.{end}"][1:]
        for j in range(2 if stages == 3 else 0):
            found[f"{box}shared_convs.{j}.conv.weight"] = state[f"{own}box_head.{j}.0.weight"]
            for end in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                found[f"{box}shared_convs.{j}.bn.{end}"] = state[f"{own}box_head.{j}.1.{end}"]
    return found


@pytest.mark.parametrize(
    ("method", "head"), [(Dense(), "mask"), (STViTR(), "cascade")], ids=["dense-mask", "stvit_r-cascade"]
)
def test_converted_it_finds_the_same(method: Any, head: Any, tmp_path: Path) -> None:
    detector = made(method, head, 1)
    source, out = tmp_path / "det.pth", tmp_path / "det.safetensors"
    torch.save({"state_dict": as_mmdetection(detector, method), "meta": {}}, source)
    done = CliRunner().invoke(main, ["convert", str(source), str(out), "--backbone", "swin_nano"])
    assert done.exit_code == 0, done.output
    header = files.header(out)
    assert (header["method"], header["task"], header["classes"]) == (method.name, "detection", 3)
    assert header["task_setting"]["head"] == head and header["task_setting"]["width"] == 16
    other = made(method, head, 2)
    checkpoints.load(other, out)
    with torch.inference_mode():
        images = torch.randn(1, 3, 64, 96)
        one, two = detector(images)[0], other(images)[0]
    assert len(one["boxes"]) and all(torch.equal(one[name], two[name]) for name in one)


def test_what_does_not_fit(tmp_path: Path) -> None:
    tensors = as_mmdetection(made(Dense(), "mask", 1), Dense())
    del tensors["neck.fpn_convs.2.conv.bias"]
    torch.save({"state_dict": tensors}, tmp_path / "det.pth")
    out = str(tmp_path / "o.safetensors")
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "det.pth"), out, "--backbone", "swin_nano"])
    assert done.exit_code == 1 and "neck.layer_blocks.2.0.bias is missing" in " ".join(done.output.split())
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "det.pth"), out])
    assert done.exit_code == 1 and "say which model with --backbone" in " ".join(done.output.split())
