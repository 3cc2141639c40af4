"""Adaptive max pooling in operators that every exporter knows, with the outputs of torch's own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bins(length: int, count: int) -> list[slice]:
    """Where the cells of adaptive pooling lie on a line: they cover it, and overlap where `count` divides it not."""
    return [slice(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def highest(grid: Tensor, side: int) -> Tensor:
    """The highest values (B, C, side, side) of a map (B, C, rows, columns), as `F.adaptive_max_pool2d` gives them.

    That one ONNX does not have. Where cells are of several sizes, along rows and then along columns.
    """
    rows, cols = grid.shape[2:]
    if rows % side == 0 and cols % side == 0:
        return F.max_pool2d(grid, (rows // side, cols // side))
    grid = torch.stack([grid[:, :, places].amax(2) for places in bins(rows, side)], dim=2)
    return torch.stack([grid[:, :, :, places].amax(3) for places in bins(cols, side)], dim=3)
