"""ATS: sample tokens by inverse transform of their scores; images keep as many as they need (arXiv 2111.15667)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters, unscored
from tokenbench.methods.released import Release, Stored, suite


class Sample(Reducer):
    """Keep the tokens that samples fall on. Their attention is mixed from the keys and values of all."""

    where: ClassVar = "attention"
    matrix: ClassVar[bool] = True

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> tuple[Tokens, Attn | None]:
        """At attention."""
        if attn is None or attn.matrix is None or attn.v is None:
            return tokens, attn
        prefix, start = tokens.prefix, tokens.grid[0] * tokens.grid[1]
        here = torch.ones_like(tokens.x[:, prefix:, 0], dtype=torch.bool)
        here = here if tokens.present is None else here & tokens.present
        if self.method.program == "official":
            order, chosen = by_rank(attn.class_rows().sum(1) * attn.value_norms()[:, prefix:], here, start)
            most = start
        else:
            steps = samples(int(start * self.method.keep_rate ** (self.stage + 1)) + 1)
            lengths = attn.v.norm(dim=-1)[:, :, prefix:]  # of each head
            order, chosen = by_place((attn.class_rows() * lengths).sum(1), here, steps)
            most = len(steps)
        first = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : min(most, order.shape[1])]
        index, chosen = order.gather(1, first), chosen.gather(1, first)
        kept = tokens.keep(index).keep_where(chosen)
        rows = index[:, : kept.count - prefix] + prefix
        rows = torch.cat([torch.arange(prefix, device=rows.device).expand(rows.shape[0], -1), rows], dim=1)
        matrix = attn.matrix.gather(
            2, rows[:, None, :, None].expand(-1, attn.matrix.shape[1], -1, attn.matrix.shape[3])
        )
        return kept, replace(attn, matrix=matrix)


def by_rank(scores: Tensor, here: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Samples over the scores in ascending order, which the least of them never gets (the official program).

    Args:
        scores: (B, n) 0 or more.
        here: (B, n) False at padding.
        count: number of samples.

    Returns:
        The tokens in ascending order, (B, n), and whether each is kept.
    """
    shares = scores / scores.sum(1, keepdim=True)
    order = shares.masked_fill(~here, float("inf")).argsort(dim=1, stable=True)
    shares, here = shares.gather(1, order), here.gather(1, order)
    sums = (shares * here).cumsum(dim=1)
    low = sums[:, :1]
    sums = (sums - low) / (sums[:, -1:] - low).clamp(min=torch.finfo(sums.dtype).tiny)
    first = sums.masked_fill(~here | (sums <= 0), float("inf")).amin(1, keepdim=True).clamp(max=1.0)
    steps = torch.arange(count, device=sums.device, dtype=sums.dtype) / max(1, count - 1)
    return order, hit(sums, first + (1 - first) * steps, here)


def by_place(scores: Tensor, here: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Samples over the scores in the order of tokens, in which they also stay (TokenReduction's program).

    Args:
        scores: (B, n) 0 or more.
        here: (B, n) False at padding.
        steps: (K,) samples in (0, 1).
    """
    sums = (scores / (scores.sum(1, keepdim=True) + 1e-6)).cumsum(dim=1)
    steps = steps.to(sums.device, sums.dtype).expand(sums.shape[0], -1)
    return torch.arange(sums.shape[1], device=sums.device).expand_as(sums), hit(sums, steps, here)


def hit(sums: Tensor, steps: Tensor, here: Tensor) -> Tensor:
    """Which of n tokens (B, n) is nearest in its cumulative score to any of the samples (B, K)."""
    apart = (steps.unsqueeze(2) - sums.unsqueeze(1)).abs().masked_fill(~here.unsqueeze(1), float("inf"))
    return torch.zeros_like(here, dtype=torch.int).scatter(1, apart.argmin(dim=2), 1) > 0


def samples(count: int) -> Tensor:
    """1/2K, 3/2K, … below (2K - 1)/2K. As published, rounding lets that one in too for some K."""
    step, low = 1 / count, 1 / (2 * count)
    number = math.ceil(((2 * count - 1) / (2 * count) - low) / step)
    return low + step * torch.arange(number, dtype=torch.float64)


class ATS(Method):
    """Adaptive token sampling: tokens are sampled by class attention and value, and images keep different numbers."""

    name = "ats"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "Apache-2.0; TokenReduction's MIT"
    held: ClassVar[str] = "outputs of both published programs"
    paper: ClassVar[Paper | None] = Paper(
        "Adaptive Token Sampling for Efficient Vision Transformers", "2111.15667", "ECCV 2022"
    )
    main: ClassVar[str | None] = "program"
    neutral: ClassVar[Mapping[str, Any] | None] = {"blocks": ()}
    notes = (
        "How many tokens stay hangs on the image; where shapes cannot (graphs, counts without values), it is the most "
        "that can. The official program's attention adds 1e-6 to its sums, and this one does not."
    )

    program: Literal["official", "suite"] = Field(
        "official", description="official: as its authors'; suite: as TokenReduction's, with a share of the patches"
    )
    keep_rate: float = Field(
        0.7, gt=0, le=1, description="suite: share of the initial patches sampled at each stage, compounding"
    )
    blocks: Places | None = Field(
        None, description="blocks that sample; from a quarter of the depth on, suite: at each quarter, if unset"
    )

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token; the official program has no keep rate."""
        if self.program == "official" and self.keep_rate != type(self).model_fields["keep_rate"].default:
            return "its official program has no keep_rate, how many stay follows from the blocks; give program=suite"
        return unscored(vit) or outside(self.places(vit), vit)

    def places(self, vit: Backbone) -> tuple[int, ...]:
        """The blocks that sample."""
        if self.blocks is None and self.program == "official":
            return tuple(range(vit.depth // 4, vit.depth))
        return quarters(self.blocks, vit)

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training; the tensors have a DeiT's names."""
        run = suite(stored, "ats")
        if run is None:
            return None
        release = run.compounding(stored)
        return release if release.refusal else replace(release, knobs={"program": "suite", **release.knobs})

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage."""
        return {block: [Sample(stage)] for stage, block in enumerate(self.places(vit))}
