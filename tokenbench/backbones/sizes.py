"""Which backbone tensors are of, by their widths and depths.

Heads leave no trace in them, so only sizes whose heads are known are told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

VITS = {  # width, blocks, side of a patch
    (64, 12, 2): "deit_nano",
    (192, 12, 16): "deit_t",
    (384, 12, 16): "deit_s",
    (768, 12, 16): "deit_b",
    (1024, 24, 16): "vit_l",
}
LVVITS = {(240, 12): "lvvit_t", (384, 16): "lvvit_s", (512, 20): "lvvit_m", (768, 24): "lvvit_l"}  # width, blocks
SWINS: dict[tuple[int, ...], str] = {  # width, blocks of each stage
    (96, 2, 2, 6, 2): "swin_t",
    (96, 2, 2, 18, 2): "swin_s",
    (128, 2, 2, 18, 2): "swin_b",
}
TWINS = {"deit_t": "vit_ti", "deit_s": "vit_s", "deit_b": "vit_b"}  # AugReg's, with the very same tensors


def recognise(tensors: Mapping[str, Tensor]) -> str | None:
    """The short name of the backbone, in timm's layout or in those that keep its names; None if it is none of these."""
    if "patch_embed.conv1.weight" in tensors and is_vit(tensors):
        return LVVITS.get((tensors["patch_embed.proj.weight"].shape[0], depth(tensors)))
    if is_vit(tensors):
        patches = tensors["patch_embed.proj.weight"]
        name = VITS.get((patches.shape[0], depth(tensors), patches.shape[-1]))
        return f"{name}_distilled" if name and "dist_token" in tensors else name
    first = tensors.get("layers.0.blocks.0.norm1.weight")
    return None if first is None else SWINS.get((first.shape[0], *(depth(tensors, stage) for stage in range(4))))


def is_vit(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are a vision transformer's, plain or with more beside it."""
    return {"cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= tensors.keys()


def depth(tensors: Mapping[str, Tensor], stage: int | None = None) -> int:
    """Number of blocks, or of those of a stage."""
    start = "" if stage is None else rf"layers\.{stage}\."
    return len({match[1] for key in tensors if (match := re.match(rf"{start}blocks\.(\d+)\.", key))})


def describe(tensors: Mapping[str, Tensor]) -> str:
    """Width and depth in words."""
    first = tensors.get("blocks.0.norm1.weight", tensors.get("layers.0.blocks.0.norm1.weight"))
    blocks = depth(tensors) or "/".join(str(depth(tensors, stage)) for stage in range(4))
    return f"width {'unknown' if first is None else first.shape[0]}, blocks {blocks}"
