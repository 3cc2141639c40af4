"""STViT-R's blocks for maps of any size, as detection and segmentation need them (arXiv 2303.08685).

Maps are padded to whole windows, and windows look at neighbourhoods that may reach over the border. Places there are
zero before the LayerNorm and stay among the keys unless hidden, as in the published backbone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenbench.backbones.anysize import filled
from tokenbench.backbones.swin import laid
from tokenbench.core.pooling import bins
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair, cut, lay
from tokenbench.methods.stvit_r.blocks import Semantic, Turn, image_of
from tokenbench.methods.stvit_r.grouped import HIDDEN, grouped


def generate(
    block: Semantic,
    x: Tensor,
    layout: Pair,
    window: int,
    side: int,
    reach: int,
    queries: Tensor | None = None,
    hide: bool = False,
) -> Tensor:
    """Semantic tokens (B, rows * columns, C), `side` x `side` a window of the padded map, row by row.

    Args:
        block: its weights.
        x: (B, N, C) image tokens.
        layout: their rows and columns, of any size.
        window: image tokens along a window.
        side: semantic tokens along a window.
        reach: image tokens along a window's neighbourhood, its keys.
        queries: semantic tokens that ask, in place of pooled centres.
        hide: hide keys over the border, and padded ones the way the published code does when told to: only where
            padded rows and columns meet, and along the whole of an axis that has no padding.
    """
    padded, whole = _sizes(layout, window, side)
    asking = _pooled(filled(x.unflatten(1, layout), (window, window))[0], window, side) if queries is None else queries
    if block.conv_pos is not None:
        asking = lay(block.conv_pos(cut(asking, whole, (side, side)), (side, side)), whole, (side, side))
    hidden = (padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    grid = x.unflatten(1, layout)
    if block.published:
        asked = cut(asking, whole, (side, side))
        out = _gathered(block, asked, filled(grid, (window, window))[0], window, reach, hidden)
        out = lay(out, whole, (side, side))
    else:
        out = grouped(block, asking.unflatten(1, whole), grid, side, window, reach, hidden)
    return block.think(asking + block.drop_path(out))


def recover(
    block: Semantic,
    x: Tensor,
    layout: Pair,
    semantic: Tensor,
    window: int,
    side: int,
    reach: int,
    hide: bool = False,
) -> Tensor:
    """Image tokens (B, N, C), each window of which has looked at its neighbourhood of the semantic map.

    Args:
        block: its weights.
        x: (B, N, C) image tokens.
        layout: their rows and columns, of any size.
        semantic: (B, M, C) semantic tokens of the padded map, row by row.
        window: image tokens along a window.
        side: semantic tokens along a window.
        reach: semantic tokens along a neighbourhood.
        hide: as in `generate`; the published code counts padded image tokens on the semantic map.
    """
    padded, whole = _sizes(layout, window, side)
    hidden = (padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    grid, keys = x.unflatten(1, layout), semantic.unflatten(1, whole)
    if block.published:
        asked = cut(filled(grid, (window, window))[0].flatten(1, 2), padded, (window, window))
        out = lay(_gathered(block, asked, keys, side, reach, hidden), padded, (window, window))
        out = out.unflatten(1, padded)[:, : layout[0], : layout[1]].flatten(1, 2)
    else:
        out = grouped(block, grid, keys, window, side, reach, hidden)
    return block.think(x + block.drop_path(out))


def _sizes(layout: Pair, window: int, side: int) -> tuple[Pair, Pair]:
    """Rows and columns of the map of whole windows, and of its semantic tokens."""
    rows, cols = (-(-length // window) for length in layout)
    return (rows * window, cols * window), (rows * side, cols * side)


def _pooled(grid: Tensor, window: int, side: int) -> Tensor:
    """Centres (B, windows * side * side, C) of a map (B, rows, columns, C), row by row, by adaptive max pooling in each
    window; along rows and then along columns, for which nothing has to be laid out anew.
    """
    x = grid.unflatten(2, (-1, window)).unflatten(1, (-1, window))
    x = torch.stack([x[:, :, places].amax(2) for places in bins(window, side)], dim=2)
    x = torch.stack([x[:, :, :, :, places].amax(4) for places in bins(window, side)], dim=4)
    return x.flatten(1, 4)


def _gathered(block: Semantic, asking: Tensor, grid: Tensor, step: int, reach: int, corner: Pair | None) -> Tensor:
    """What each window (B * W, m, C) finds in its neighbourhood of a map (B, rows, columns, C), `step` apart.

    Keys and values are projected once, not again in each neighbourhood; so is the zero over the border.
    """
    index = _neighbourhoods((grid.shape[1], grid.shape[2]), step, reach, grid.device)
    keys = torch.cat([grid.flatten(1, 2), grid.new_zeros(grid.shape[0], 1, grid.shape[3])], dim=1)
    kv = block.attn.kv(block.norm1(keys))[:, index].flatten(0, 1)  # (B * W, reach * reach, 2C)
    bias = None
    if corner is not None:
        hidden = grid.new_zeros(grid.shape[1], grid.shape[2])
        hidden[-corner[0] :, -corner[1] :] = HIDDEN  # 0 means all of them
        beyond = F.pad(hidden.flatten(), (0, 1), value=HIDDEN)[index]  # (W, reach * reach)
        bias = beyond.repeat(grid.shape[0], 1)[:, None, None, :]
    out: Tensor = block.layer_scale_1 * block.attn.mix(block.norm1(asking), kv, bias)[0]
    return out


def _neighbourhoods(layout: Pair, step: int, reach: int, device: torch.device) -> Tensor:
    """Places (W, reach * reach) on a map of the squares around its windows; over the border rows * columns."""
    before = (reach - step) // 2
    spans = []
    for length in layout:
        starts = torch.arange(length // step, device=device) * step - before
        spans.append(starts[:, None] + torch.arange(reach, device=device))  # (windows, reach)
    rows, cols = spans[0][:, None, :, None], spans[1][None, :, None, :]
    inside = (rows >= 0) & (rows < layout[0]) & (cols >= 0) & (cols < layout[1])
    places = torch.where(inside, rows * layout[1] + cols, layout[0] * layout[1])
    return places.flatten(2).flatten(0, 1)


class DenseGenerating(Turn):
    """Image tokens step back as the context of the semantic tokens made from them, whatever the size of their map."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens of the padded map."""
        layout, window, side = laid(tokens), self.options["window"], self.options["side"]
        x = generate(self.borrowed[0], tokens.x, layout, window, side, 2 * window, hide=True)
        return tokens.ask(x, tokens, layout=(-(-layout[0] // window) * side, -(-layout[1] // window) * side))


class DenseRefining(Turn):
    """Semantic tokens look at a larger neighbourhood of the image."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens, the image still beside them."""
        image, window = image_of(tokens), self.options["window"]
        block, side = self.borrowed[0], self.options["side"]
        return tokens.with_x(generate(block, image.x, laid(image), window, side, 3 * window, tokens.x, hide=True))


class DenseRecovering(Turn):
    """The image tokens take from the semantic ones around them and go on alone."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Image tokens."""
        image, window, side = image_of(tokens), self.options["window"], self.options["side"]
        x = recover(self.borrowed[0], image.x, laid(image), tokens.x, window, side, 9 * side, hide=True)
        return image.with_x(x)
