"""Rows of tokens, (B, N[, C]): picked, summed, stacked."""

from __future__ import annotations

import torch
from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K[, C]) of `values` (B, N[, C]) at `index` (B, K)."""
    if values.dim() == 2:
        return values.gather(1, index)
    # whole rows are copied at once, where `gather` goes from number to number
    picked = values.flatten(0, 1).index_select(0, across(index, values.shape[1]))
    return picked.view(*index.shape, values.shape[-1])


def add_at(values: Tensor, at: Tensor, count: int) -> Tensor:
    """Sums (B, count, C) of the rows of `values` (B, N, C) by their place `at` (B * N), which `across` makes."""
    batch, width = values.shape[0], values.shape[-1]
    if torch.compiler.is_exporting():
        # ONNX Runtime's threads lose rows that they add to one place at once; a product loses none, and costs little
        goes = at.view(batch, 1, -1) % count == torch.arange(count, device=at.device).unsqueeze(1)
        return goes.to(values.dtype) @ values
    rows, sums = values.flatten(0, 1), values.new_zeros(batch * count, width)
    return sums.scatter_add_(0, at.unsqueeze(-1).expand(-1, width), rows).view(batch, count, width)


def across(index: Tensor, count: int) -> Tensor:
    """Places in (B, count), given image by image (B, K), as places (B * K) in (B * count)."""
    first = torch.arange(0, count * index.shape[0], count, device=index.device)
    return (index + first.unsqueeze(1)).flatten()


def stacked(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Both, one after the other; None where either is."""
    return None if one is None or other is None else torch.cat([one, other], dim=1)


def wide(values: Tensor) -> Tensor:
    """(B, N, 1) of (B, N), and (B, N, D) as it is."""
    return values.unsqueeze(-1) if values.dim() == 2 else values


def flat(values: Tensor, like: Tensor) -> Tensor:
    """Undoes `wide`."""
    return values.squeeze(-1) if like.dim() == 2 else values
