"""Weights of Video Swin: their names in its makers' code, and those of images made into ones of clips, as published.

Inflation (arXiv 2106.13230, section 3.3): the kernel of the patch embedding is repeated over the frames of a patch and
divided by their number, and a table of relative positions is repeated for every distance in time.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from tokenbench.errors import WeightsError

MERGING = re.compile(r"^layers\.(\d+)\.downsample\.")


def fitted(stored: dict[str, Tensor], vit: Any) -> dict[str, Tensor]:
    """Tensors under torchvision's names; as they are, if they have these.

    Taken are those of Video Swin's own code, and of Swin on images in its makers' layout or timm's.

    Raises:
        WeightsError: the windows of the images are other than those of a frame here.
    """
    if not any(name.startswith("layers.") for name in stored):
        return stored
    wanted = vit.state_dict()
    begins = "layers.0.downsample.norm.weight" not in stored  # timm's merging begins a stage, the makers' ends one
    found = {key: value for key, value in wanted.items() if key.endswith("relative_position_index")}
    for key, value in stored.items():
        name = _named(key, begins)
        if name.endswith(("relative_position_index", "attn_mask")):
            continue
        found[name] = _inflated(name, value, wanted[name]) if name in wanted else value
    return found


def _named(key: str, begins: bool) -> str:
    name = re.sub(r"^backbone\.", "", key)
    name = MERGING.sub(lambda m: f"features.{2 * int(m[1]) + (-1 if begins else 1)}.", name)
    name = re.sub(r"^layers\.(\d+)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)
    name = name.replace(".mlp.fc1.", ".mlp.0.").replace(".mlp.fc2.", ".mlp.3.")
    return name.replace("head.fc.", "head.")


def _inflated(name: str, value: Tensor, like: Tensor) -> Tensor:
    if name == "patch_embed.proj.weight" and value.dim() == 4:
        frames = like.shape[2]
        return value.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    if name.endswith("relative_position_bias_table") and value.shape[0] != like.shape[0]:
        times, rest = divmod(like.shape[0], value.shape[0])
        side = round(value.shape[0] ** 0.5)
        if rest or times % 2 == 0 or side * side != value.shape[0]:
            raise WeightsError(
                f"{name} has {value.shape[0]} relative positions, of windows of {(side + 1) // 2} a side, which "
                "are not those of a frame here; give weights with the same windows."
            )
        return value.repeat(times, 1)
    return value


def is_inflated(stored: dict[str, Tensor], vit: Any) -> bool:
    """Whether tensors are of images, for a model of clips."""
    kernel = stored.get("patch_embed.proj.weight", torch.empty(0))
    return kernel.dim() == 4 and vit.patch_embed.proj.weight.dim() == 5
