"""Windows of a map of tokens: cutting, laying back, enlarged windows as indices, and maps of windowed attention.

Tokens lie row by row, (B, N, C) with N = rows * columns; windows are ordered row by row too.
"""

from __future__ import annotations

import torch
from timm.models.swin_transformer import window_partition, window_reverse
from torch import Tensor

Pair = tuple[int, int]


def cut(x: Tensor, layout: Pair, window: Pair) -> Tensor:
    """The windows (B * W, window tokens, C) of a map x (B, N, C) that windows divide evenly."""
    windows: Tensor = window_partition(x.unflatten(1, layout), window)
    return windows.flatten(1, 2)


def lay(windows: Tensor, layout: Pair, window: Pair) -> Tensor:
    """The map (B, N, C) of its windows (B * W, window tokens, C): undoes `cut`."""
    x: Tensor = window_reverse(windows.unflatten(1, window), window, *layout)
    return x.flatten(1, 2)


def crops(layout: Pair, window: Pair, reach: int, device: torch.device | None = None) -> Tensor:
    """Places (W, K) on the map that enlarged windows cover.

    A window's sides grow by `reach` tokens in all, and it is moved inside the map where it would leave it: windows of
    7 on a 14x14 map with a reach of 3 become 10x10 at 0 and 4 (arXiv 2303.08685).
    """
    rows, cols = (
        _spans(length, side, min(length, side + reach), device) for length, side in zip(layout, window, strict=True)
    )
    places = rows[:, None, :, None] * layout[1] + cols[None, :, None, :]  # (Wr, Wc, Kr, Kc)
    return places.flatten(2).flatten(0, 1)


def own(layout: Pair, window: Pair, device: torch.device | None = None) -> Tensor:
    """Places (W, K) on the map of each window's tokens."""
    return crops(layout, window, 0, device)


def spread(weights: Tensor, views: Tensor, layout: Pair, window: Pair, count: int) -> Tensor:
    """Windowed attention as attention of all: (B, M, count), 0 where a window does not look.

    Args:
        weights: (B * W, m, K) of each window's m queries to the K places in its view.
        views: (W, K) places.
        layout: rows and columns of all M = W * m queries.
        window: rows and columns of the m queries of a window.
        count: number of places in all.
    """
    windows, queries = views.shape[0], weights.shape[1]
    split = weights.unflatten(0, (-1, windows))  # (B, W, m, K)
    index = views[None, :, None, :].expand(split.shape[0], -1, queries, -1)
    full = split.new_zeros(split.shape[0], windows, queries, count).scatter(3, index, split)
    return lay(full.flatten(0, 1), layout, window)


def _spans(length: int, side: int, reach: int, device: torch.device | None) -> Tensor:
    """(windows, reach) places along one side, the windows enlarged to `reach` and kept inside."""
    starts = torch.arange(length // side, device=device) * side - (reach - side) // 2
    return starts.clamp(0, length - reach)[:, None] + torch.arange(reach, device=device)
