"""DPC-KNN: cluster patches around those with many near and no denser neighbour, as TokenReduction and TCFormer do."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters
from tokenbench.methods.released import SUITE, Release, Stored, suite, with_told
from tokenbench.methods.topk import STUDY, kept

NOISE = 1e-6  # the most that training adds to a density
EPS = 1e-6  # in the sum of weights


def distances(x: Tensor) -> Tensor:
    """Euclidean distances (B, n, n) of the rows of x (B, n, C), in float32; costs n * n * C."""
    x = x.float()
    x = x - x.mean(1, keepdim=True)  # the same distances, and less is lost in the difference of large squares
    square = (x * x).sum(-1)
    apart = (square.unsqueeze(2) + square.unsqueeze(1) - 2 * (x @ x.transpose(1, 2))).clamp(min=0).sqrt()
    return apart.masked_fill(torch.eye(x.shape[1], dtype=torch.bool, device=x.device), 0.0)


def centres(apart: Tensor, count: int, k: int, noise: float = 0.0) -> Tensor:
    """The places (B, count) of the points of highest density times distance from any denser point, in that order.

    Args:
        apart: (B, n, n) distances.
        count: how many.
        k: nearest points, the point itself included, that density is measured on.
        noise: the most that is added to densities at random.
    """
    near = apart.topk(min(k, apart.shape[1]), dim=-1, largest=False).values
    density = (-(near**2).mean(-1)).exp()
    if noise:
        density = density + noise * torch.rand_like(density)
    denser = density.unsqueeze(1) > density.unsqueeze(2)  # of i, whether j is
    farthest = apart.flatten(1).amax(1)[:, None, None]
    return (density * apart.where(denser, farthest).amin(-1)).argsort(dim=1, descending=True, stable=True)[:, :count]


def nearest(apart: Tensor, chosen: Tensor) -> Tensor:
    """Which of the chosen points (B, K) is nearest to each of n, (B, n), the first of equals; a chosen one's own is."""
    columns = apart.gather(2, chosen.unsqueeze(1).expand(-1, apart.shape[1], -1))
    rank = torch.arange(chosen.shape[1], device=apart.device).expand_as(chosen)
    return columns.argmin(dim=-1).scatter(1, chosen, rank)


class ClusterByDensity(Reducer):
    """Merge the patches around the densest of them; means weigh by a learnt score."""

    where: ClassVar = "before"

    def __init__(self, stage: int, dim: int, learnt: bool) -> None:
        super().__init__()
        self.stage = stage
        self.score = nn.Linear(dim, 1) if learnt else None
        if self.score is not None:  # equal weights, until it has learnt
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        current, method = tokens.count - tokens.prefix, self.method
        count = kept(tokens.grid[0] * tokens.grid[1], method.keep_rate, self.stage)
        if count >= current:
            return tokens
        x = tokens.patches
        apart = distances(x.detach()) / math.sqrt(x.shape[-1])
        chosen = centres(apart, count, method.k, NOISE if self.training else 0.0)
        weights = torch.ones_like(x[..., 0]) if self.score is None else self.score(x).squeeze(-1).exp()
        return tokens.group(nearest(apart, chosen), count, weights=weights, eps=EPS).sized(None)


class DPCKNN(Method):
    """Density-peak clustering: three times, patches merge around those with many near ones and no denser one near."""

    name = "dpcknn"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of TokenReduction's code"
    paper: ClassVar[Paper | None] = STUDY
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = (
        "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage). GMACs count distances, n * n * C each, "
        "which published counts leave out. Weights are equal until they have learnt."
    )

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    k: int = Field(5, ge=1, description="nearest patches, the patch itself included, that density is measured on")
    equal_weight: bool = Field(False, description="plain means in place of learnt weights")
    blocks: Places | None = Field(None, description="blocks before which patches merge; at each quarter if unset")

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone with k patches or more."""
        if self.k > vit.grid[0] * vit.grid[1]:
            return f"density is measured on k={self.k} patches, and it has {vit.grid[0] * vit.grid[1]}"
        return outside(quarters(self.blocks, vit), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage."""
        blocks = quarters(self.blocks, vit)
        return {b: [ClusterByDensity(stage, vit.dim, not self.equal_weight)] for stage, b in enumerate(blocks)}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By the linear layers of its stages; the keep rate only where TokenReduction's options are stored."""
        run = suite(stored, "dpcknn")
        if run is not None:
            return with_told(run.compounding(stored), stored, {"k": "k_neighbors", "equal_weight": "equal_weight"})
        named = any(re.fullmatch(r"cluster_layers\.\d+\.score\.weight", name) for name in stored.tensors)
        return Release(SUITE, unknown=("keep_rate",)) if named else None

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """The linear layers are counted by stage there, and by block here."""
        stages = sorted({int(name.split(".")[1]) for name in names if ".score." in name})
        own = {name: name.split(".") for name in names if ".score." in name}
        layers = {name: f"cluster_layers.{stages.index(int(p[1]))}.score.{p[-1]}" for name, p in own.items()}
        return super().published(names) | layers
