"""How models of clips are trained: Video Swin's recipe by name, and a short one for small machines."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from tokenbench.methods.learning import Learning


class ClipRecipe(Learning):
    """A recipe of clips; the defaults are those of Video Swin on Kinetics-400 (arXiv 2106.13230), 30 epochs."""

    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")
    fresh_head: bool = Field(False, description="the head learns at the full rate, whatever backbone_lr is")
    short: float = Field(256 / 224, ge=1, description="short side of a frame before it is cropped, in sides of a crop")
    crop: float = Field(0.08, gt=0, le=1, description="smallest share of a frame that a random crop takes; 1: a window")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirrored clip")


K400 = ClipRecipe(
    epochs=30,
    batch=256,
    lr=1e-3,
    lr_batch=256,
    min_lr=0,
    warmup_epochs=2.5,
    warmup_lr=0,
    weight_decay=0.02,
    no_decay="norms",
    drop_path=0.1,
    backbone_lr=0.1,
    fresh_head=True,
    start="dense",
    source="Video Swin's code, for T, but for its dropout before the head; S and B have batch=512, B weight_decay=0.05 "
    "and drop_path=0.3 too",
)
MINI = ClipRecipe(
    epochs=4,
    updates=120,
    batch=8,
    lr=1e-3,
    lr_batch=8,
    min_lr=1e-5,
    warmup_epochs=0,
    warmup_updates=12,
    clip_grad=5,
    drop_path=0.0,
    smoothing=0.1,
    short=1.0,
    crop=1.0,
    start="scratch",
    source="tokenbench: from nothing in a minute of one core, on small clips",
)
VIDEO: Mapping[str, ClipRecipe] = {"k400": K400, "mini": MINI}
