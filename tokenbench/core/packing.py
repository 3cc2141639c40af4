"""What keeping and dropping leave: one fused token more, and images that differ in their number padded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenbench.core.tokens import Tokens


def fused(tokens: Tokens, kept: Tokens, dropped: Tensor, fuse: Tensor, always: bool = False) -> Tokens:
    """`kept` and one token more, of the first where `dropped` (B, N - prefix) is 1, times their weights."""
    if tokens.present is not None:
        dropped = dropped * tokens.present
    rest = replace(tokens.without_prefix(), source=None).mix((fuse * dropped).unsqueeze(1))
    if tokens.size is not None:
        rest = replace(rest, size=(dropped * tokens.size[:, tokens.prefix :]).sum(1, keepdim=True))
    if tokens.source is not None:
        rest = replace(rest, source=dropped.to(tokens.source.dtype).unsqueeze(1) @ tokens.source)  # (B, 1, P)
    if kept.present is not None:
        rest = replace(rest, present=dropped.any(1, keepdim=True) | always)
    if tokens.alive is not None:
        rest = replace(rest, alive=torch.ones_like(tokens.alive[:, :1]))
    away = tokens.fused if rest.source is None or tokens.fused is None else rest.source.squeeze(1).maximum(tokens.fused)
    return replace(kept.join(rest), fused=away, context=tokens.context, views=tokens.views)


def packed(tokens: Tokens) -> Tokens:
    """Real tokens first, in their order, in no more places than the image with most has."""
    if tokens.present is None:
        return tokens
    made = tokens
    if not torch.compiler.is_compiling() and not tokens.x.is_meta:
        fewest, most = torch.stack(tokens.present.sum(1).aminmax()).tolist()
        made = tokens.pick(tokens.present.int().argsort(dim=1, descending=True, stable=True)[:, :most])
        if fewest == most:
            return replace(made, present=None)
    if made.source is None or made.present is None:
        return made
    return replace(made, source=made.source * made.present.unsqueeze(-1))
