"""ToMeCIS: ToMe whose means weigh tokens by the class token's attention and their values (IECON 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Reported, unscored
from tokenbench.methods.tome import PerBlock, bipartite, runs_out, schedule, too_many


class MergeByImportance(Reducer):
    """Merge r tokens by the similarity of their keys; means weigh by class attention times the length of the value."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.r = r

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        prefix = tokens.prefix
        r = min(self.r, (tokens.count - prefix) // 2)
        if attn is None or attn.v is None or r <= 0:
            return tokens
        match = bipartite(attn.mean_key(), r, range(prefix))
        weights = attn.class_row() * attn.v.mean(1).norm(dim=-1)[:, prefix:]
        weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)  # 0 of 0 is no mean
        return tokens.group(match.assign[:, prefix:] - prefix, match.count - prefix, weights=weights)


class ToMeCIS(Method):
    """ToMe with class importance: the same tokens merge, and means weigh what the class token attends to."""

    name = "tomecis"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of the published code"
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    notes = "Token Merging with Class Importance Score, IECON 2023."
    reported = tuple(
        Reported(backbone, {"r": r}, top1, tokens=left)
        for backbone, *top1s in (("deit_t", 71.61, 70.59, 69.01), ("deit_s", 79.43, 78.90, 78.17))
        for r, left, top1 in zip((8, 13, 16), (101, 41, 11), top1s, strict=True)
    )

    r: PerBlock = Field(13, description="tokens merged in each block: one number, or one a block (8/8/4)")

    @property
    def proportional(self) -> bool:
        """As ToMe."""
        return True

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token; r as for ToMe."""
        return unscored(vit) or too_many(self.r, 0.0, vit)

    def caveat(self, vit: Backbone) -> str | None:
        """As for ToMe."""
        return runs_out(self.r, 0.0, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A merge in every block whose r is not 0."""
        return {i: [MergeByImportance(r)] for i, r in enumerate(schedule(self.r, 0.0, vit.depth)) if r > 0}
