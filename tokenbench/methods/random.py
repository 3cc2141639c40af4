"""Keep random patches: what any score has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Places, outside, quarters
from tokenbench.methods.topk import kept

MOST = 1 << 14  # patches an image may have


class Draw(Reducer):
    """Keep tokens at places drawn once from the seed, the same for every image; their order is kept.

    In training they are drawn anew for every image and pass: patch dropout (FLIP, arXiv 2212.00794).
    """

    def __init__(self, stage: int, seed: int) -> None:
        super().__init__()
        self.stage = stage
        lots = torch.rand(MOST, generator=torch.Generator().manual_seed(seed + stage), device="cpu")
        self.register_buffer("lots", lots, persistent=False)
        self.lots: Tensor

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP, where EViT and Top-K drop."""
        current = tokens.count - tokens.prefix
        count = kept(tokens.grid[0] * tokens.grid[1], self.method.keep_rate, self.stage)
        if count >= current:
            return tokens
        if self.training:
            lots = torch.rand(tokens.x.shape[0], current, device=tokens.x.device)
            return tokens.keep(lots.topk(count, dim=1).indices.sort(dim=1).values)
        return tokens.keep(self.lots[:current].topk(count).indices.sort().values)


class Random(Method):
    """Random patches: three times, keep patches at places drawn from a seed and drop the rest."""

    name = "random"
    kind: ClassVar[Kind | None] = "prunes"
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = "The places are the same for every image of a run; other seeds draw others."

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    blocks: Places | None = Field(None, description="blocks that drop; a quarter, half, three quarters if unset")
    seed: int = Field(0, ge=0, description="what the places are drawn from")

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone."""
        return outside(quarters(self.blocks, vit), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One draw a stage."""
        return {block: [Draw(stage, self.seed)] for stage, block in enumerate(quarters(self.blocks, vit))}
