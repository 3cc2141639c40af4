"""How models of dense tasks are trained: the published recipes by name, and short ones for small machines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, NonNegativeInt

from tokenbench.methods.learning import Learning


def _sides(value: Any) -> Any:
    """On the command line a list is written 480/800."""
    return tuple(value.split("/")) if isinstance(value, str) else value


Sides = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_sides)]
Distilled = Annotated[float, Field(ge=0, description="with a teacher: weight of how far maps are from its maps")]


class DetectionRecipe(Learning):
    """A recipe of detection; the defaults are those of Swin's Cascade Mask R-CNN, 36 epochs of COCO from ImageNet."""

    shorts: Sides = Field(tuple(range(480, 801, 32)), description="short sides that are drawn from; 0 leaves the size")
    long: int = Field(1333, ge=1, description="longest side")
    crops: bool = Field(True, description="half of the images are cropped to 384 to 600 a side before they are resized")
    crop: int = Field(0, ge=0, description="side of a crop that all images get in the end; 0: none")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirrored image")
    turns: bool = Field(False, description="quarter turns, for images without an up")
    anchors: int = Field(256, ge=1, description="anchors an image that proposals are learned from")
    regions: int = Field(512, ge=1, description="boxes an image that each head learns from")
    before: int = Field(2000, ge=1, description="proposals a level before suppression")
    after: int = Field(2000, ge=1, description="proposals of an image after suppression")
    distill_weight: Distilled = 0.5

    @property
    def sampling(self) -> dict[str, int]:
        """What of an image is learned from, as `heads.regions.Sampling` has it."""
        return {name: getattr(self, name) for name in ("anchors", "regions", "before", "after")}


THREE = DetectionRecipe(
    epochs=36,
    batch=16,
    lr=1e-4,
    lr_batch=16,
    min_lr=0,
    warmup_epochs=0,
    warmup_updates=500,
    warmup_lr=1e-7,
    schedule="multistep",
    milestones=(27, 33),
    no_decay="norms",
    drop_path=0.2,
    start="dense",
    source="Swin's detection code, as STViT-R's (arXiv 2303.08685); drop_path=0.3 for B",
)
MINI = DetectionRecipe(
    epochs=5,
    updates=400,
    batch=6,
    lr=1.5e-3,
    lr_batch=6,
    min_lr=0,
    warmup_epochs=0,
    warmup_updates=40,
    clip_grad=5,
    drop_path=0.1,
    shorts=(0,),
    crops=False,
    crop=112,
    turns=True,
    anchors=128,
    regions=32,
    before=400,
    after=150,
    source="tokenbench: from nothing in a few minutes of one core, on small images of small objects",
)
DETECTION: Mapping[str, DetectionRecipe] = {
    "3x": THREE,
    "1x": THREE.change({"epochs": 12, "milestones": (8, 11), "source": "Swin's detection code"}),
    "mini": MINI,
    "smoke": MINI.change({"updates": 120, "warmup_updates": 10, "batch": 4, "source": "tokenbench: for its tests"}),
}


class SegmentationRecipe(Learning):
    """A recipe of segmentation; the defaults are those of Swin's UPerNet, 160,000 updates of ADE20K from ImageNet."""

    short: int = Field(
        512, ge=0, description="short side of an image before it is resized at random; 0 leaves its size"
    )
    long: int = Field(2048, ge=1, description="longest side before that")
    low: float = Field(0.5, gt=0, description="least ratio that an image is resized by")
    high: float = Field(2.0, gt=0, description="largest ratio")
    crop: int = Field(512, ge=8, description="side of a crop")
    most: float = Field(0.75, gt=0, le=1, description="share of a crop that one class may fill")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirrored image")
    photometric: float = Field(0.5, ge=0, le=1, description="strength of changes of contrast and colour; 0: none")
    distill_weight: Distilled = 0.5


LONG = SegmentationRecipe(
    epochs=127,
    updates=160_000,
    batch=16,
    lr=6e-5,
    lr_batch=16,
    min_lr=0,
    warmup_epochs=0,
    warmup_updates=1500,
    warmup_lr=1e-6,
    schedule="poly",
    weight_decay=0.01,
    no_decay="norms",
    drop_path=0.3,
    start="dense",
    source="Swin's segmentation code; STViT-R (arXiv 2303.08685) has 240k updates",
)
SEGMENTATION: Mapping[str, SegmentationRecipe] = {
    "160k": LONG,
    "240k": LONG.change(
        {"updates": 240_000, "epochs": 190, "source": "STViT-R (arXiv 2303.08685), the rest as Swin's"}
    ),
    "mini": LONG.change(
        {
            **{"updates": 170, "epochs": 3, "batch": 8, "lr": 1.5e-3, "lr_batch": 8, "warmup_updates": 30},
            **{"no_decay": "vectors", "drop_path": 0.1, "start": "scratch", "short": 0, "low": 1.0, "high": 1.0},
            **{"crop": 112, "most": 1.0, "photometric": 0.0},
            "source": "tokenbench: from nothing in a minute of one core, on small images",
        }
    ),
}
