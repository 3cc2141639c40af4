"""Backbones on images of any size, as detectors run them: plain ViTs, and Swin padded to whole windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tokenbench.backbones.swin import Swin, SwinTurn, laid, patches, shifted
from tokenbench.backbones.vit import ViT
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
        return self.mlp(tokens.with_x(self.attended(tokens)))

    def attended(self, tokens: Tokens) -> Tensor:
        """(B, N, C) after attention within windows of the padded map, and its residual."""
        block, (rows, cols) = self.borrowed[0], laid(tokens)
        unmeddled(block, block.attn)
        window = block.attn.window_size
        y, padded = filled(block.norm1(tokens.x).unflatten(1, (rows, cols)), window)
        out = shifted(block.attn, y.flatten(1, 2), padded, window, any(block.target_shift_size), always=True)
        x: Tensor = tokens.x + block.drop_path1(out.unflatten(1, padded)[:, :rows, :cols].flatten(1, 2))
        return x


class AnySizeSwin(Swin):
    """A Swin whose images may have any size, each batch another; its weights are used in place."""

    def step(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer]) -> Block:
        """A block that pads its map."""
        return PaddedTurn(block, merging, halvings, reducers)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W), padded with zeros to whole patches."""
        embed = self.vit.patch_embed
        return patches(embed.norm(embed.proj(whole_patches(images, embed.patch_size)).permute(0, 2, 3, 1)))


class AnySizeViT(ViT):
    """A plain ViT whose images may have any size: its position embeddings are resampled for each."""

    def __new__(cls, vit: nn.Module, name: str | None = None) -> AnySizeViT:
        """An adapter of the same model."""
        return object.__new__(cls)

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of images (B, channels, H, W), padded with zeros to whole patches."""
        vit = self.vit
        x = vit.patch_embed.proj(whole_patches(images, vit.patch_embed.patch_size))
        grid = (int(x.shape[2]), int(x.shape[3]))
        x = vit.patch_embed.norm(x.flatten(2).transpose(1, 2))
        first = [token.expand(len(x), -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
        if vit.pos_embed is not None:
            prefix = 0 if vit.no_embed_class else self.prefix
            old = (int(vit.patch_embed.grid_size[0]), int(vit.patch_embed.grid_size[1]))
            places = resample_abs_pos_embed(vit.pos_embed, list(grid), list(old), prefix)
            x = x + places if not prefix else x + places[:, prefix:]
            first = [torch.cat(first, dim=1) + places[:, :prefix]] if prefix and first else first
        x = torch.cat([*first, x], dim=1)
        return Tokens(vit.norm_pre(vit.patch_drop(vit.pos_drop(x))), self.prefix, grid, layout=grid)


def whole_patches(images: Tensor, patch: Pair) -> Tensor:
    """Images (B, channels, H, W) with zeros below and to the right, so that patches divide them."""
    height, width = images.shape[2:]
    return F.pad(images, (0, -width % patch[1], 0, -height % patch[0]))


def filled(grid: Tensor, window: Pair) -> tuple[Tensor, Pair]:
    """A map (B, rows, columns, C) with zeros below and to the right, so that windows divide it, and its size."""
    rows, cols = grid.shape[1:3]
    below, right = -rows % window[0], -cols % window[1]
    return F.pad(grid, (0, 0, 0, right, 0, below)), (rows + below, cols + right)
