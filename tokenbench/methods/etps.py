"""eTPS: EViT whose inattentive patches are squeezed into the attentive ones most like them (arXiv 2304.10716)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters, unscored
from tokenbench.methods.dtps import squeezed


class SqueezeInattentive(Reducer):
    """Keep the tokens with the highest class attention, and squeeze the others into them."""

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        current = tokens.count - tokens.prefix
        count = math.ceil(self.method.keep_rate * current)
        if attn is None or count >= current:
            return tokens
        return squeezed(tokens, attn.class_row().argsort(dim=1, descending=True, stable=True), count)


class ETPS(Method):
    """eTPS: three times, keep the patches the class token attends to most and squeeze in the others."""

    name = "etps"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "Apache-2.0, without this model"
    held: ClassVar[str] = "the squeezing of dtps and the ranking of evit: a reconstruction"
    paper: ClassVar[Paper | None] = Paper(
        "Joint Token Pruning and Squeezing Towards More Aggressive Compression of Vision Transformers",
        "2304.10716",
        "CVPR 2023",
    )
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = (
        "Only its squeezing was published, not the model: a reconstruction. keep_rate is EViT's: ceil(keep_rate * n)."
    )

    keep_rate: float = Field(0.7, gt=0, le=1, description="share of the current tokens kept at each stage")
    blocks: Places | None = Field(None, description="blocks that reduce; a quarter, half, three quarters if unset")

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token."""
        return unscored(vit) or outside(quarters(self.blocks, vit), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage."""
        return {block: [SqueezeInattentive()] for block in quarters(self.blocks, vit)}
