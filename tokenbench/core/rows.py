"""Rows of tokens, (B, N[, C]): picked, summed, stacked."""

from __future__ import annotations

import torch
from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K[, C]) of `values` (B, N[, C]) at `index` (B, K)."""
    if values.dim() == 2:
        return values.gather(1, index)
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def add_at(values: Tensor, assign: Tensor, count: int) -> Tensor:
    """Sums (B, count, C) of the rows of `values` (B, N, C) by their place `assign` (B, N)."""
    out = values.new_zeros(values.shape[0], count, values.shape[-1])
    return out.scatter_add(1, assign.unsqueeze(-1).expand(-1, -1, values.shape[-1]), values)


def stacked(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Both, one after the other; None where either is."""
    return None if one is None or other is None else torch.cat([one, other], dim=1)


def wide(values: Tensor) -> Tensor:
    """(B, N, 1) of (B, N), and (B, N, D) as it is."""
    return values.unsqueeze(-1) if values.dim() == 2 else values


def flat(values: Tensor, like: Tensor) -> Tensor:
    """Undoes `wide`."""
    return values.squeeze(-1) if like.dim() == 2 else values
