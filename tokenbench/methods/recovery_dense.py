"""STViT-R's blocks for maps of any size, as detection and segmentation need them (arXiv 2303.08685).

Maps are padded to whole windows, and windows look at neighbourhoods that may reach over the border. Places there are
zero before the LayerNorm and stay among the keys unless hidden, as in the published backbone.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from tokenbench.methods.recovery import Semantic
from tokenbench.windows import Pair, cut, lay

HIDDEN = -1000.0  # added to the logits of hidden keys


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
    padded, grid = _padded(x, layout, window)
    whole = (padded[0] // window * side, padded[1] // window * side)
    if queries is None:
        windows = cut(grid.flatten(2).transpose(1, 2), padded, (window, window))
        centres = F.adaptive_max_pool2d(windows.transpose(1, 2).unflatten(2, (window, window)), side)
        asking = centres.flatten(2).transpose(1, 2)
    else:
        asking = cut(queries, whole, (side, side))
    if block.conv_pos is not None:
        asking = block.conv_pos(asking, (side, side))
    hidden = _corner(grid, padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    out = _look(block, asking, grid, window, reach, hidden)
    return block.think(lay(asking + out, whole, (side, side)))


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
    padded, grid = _padded(x, layout, window)
    whole = (padded[0] // window * side, padded[1] // window * side)
    keys = semantic.transpose(1, 2).unflatten(2, whole)
    asking = cut(grid.flatten(2).transpose(1, 2), padded, (window, window))
    hidden = _corner(keys, padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    out = lay(_look(block, asking, keys, side, reach, hidden), padded, (window, window))
    out = out.unflatten(1, padded)[:, : layout[0], : layout[1]].flatten(1, 2)
    return block.think(x + block.drop_path(out))


def _look(block: Semantic, asking: Tensor, grid: Tensor, step: int, reach: int, hidden: Tensor | None) -> Tensor:
    """What each window (B * W, m, C) finds in its neighbourhood of a map (B, C, rows, columns), `step` apart."""
    keys = _neighbourhoods(grid, step, reach).unflatten(1, (grid.shape[1], -1)).transpose(1, 2)
    bias = None
    if hidden is not None:
        bias = _neighbourhoods(hidden, step, reach, HIDDEN)[:, None, None, :]
    return block.look(asking, keys, bias)[0]


def _neighbourhoods(grid: Tensor, step: int, reach: int, beyond: float = 0.0) -> Tensor:
    """(B * W, C * reach * reach) patches of a map, with `beyond` over its border."""
    before = (reach - step) // 2
    after = reach - step - before
    patches = F.unfold(F.pad(grid, (before, after, before, after), value=beyond), reach, stride=step)
    return patches.transpose(1, 2).flatten(0, 1)


def _padded(x: Tensor, layout: Pair, window: int) -> tuple[Pair, Tensor]:
    """Rows and columns of whole windows, and the map (B, C, rows, columns) with zeros below and to the right."""
    below, right = -layout[0] % window, -layout[1] % window
    grid = F.pad(x.transpose(1, 2).unflatten(2, layout), (0, right, 0, below))
    return (layout[0] + below, layout[1] + right), grid


def _corner(grid: Tensor, below: int, right: int) -> Tensor:
    """(B, 1, rows, columns) `HIDDEN` in the last `below` rows of the last `right` columns; 0 means all of them."""
    hidden = grid.new_zeros(grid.shape[0], 1, *grid.shape[2:])
    hidden[:, :, -below:, -right:] = HIDDEN
    return hidden
