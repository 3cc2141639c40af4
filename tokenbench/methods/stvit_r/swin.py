"""STViT-R in Swin: the backbones whose third stage works on semantic tokens, for one image size and for any.

arXiv 2303.08685; parameters are named as in the released weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.anysize import PaddedTurn, whole_patches
from tokenbench.backbones.swin import STAGE, Swin, halved, patches
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.stvit_r.blocks import (
    Alone,
    Generating,
    Recovering,
    Refining,
    ScaledTurn,
    Scales,
    Semantic,
    Stem,
)
from tokenbench.methods.stvit_r.dense import DenseGenerating, DenseRecovering, DenseRefining

UNIT = 6  # blocks: plain, generate, refine, within windows, among all, recover


@dataclass(frozen=True)
class Options:
    """What of the setting decides its modules and their work; `STViTR` says what each means."""

    side: int  # semantic tokens along a window
    use_global: bool = False
    conv_pos: bool = False
    relative_pos: bool = False
    layer_scale: bool = False
    shortcut: bool = False


class Stage(nn.Module):
    """Patch merging and the blocks of a stage."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Any], scaled: bool, centres: Tensor | None) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.scales = nn.ModuleList(Scales(block.dim) for block in blocks) if scaled else None
        self.semantic_token2 = None if centres is None else nn.Parameter(centres)


class Parts(nn.Module):
    """A Swin's own modules, the patch embedding and most blocks of the third stage replaced."""

    def __init__(self, swin: Any, options: Options) -> None:
        super().__init__()
        self.in_chans, self.num_classes = swin.in_chans, swin.num_classes
        self.pretrained_cfg = getattr(swin, "pretrained_cfg", {})
        self.patch_embed = Stem(swin.patch_embed.img_size, swin.in_chans, swin.embed_dim)
        side, (rows, cols) = options.side, _windows(swin)
        whole = (rows * side, cols * side)
        stages = []
        for i, stage in enumerate(swin.layers):
            blocks, centres = list(stage.blocks), None
            if i == STAGE:
                for j, block in enumerate(blocks):
                    places = {3: (side, side), 4: whole}.get(j % UNIT) if options.relative_pos else None
                    if j % UNIT:
                        blocks[j] = _semantic(block, places, options.conv_pos and j % UNIT == 1)
                if options.use_global:
                    centres = nn.init.trunc_normal_(torch.zeros(1, whole[0] * whole[1], stage.blocks[0].dim), std=0.02)
            stages.append(Stage(stage.downsample, blocks, options.layer_scale and i != STAGE, centres))
        self.layers = nn.ModuleList(stages)
        self.norm, self.head = swin.norm, swin.head


class RecoveringSwin(Swin):
    """A Swin whose third stage works on semantic tokens."""

    def __init__(self, swin: Backbone, options: Options) -> None:
        self.name = swin.name
        self.options = options
        self.vit = Parts(swin.vit, options)

    def __new__(cls, swin: Backbone, options: Options) -> RecoveringSwin:  # type: ignore[misc]
        """An adapter around another."""
        return object.__new__(cls)

    @property
    def dim(self) -> int:
        """Width C of the first stage."""
        width: int = self.vit.layers[0].blocks[0].dim
        return width

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """Swin's own turn, but in the third stage."""
        place = index - sum(self.stages[:STAGE])
        if 0 <= place < self.stages[STAGE] and place % UNIT:
            stage = self.vit.layers[STAGE]
            return self.semantic(stage.blocks[place], place, stage.blocks[0].window_size)
        turn = super().turn(index, reducers, proportional)
        return self._scaled(index, turn) if self.options.layer_scale else turn

    def semantic(self, block: Semantic, place: int, window: tuple[int, int]) -> Block:
        """The turn of a semantic block at a place in the third stage, whose windows have that size."""
        side = self.options.side
        match place % UNIT:
            case 1:
                return Generating(block, window=window, side=side, residual=self.options.shortcut)
            case 2:
                return Refining(block, centres=self.vit.layers[STAGE].semantic_token2 if place == 2 else None)
            case 3:
                return Alone(block, window=(side, side))
            case 4:
                return Alone(block, window=None)
            case _:
                return Recovering(block)

    def _scaled(self, index: int, turn: Any) -> Block:
        """The turn with LayerScale where the stage has it: everywhere but in the third."""
        for stage in self.vit.layers:
            if index < len(stage.blocks):
                block, merging = turn.borrowed
                return turn if stage.scales is None else ScaledTurn(block, merging, turn.halvings, stage.scales[index])
            index -= len(stage.blocks)
        raise IndexError(index)


class AnySizeRecoveringSwin(RecoveringSwin):
    """The same modules on images of any size: generation and recovery look at neighbourhoods of each window.

    Windows of w tokens look at 2w x 2w and then 3w x 3w image tokens, and recover from the semantic tokens of 9 x 9
    windows, as in the published detection backbone.
    """

    def __init__(self, swin: RecoveringSwin) -> None:
        self.name, self.options, self.vit = swin.name, swin.options, swin.vit

    def __new__(cls, swin: RecoveringSwin) -> AnySizeRecoveringSwin:  # type: ignore[misc]
        """An adapter around the same modules."""
        return object.__new__(cls)

    def step(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer]) -> Block:
        """A Swin block that pads its map."""
        return PaddedTurn(block, merging, halvings, reducers)

    def semantic(self, block: Semantic, place: int, window: tuple[int, int]) -> Block:
        """The turn of a semantic block on a map of any size."""
        dense = {1: DenseGenerating, 2: DenseRefining, 5: DenseRecovering}.get(place % UNIT)
        if dense is None:
            return super().semantic(block, place, window)
        return dense(block, window=window[0], side=self.options.side)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W), padded with zeros to whole patches of 4."""
        return patches(self.vit.patch_embed(whole_patches(images, (4, 4))))


def _semantic(block: Any, side: tuple[int, int] | None, conv_pos: bool) -> Semantic:
    rate = getattr(block.drop_path1, "drop_prob", 0.0)
    made = Semantic(block.dim, block.attn.num_heads, block.mlp.fc1.out_features, rate, side, conv_pos)
    made.attn.fused_attn = block.attn.fused_attn  # both run alike
    return made


def _windows(swin: Any) -> tuple[int, int]:
    """Rows and columns of windows in the third stage."""
    block = swin.layers[STAGE].blocks[0]
    (rows, cols), (height, width) = halved(swin.patch_embed.grid_size, STAGE), block.window_size
    return rows // height, cols // width
