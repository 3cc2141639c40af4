"""What every recipe has, whatever is trained: how long, how fast, and from where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tokenbench.errors import BadSetting


def _patterns(value: Any) -> Any:
    """On the command line a list of names is written a/b."""
    return tuple(filter(None, value.split("/"))) if isinstance(value, str) else value


class Learning(BaseModel):
    """How long, how fast, and from where; a task's own recipe adds to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(
        300, gt=0, allow_inf_nan=False, description="passes over the training images; may be a fraction"
    )
    batch: int = Field(1024, ge=1, description="images an update, over all processes and accumulated passes")
    lr: float = Field(5e-4, gt=0, description="highest learning rate at a batch of lr_batch; scaled with the batch")
    lr_batch: int = Field(512, ge=1, description="the batch that lr is meant for")
    min_lr: float = Field(1e-5, ge=0, description="learning rate at the end")
    warmup_epochs: float = Field(5, ge=0, description="epochs over which the learning rate rises linearly")
    warmup_lr: float = Field(1e-6, ge=0, description="learning rate at the start of the warm-up")
    schedule: str = Field("cosine", description="timm's name of the schedule")
    optimizer: str = Field("adamw", description="timm's name of the optimizer")
    milestones: Annotated[tuple[float, ...], BeforeValidator(_patterns)] = Field(
        (90, 180, 270), description="epochs after which schedule=multistep takes a tenth of the learning rate"
    )
    updates: int = Field(0, ge=0, description="updates in all, in place of epochs; 0: as epochs say")
    warmup_updates: int = Field(0, ge=0, description="of them in the warm-up, in place of warmup_epochs")
    weight_decay: float = Field(0.05, ge=0, description="of matrices; biases and norms have none")
    no_decay: Literal["vectors", "norms"] = Field(
        "vectors",
        description="what weight decay leaves out: biases and norms, or norms only, as Swin's detectors have it",
    )
    layer_scale_init: float = Field(0.0, ge=0, description="of all LayerScale; 0: as the method has it")
    clip_grad: float = Field(0.0, ge=0, description="largest norm of the gradient; 0 does not clip")
    drop_path: float = Field(
        0.1, ge=0, lt=1, description="stochastic depth of the last block, falling to 0 in the first"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the averaged weights, which are kept then; 0 averages none"
    )
    start: Literal["scratch", "dense"] = Field("scratch", description="what the backbone starts from")
    teacher: Literal["none", "dense"] = Field("none", description="the frozen model whose outputs losses may use")
    backbone_lr: float = Field(1.0, ge=0, description="factor on the learning rate of what the method did not add")
    backbone_wait: float = Field(0.0, ge=0, description="epochs during which that factor is 0")
    frozen: Annotated[tuple[str, ...], BeforeValidator(_patterns)] = Field(
        (), description="parameters of the backbone that stay as they are, by name (cls_token/pos_embed)"
    )
    knobs: Mapping[str, Any] = Field({}, description="knobs of the method that this recipe sets where they are default")
    source: str = Field("arXiv 2012.12877", description="where these values are from")

    @model_validator(mode="after")
    def _warm(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs={self.warmup_epochs:g} must be fewer than epochs={self.epochs:g}")
        return self

    def change(self, values: Mapping[str, Any]) -> Self:
        """This recipe with other values, as text or as numbers; raises `BadSetting` in one sentence."""
        unknown = next((key for key in values if key not in type(self).model_fields), None)
        if unknown is not None:
            raise BadSetting(f"A recipe has no '{unknown}'; it has {', '.join(type(self).model_fields)}.")
        try:
            return type(self).model_validate({**self.model_dump(), **values})
        except ValidationError as error:
            first = error.errors()[0]
            what = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            if not first["loc"]:
                raise BadSetting(f"The recipe is not allowed: {what}.") from None
            raise BadSetting(f"recipe: {first['loc'][0]}={first['input']} is not allowed, it {what}.") from None

    def told(self) -> dict[str, Any]:
        """The values that tell it from others: how long it is, and those that are not of its kind's first."""
        own = self.model_dump(exclude_defaults=True, exclude={"source", "knobs"})
        return {"epochs": self.epochs, **own, **{f"{key} of the method": value for key, value in self.knobs.items()}}

    @property
    def scaled_lr(self) -> float:
        """The highest learning rate at this batch, by the linear rule."""
        return self.lr * self.batch / self.lr_batch
