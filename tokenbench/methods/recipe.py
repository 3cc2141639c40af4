"""How a classifier is trained: every value of a run that is not the data, the backbone or the machine."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tokenbench.methods.learning import Learning


class Recipe(Learning):
    """A recipe of classification; the defaults are DeiT's (arXiv 2012.12877, table 9), 300 epochs from scratch."""

    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing")
    mixup: float = Field(0.8, ge=0, description="alpha of mixup; 0 turns it off")
    cutmix: float = Field(1.0, ge=0, description="alpha of CutMix; 0 turns it off")
    auto_augment: str = Field("rand-m9-mstd0.5-inc1", description="timm's RandAugment or AutoAugment policy, or none")
    color_jitter: float = Field(0.3, ge=0, description="colour jitter where there is no auto_augment")
    erasing: float = Field(0.25, ge=0, le=1, description="probability of random erasing")
    repeats: int = Field(3, ge=1, description="repeated augmentation: how often an image is drawn in an epoch")
    crop: float = Field(0.08, gt=0, le=1, description="smallest share of the image that a random crop takes")
    flip: float = Field(0.5, ge=0, le=1, description="probability of a mirrored image")
    distill: Literal["none", "soft", "hard", "feature"] = Field(
        "none",
        description="what is learnt from the teacher beside the method's own losses: its softmax, guess or tokens",
    )
    distill_weight: float = Field(1.0, ge=0, description="of that term")
    temperature: float = Field(1.0, gt=0, description="of the softmax in distill=soft")

    @model_validator(mode="after")
    def _taught(self) -> Self:
        if self.distill != "none" and self.teacher == "none":
            raise ValueError(f"distill={self.distill} needs a teacher; add teacher=dense")
        return self


DEIT = Recipe()
FINETUNE = Recipe(
    epochs=30,
    lr=2e-5,
    min_lr=1e-6,
    warmup_epochs=0,
    weight_decay=1e-6,
    start="dense",
    source="EViT's fine-tuning (arXiv 2202.07800), augmentation as DeiT's",
)
