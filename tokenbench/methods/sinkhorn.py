"""Sinkhorn token reduction: tokens are shared out to learned centres by optimal transport (as in arXiv 2308.04657)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods import soft
from tokenbench.methods.base import Counts, Kind, Method, Paper, Places
from tokenbench.methods.recipe import Recipe
from tokenbench.methods.released import Release, Stored, with_told
from tokenbench.methods.topk import STUDY


def transport(similarities: Tensor, iterations: int) -> Tensor:
    """Shares (B, K, N) of N tokens in K centres, by Sinkhorn's iteration on logarithms, tokens last.

    Both marginals are uniform over K + N, so their masses differ and it never converges: what a token gives sums to 1,
    what a centre gets to about N / K.
    """
    centres, tokens = similarities.shape[1:]
    mass = -math.log(centres + tokens)
    v = similarities.new_zeros(similarities.shape[0], 1, tokens)
    u = similarities.new_zeros(similarities.shape[0], centres, 1)
    for _ in range(iterations):
        u = mass - (similarities + v).logsumexp(dim=2, keepdim=True)
        v = mass - (similarities + u).logsumexp(dim=1, keepdim=True)
    return (similarities + u + v).exp() * (centres + tokens)


class Centres(Reducer):
    """Learned centres, to which tokens of unit length are transported; the sums are the new tokens."""

    where: ClassVar = "before"

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(count, dim))

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block, on the tokens after the prefix."""
        # centres of unit length, with the gradient of those as they are: the published code writes them over in place
        centres = self.v + (self.v / self.v.norm(dim=1, keepdim=True) - self.v).detach()
        x = F.normalize(tokens.patches, dim=-1)
        weights = transport(centres @ x.transpose(1, 2) / self.method.epsilon, self.method.iterations)
        return tokens.condense(weights, weights @ x)


class Sinkhorn(Method):
    """Sinkhorn: patches are shared out to learned centres by optimal transport, and their sums replace them."""

    name = "sinkhorn"
    kind: ClassVar[Kind | None] = "condenses"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs, losses and gradients of published code"
    paper: ClassVar[Paper | None] = STUDY
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"blocks": ()}
    recipes: ClassVar[Mapping[str, Recipe]] = {"finetune": soft.COMPARED}
    notes = (
        "keep_rate counts from the initial patches, compounding; keep_rate=1 still mixes them. With epsilon=1 shares "
        "are nearly even, and which token a patch is most in says little."
    )

    keep_rate: float = Field(0.7, gt=0, le=1, description="tokens made at each stage as a share of the initial patches")
    tokens: Counts | None = Field(None, description="number of tokens made at each stage, in place of keep_rate")
    blocks: Places | None = Field(
        None, description="blocks in front of which tokens are made; a quarter, half, three quarters if unset"
    )
    epsilon: float = Field(1.0, gt=0, description="entropy of the transport; cosines are divided by it")
    iterations: int = Field(3, ge=1, description="Sinkhorn's iterations")

    def supports(self, vit: Backbone) -> str | None:
        """Any plain backbone; tokens may not grow."""
        return soft.impossible(vit, self.tokens, self.blocks)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A module a stage."""
        return soft.stages(vit, self.keep_rate, self.tokens, self.blocks, lambda count: Centres(count, vit.dim))

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training."""
        given = {"epsilon": "sinkhorn_eps", "iterations": "cluster_iters"}
        return with_told(soft.compared(stored, "sinkhorn"), stored, given)

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Modules are counted by stage there."""
        return super().published(names) | soft.clusters(names, "")
