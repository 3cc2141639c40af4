"""Keep the patches the class token attends to most: the plainest score, as a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters, unscored
from tokenbench.methods.released import Release, Stored, suite

STUDY = Paper("Which Tokens to Use? Investigating Token Reduction in Vision Transformers", "2308.04657", "ICCVW 2023")


def kept(initial: int, keep_rate: float, stage: int) -> int:
    """Tokens kept after a stage (from 0), of the initial count: int(n0 * rate^(stage + 1)), at least one."""
    return max(1, int(initial * keep_rate ** (stage + 1)))


class Select(Reducer):
    """Keep the best tokens by class attention, in order of score."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP, as EViT does."""
        count = kept(tokens.grid[0] * tokens.grid[1], self.method.keep_rate, self.stage)
        if attn is None or count >= tokens.count - tokens.prefix:
            return tokens
        return tokens.keep(attn.class_row().topk(count, dim=1).indices)


class TopK(Method):
    """Top-K by class attention: three times, keep the patches the class token looks at most and drop the rest."""

    name = "topk"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of published code"
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage), as DynamicViT's ratio does."

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    blocks: Places | None = Field(None, description="blocks that drop; a quarter, half, three quarters if unset")

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token."""
        return unscored(vit) or outside(quarters(self.blocks, vit), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One selection a stage."""
        return {block: [Select(stage)] for stage, block in enumerate(quarters(self.blocks, vit))}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's top-k, by the options of its training: the same method on 14x14 patches."""
        run = suite(stored, "topk")
        return None if run is None else run.compounding(stored)
