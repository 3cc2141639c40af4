"""K-medoids: keep the patches that lie in the middle of clusters, as TokenReduction does (arXiv 2308.04657)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.rows import take
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters
from tokenbench.methods.dpcknn import distances, nearest
from tokenbench.methods.released import Release, Stored, suite, with_told
from tokenbench.methods.topk import STUDY, kept

RECEIVED = "attention received"


def medoids(apart: Tensor, weights: Tensor, first: Tensor, rounds: int) -> Tensor:
    """The places (B, K) of the medoids after so many rounds, from the first ones (B, K).

    In each round a cluster's new medoid is its point of least weight times the sum of distances from all points.

    Args:
        apart: (B, n, n) distances.
        weights: (B, n) of each point.
        first: (B, K) places to begin from.
        rounds: how often.
    """
    cost, chosen = weights * apart.sum(-1), first
    by_cost = cost.argsort(dim=1, stable=True)
    rank = torch.zeros_like(by_cost).scatter(
        1, by_cost, torch.arange(cost.shape[1], device=cost.device).expand_as(cost)
    )
    for _ in range(rounds):
        least = torch.full_like(chosen, cost.shape[1]).scatter_reduce(1, nearest(apart, chosen), rank, "amin")
        chosen = by_cost.gather(1, least)
    return chosen


def spread(apart: Tensor, count: int, start: int) -> Tensor:
    """Places (B, count): `start`, then time and again the point whose greatest distance from those taken is largest."""
    taken = torch.full((apart.shape[0], 1), start, dtype=torch.long, device=apart.device)
    reach = apart[:, start]
    while taken.shape[1] < count:
        following = reach.scatter(1, taken, float("-inf")).argmax(dim=1, keepdim=True)
        taken = torch.cat([taken, following], dim=1)
        reach = reach.maximum(take(apart, following).squeeze(1))
    return taken


class Receive(Reducer):
    """Mark tokens with the attention that they receive from all, summed over heads, for the block that follows."""

    matrix: ClassVar[bool] = True

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        return tokens if attn is None else tokens.mark(RECEIVED, attn.received().sum(1).detach())


class Medoids(Reducer):
    """Keep the medoids of the patches."""

    where: ClassVar = "before"

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        current, method = tokens.count - tokens.prefix, self.method
        count = kept(tokens.grid[0] * tokens.grid[1], method.keep_rate, self.stage)
        if count >= current:
            return tokens
        apart = distances(tokens.patches.detach())
        if method.equal_weight:
            weights = torch.ones_like(apart[:, 0])
            first = spread(apart, count, int(self.start * current))
        else:
            weights = tokens.marks[RECEIVED][:, tokens.prefix :].float()
            first = weights.topk(count, dim=1).indices
        return tokens.keep(medoids(apart, weights, first, method.rounds))

    @property
    def start(self) -> float:
        """Where in the tokens, from 0 to 1, the first medoid is, drawn from the seed and the stage."""
        return float(
            torch.rand(1, generator=torch.Generator().manual_seed(self.method.seed * 101 + self.stage), device="cpu")
        )


class KMedoids(Method):
    """K-medoids: three times, cluster the patches and keep those in the middle of the clusters."""

    name = "kmedoids"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of TokenReduction's code"
    paper: ClassVar[Paper | None] = STUDY
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = (
        "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage). GMACs count distances, n * n * C each, "
        "which published counts leave out."
    )

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    rounds: int = Field(3, ge=0, description="how often medoids are chosen anew")
    equal_weight: bool = Field(False, description="weigh patches alike, not by the attention received one block before")
    seed: int = Field(0, ge=0, description="equal weights: where the first medoid is drawn from")
    blocks: Places | None = Field(None, description="blocks before which medoids are kept; at each quarter if unset")

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone; not before its first block, where no attention has been received."""
        blocks = quarters(self.blocks, vit)
        if 0 in blocks and not self.equal_weight:
            return "before block 0 no attention has been received; give other blocks, or equal_weight=true"
        return outside(blocks, vit)

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training; the tensors have a DeiT's names."""
        run = suite(stored, "kmedoids")
        options = {"rounds": "cluster_iters", "equal_weight": "equal_weight"}
        return with_told(None if run is None else run.compounding(stored), stored, options)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage, and one in the block before it that marks what tokens receive; none at keep_rate 1."""
        found: dict[int, list[Reducer]] = {}
        for stage, block in enumerate(quarters(self.blocks, vit) if self.keep_rate < 1 else ()):
            found.setdefault(block, []).append(Medoids(stage))
            if not self.equal_weight:
                found.setdefault(block - 1, []).append(Receive())
        return {block: list(several) for block, several in found.items()}
