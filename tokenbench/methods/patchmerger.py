"""PatchMerger: learned queries gather all tokens into a few (arXiv 2202.12015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods import soft
from tokenbench.methods.base import Counts, Kind, Method, Paper, Places
from tokenbench.methods.recipe import Recipe
from tokenbench.methods.released import Release, Stored


class Merger(Reducer):
    """out = softmax over tokens of Q LN(x)ᵀ, times LN(x) (equation 1): normalised tokens, and no residual."""

    where: ClassVar = "before"

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block, on the tokens after the prefix."""
        y: Tensor = self.norm(tokens.patches)
        scale = y.shape[-1] ** -0.5 if self.method.scaled else 1.0
        weights = (self.queries @ y.transpose(1, 2) * scale).softmax(dim=-1)  # (B, K, N)
        return tokens.condense(weights, weights @ y)


class PatchMerger(Method):
    """PatchMerger: learned queries attend to the patches and replace them, in a few places or in one."""

    name = "patchmerger"
    kind: ClassVar[Kind | None] = "condenses"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs, losses and gradients of published code"
    paper: ClassVar[Paper | None] = Paper("Learning to Merge Tokens in Vision Transformers", "2202.12015", "2022")
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"blocks": ()}
    recipes: ClassVar[Mapping[str, Recipe]] = {"finetune": soft.COMPARED}
    notes = (
        "keep_rate counts from the initial patches, compounding; keep_rate=1 still mixes them. Its own paper has one "
        "module in the middle: tokens=8,blocks=6."
    )

    keep_rate: float = Field(0.7, gt=0, le=1, description="tokens made at each stage as a share of the initial patches")
    tokens: Counts | None = Field(None, description="number of tokens made at each stage, in place of keep_rate")
    blocks: Places | None = Field(
        None, description="blocks in front of which tokens are made; a quarter, half, three quarters if unset"
    )
    scaled: bool = Field(False, description="divide the logits by the square root of the width")

    def supports(self, vit: Backbone) -> str | None:
        """Any plain backbone; tokens may not grow."""
        return soft.impossible(vit, self.tokens, self.blocks)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A module a stage."""
        return soft.stages(vit, self.keep_rate, self.tokens, self.blocks, lambda count: Merger(count, vit.dim))

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training."""
        return soft.compared(stored, "patchmerger")

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Modules are counted by stage there."""
        return super().published(names) | soft.clusters(names, "")
