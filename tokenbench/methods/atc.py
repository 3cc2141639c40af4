"""ATC: merge patches by agglomerative clustering of their keys, bottom up (arXiv 2409.11923)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.rows import take
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters
from tokenbench.methods.released import Release, Stored, suite, with_told
from tokenbench.methods.tome import PerBlock, schedule
from tokenbench.methods.topk import kept

Linkage = Literal["average", "complete", "single"]


def agglomerate(distance: Tensor, count: int, linkage: Linkage) -> Tensor:
    """Clusters of n points, by merging the closest pair until `count` are left; numbered by their first points.

    Args:
        distance: (B, n, n), symmetric.
        count: clusters, 1 to n.
        linkage: a cluster's distance from another: the mean over pairs of points, the greatest or the least.

    Returns:
        The cluster (B, n) of each point.
    """
    batch, n, _ = distance.shape
    far = torch.finfo(distance.dtype).max
    rows = torch.arange(n, device=distance.device)
    apart = distance.masked_fill(torch.eye(n, dtype=torch.bool, device=distance.device), far)
    size = distance.new_ones(batch, n)
    owner = rows.expand(batch, n)  # the first point of each one's cluster
    for _ in range(n - count):
        closest = apart.flatten(1).argmin(dim=1, keepdim=True)  # (B, 1)
        one, other = closest // n, closest % n
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        first, second = (take(apart, p).squeeze(1) for p in (low, high))
        if linkage == "average":
            a, b = size.gather(1, low), size.gather(1, high)
            joined = first * (a / (a + b)) + second * (b / (a + b))
        else:
            joined = torch.maximum(first, second) if linkage == "complete" else torch.minimum(first, second)
        is_low, is_high = rows == low, rows == high  # (B, n)
        joined = joined.masked_fill(is_low | is_high | (first == far) | (second == far), far)
        gone = is_high.unsqueeze(1) | is_high.unsqueeze(2)
        apart = joined.unsqueeze(1).where(is_low.unsqueeze(2), apart)
        apart = joined.unsqueeze(2).where(is_low.unsqueeze(1), apart).masked_fill(gone, far)
        size = size + size.gather(1, high) * is_low
        owner = low.expand_as(owner).where(owner == high, owner)
    return ((owner == rows).int().cumsum(1) - 1).gather(1, owner)


class Cluster(Reducer):
    """Merge the patches into clusters by the cosine distance of their keys."""

    def __init__(self, stage: int, r: int | None) -> None:
        super().__init__()
        self.stage, self.r = stage, r

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        current = tokens.count - tokens.prefix
        if self.r is None:
            count = kept(tokens.grid[0] * tokens.grid[1], self.method.keep_rate, self.stage)
        else:
            count = max(1, current - self.r)
        if attn is None or count >= current:
            return tokens
        keys = F.normalize(attn.mean_key()[:, tokens.prefix :].detach().float(), dim=-1)
        assign = agglomerate(1 - keys @ keys.transpose(1, 2), count, self.method.linkage)
        merged = tokens.group(assign, count)
        return merged if self.method.prop_attn else merged.sized(None)


class ATC(Method):
    """Agglomerative token clustering: three times, the closest clusters of patches merge until so many are left."""

    name = "atc"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper("Agglomerative Token Clustering", "2409.11923", "ECCV 2024")
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = (
        "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage). Clusters merge one pair after the other, "
        "which costs time and no GMAC. The r of the published training-free code merges r - 1."
    )

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    linkage: Linkage = Field("average", description="the distance of two clusters, from those of their patches")
    prop_attn: bool = Field(True, description="add the log of token sizes to the attention logits; False forgets sizes")
    blocks: Places | None = Field(None, description="blocks that merge; a quarter, half, three quarters if unset")
    r: PerBlock | None = Field(None, description="tokens merged in every block, in place of stages with a keep_rate")
    inflect: float = Field(0.0, ge=-1, le=1, description="slope of r over the blocks: -1 falling, 0 constant, 1 rising")

    @property
    def proportional(self) -> bool:
        """Unless switched off."""
        return self.prop_attn

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone."""
        if self.r is None:
            return outside(quarters(self.blocks, vit), vit)
        if self.blocks is not None:
            return "with r it merges in every block; give r as a list, 0 where nothing merges, and no blocks"
        total = sum(schedule(self.r, self.inflect, vit.depth))
        if isinstance(self.r, tuple) and len(self.r) > vit.depth:
            return f"r lists {len(self.r)} blocks, and this backbone has {vit.depth}"
        if total >= vit.grid[0] * vit.grid[1]:
            return f"r takes {total} of its {vit.grid[0] * vit.grid[1]} patches in all"
        return None

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """Its authors', by the options of their training; the tensors have a DeiT's names."""
        run = suite(stored, "atc")
        options = {"linkage": "linkage", "prop_attn": "proportional_attn"}
        return with_told(None if run is None else run.compounding(stored), stored, options)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage, or one in every block that merges any."""
        if self.r is None:
            return {block: [Cluster(stage, None)] for stage, block in enumerate(quarters(self.blocks, vit))}
        return {i: [Cluster(i, r)] for i, r in enumerate(schedule(self.r, self.inflect, vit.depth)) if r > 0}
