"""Swin on images of any size, as detection backbones run it: padded to whole windows in every block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from tokenbench.backbones.swin import Swin, SwinTurn, laid, patches, shifted
from tokenbench.core.block import Block, Reducer
from tokenbench.core.borrowed import unmeddled
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair


class PaddedTurn(SwinTurn):
    """A Swin block on a map of any size, with the masks of its shifted windows made for that size.

    As in the detection code of Swin, the map is padded with zeros after the LayerNorm and before windows are shifted,
    and these are shifted along sides of one window too. timm pads after shifting and leaves a single window alone,
    so the two differ where windows do not divide the map, and in a stage of one window.
    """

    def whole(self, tokens: Tokens) -> Tokens:
        """The block, by its parts."""
        block, (rows, cols) = self.borrowed[0], laid(tokens)
        unmeddled(block, block.attn)
        window = block.attn.window_size
        y, padded = filled(block.norm1(tokens.x).unflatten(1, (rows, cols)), window)
        out = shifted(block.attn, y.flatten(1, 2), padded, window, any(block.target_shift_size), always=True)
        out = out.unflatten(1, padded)[:, :rows, :cols].flatten(1, 2)
        return self.mlp(tokens.with_x(tokens.x + block.drop_path1(out)))


class AnySizeSwin(Swin):
    """A Swin whose images may have any size, each batch another; its weights are used in place."""

    def step(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer]) -> Block:
        """A block that pads its map."""
        return PaddedTurn(block, merging, halvings, reducers)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W), padded with zeros to whole patches."""
        embed = self.vit.patch_embed
        return patches(embed.norm(embed.proj(whole_patches(images, embed.patch_size)).permute(0, 2, 3, 1)))


def whole_patches(images: Tensor, patch: Pair) -> Tensor:
    """Images (B, channels, H, W) with zeros below and to the right, so that patches divide them."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % patch[1], 0, -height % patch[0]))


def filled(grid: Tensor, window: Pair) -> tuple[Tensor, Pair]:
    """A map (B, rows, columns, C) with zeros below and to the right, so that windows divide it, and its size."""
    rows, cols = grid.shape[1:3]
    below, right = -rows % window[0], -cols % window[1]
    return F.pad(grid, (0, 0, 0, right, 0, below)), (rows + below, cols + right)
