"""A control: dense Swin with STViT-R's stem, so that what the stem gives is not taken for what the tokens give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.anysize import PaddedTurn, whole_patches
from tokenbench.backbones.swin import Swin, patches
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Method, Paper
from tokenbench.methods.stvit_r.blocks import Stem


class Parts(nn.Module):
    """A Swin's own modules, but for the patch embedding."""

    def __init__(self, swin: Any) -> None:
        super().__init__()
        self.in_chans, self.num_classes, self.embed_dim = swin.in_chans, swin.num_classes, swin.embed_dim
        self.pretrained_cfg = getattr(swin, "pretrained_cfg", {})
        self.patch_embed = Stem(swin.patch_embed.img_size, swin.in_chans, swin.embed_dim)
        self.layers, self.norm, self.head = swin.layers, swin.norm, swin.head


class StemmedSwin(Swin):
    """A Swin with a convolutional stem."""

    def __init__(self, swin: Backbone) -> None:
        self.name, self.vit = swin.name, Parts(swin.vit)

    def __new__(cls, swin: Backbone) -> StemmedSwin:  # type: ignore[misc]
        """An adapter around another."""
        return object.__new__(cls)


class AnySizeStemmedSwin(StemmedSwin):
    """The same modules on images of any size."""

    def __init__(self, swin: StemmedSwin) -> None:
        self.name, self.vit = swin.name, swin.vit

    def __new__(cls, swin: StemmedSwin) -> AnySizeStemmedSwin:  # type: ignore[misc]
        """An adapter around the same modules."""
        return object.__new__(cls)

    def step(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer]) -> Block:
        """A Swin block that pads its map."""
        return PaddedTurn(block, merging, halvings, reducers)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W), padded with zeros to whole patches of 4."""
        return patches(self.vit.patch_embed(whole_patches(images, (4, 4))))


class ConvStem(Method):
    """Dense Swin with the convolutional stem of STViT-R, a control: no token is saved."""

    name = "convstem"
    paper: ClassVar[Paper | None] = Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View", "2303.08685", "CVPR 2023"
    )
    held: ClassVar[str] = "the stem of `stvit_r`, the rest of `dense`"
    trained: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    control: ClassVar[bool] = True

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """None."""
        return {}

    def supports(self, vit: Backbone) -> str | None:
        """Needs a Swin of patches of 4x4."""
        if not isinstance(vit, Swin):
            return "it is a control for stvit_r on Swin, and this is no Swin"
        size = tuple(vit.vit.patch_embed.patch_size)
        return None if size == (4, 4) else f"its patch embedding makes patches of 4x4, and this one's are {size}"

    def wrap(self, vit: Backbone) -> Backbone:
        """The Swin with another patch embedding."""
        return StemmedSwin(vit)

    def pyramid(self, vit: Backbone) -> Backbone:
        """The same stages on images of any size."""
        return AnySizeStemmedSwin(vit) if isinstance(vit, StemmedSwin) else super().pyramid(vit)
