"""What the block loop needs of a backbone, whatever its family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenbench.core import registry
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported


class Backbone:
    """A timm model as the block loop sees it.

    `Backbone(model)` gives the adapter of the model's family, as `pathlib.Path` gives a path of the system's kind.

    Args:
        vit: the timm model, used in place.
        name: what to call it in messages and rows.

    Raises:
        Unsupported: no family serves this model; the message says what differs.
    """

    family: ClassVar[str]
    served: ClassVar[str]  # timm's class of models
    families: ClassVar[list[type[Backbone]]] = []
    class_names: tuple[str, ...] | None = None  # what the weights call their classes, where they say it
    placed: ClassVar[bool] = False  # whether blocks read where each token lies, so that merged ones would lie nowhere
    windowed: ClassVar[bool] = False  # whether blocks attend within windows, which need all tokens of a grid
    clips: ClassVar[bool] = False  # whether it takes clips (B, channels, frames, H, W) in place of images

    def __init_subclass__(cls) -> None:
        if "family" in vars(cls):
            Backbone.families.append(cls)

    def __new__(cls, vit: nn.Module, name: str | None = None) -> Backbone:
        """An adapter of the family that serves this model."""
        if cls is not Backbone:
            return object.__new__(cls)
        registry.installed("tokenbench.backbones")  # which register themselves
        for family in cls.families:
            if family.knows(vit):
                return object.__new__(family)
        what = " or ".join(family.served for family in cls.families)
        raise Unsupported(
            f"{name or type(vit).__name__} cannot be served: {type(vit).__name__} is not a timm {what}. "
            "See `tokenbench list --backbones`."
        )

    def __reduce__(self) -> Any:  # copies take no arguments
        return object.__new__, (type(self),), self.__dict__

    def __init__(self, vit: nn.Module, name: str | None = None) -> None:
        self.name = name or type(vit).__name__
        reason = self.refusal(vit)
        if reason:
            raise Unsupported(f"{self.name} cannot be served: {reason}. See `tokenbench list --backbones`.")
        self.vit: Any = vit
        self.pixels: dict[str, Any] = {}  # mean, std, crop_pct and interpolation, where other than the model's own

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """Whether a model is of this family, served or not."""
        raise NotImplementedError

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Why a model cannot be served, as a clause; None if it can."""
        raise NotImplementedError

    @property
    def dim(self) -> int:
        """Width C of the first block."""
        return int(self.vit.embed_dim)

    @property
    def prefix(self) -> int:
        """Number of class, distillation and register tokens."""
        return 0

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return False

    @property
    def distilled(self) -> bool:
        """Whether a second head reads a distillation token."""
        return False

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.vit.blocks)

    def pooled(self) -> Backbone:
        """The same model, with a head that reads the norm of the mean of its patches.

        Raises:
            Unsupported: the family has none.
        """
        raise Unsupported(f"{self.name} has no head that reads the mean of its patches; give a plain ViT.")

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """One turn of the loop: block `index`, with what reduces tokens in it."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of images (B, channels, H, W)."""
        raise NotImplementedError

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C)."""
        raise NotImplementedError

    @property
    def patch_head(self) -> nn.Module | None:
        """The head that reads the features of patches besides the one that reads the image's; None without one."""
        return None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the model's own image size."""
        rows, cols = self.vit.patch_embed.grid_size
        return int(rows), int(cols)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width = self.vit.patch_embed.img_size
        return int(self.vit.in_chans), int(height), int(width)

    @property
    def shape(self) -> tuple[int, ...]:
        """What a model takes: channels, height and width of an image; of a clip frames come after channels."""
        return self.input_size

    @property
    def unseen(self) -> str | None:
        """What of an image no patch covers, as a clause; None if all is seen."""
        embed = self.vit.patch_embed
        if embed.dynamic_img_pad:
            return None
        left = [side % patch for side, patch in zip(self.input_size[1:], embed.patch_size, strict=True)]
        if not any(left):
            return None
        rows, cols = self.grid
        best = "x".join(str(side - rest) for side, rest in zip(self.input_size[1:], left, strict=True))
        return (
            f"images of {self.input_size[1]}x{self.input_size[2]} make {rows}x{cols} patches of {embed.patch_size[0]} "
            f"pixels, which leave the last {left[0]} rows and {left[1]} columns unseen; --image-size {best} sees all"
        )

    @property
    def config(self) -> dict[str, Any]:
        """timm's `pretrained_cfg`, with the input size the model has now; only that of a model not made by timm."""
        return {**getattr(self.vit, "pretrained_cfg", {}), "input_size": self.input_size}
