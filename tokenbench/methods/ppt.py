"""PPT: at each stage an image is pruned or merged, as its scores tell (arXiv 2310.01812)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.choice import either
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported, outside, quarters, unscored
from tokenbench.methods.recipe import FINETUNE, Recipe
from tokenbench.methods.tome import PerBlock, bipartite


class PruneOrPool(Reducer):
    """Where the scores of an image hardly vary, merge its r most similar tokens; else drop the r of least score."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP; as many tokens go either way."""
        prefix, given = tokens.prefix, self.method.r
        current = tokens.count - prefix
        r = min(given[self.stage] if isinstance(given, tuple) else given, current // 2)
        if attn is None or r <= 0:
            return tokens
        scores = attn.class_rows().sum(1) * attn.value_norms()[:, prefix:]
        scores = scores / scores.sum(1, keepdim=True)
        pruned = tokens.keep(scores.topk(current - r, dim=1).indices)
        match = bipartite(attn.mean_key(), r, range(prefix))
        pooled = tokens.group(match.assign[:, prefix:] - prefix, match.count - prefix)
        return either(scores.var(dim=1) < self.method.threshold, pooled, pruned)


class PPT(Method):
    """PPT: three times r tokens go, dropped in images whose scores tell them apart, merged in the others."""

    name = "ppt"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "Apache-2.0"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "PPT: Token Pruning and Pooling for Efficient Vision Transformers", "2310.01812", "arXiv 2023"
    )
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": FINETUNE.change({"lr": 1e-5, "source": "arXiv 2310.01812: 30 epochs at 1e-5; the rest as EViT's"})
    }
    notes = (
        "threshold is one of variances of scores, which fall as the square of the number of tokens: it fits 196 "
        "patches (6e-5 was used in training). 0 prunes only, 1 merges only."
    )
    reported = (
        Reported("deit_s", {"r": 50}, 79.50, 2.944, reason="the larger part of a count that hangs on the images"),
        Reported("deit_s", {"r": 50, "threshold": 6e-5}, 79.8, 2.9, trained=True),
        Reported("deit_t", {"r": 50, "threshold": 6e-5}, 72.1, 0.8, trained=True),
    )

    r: PerBlock = Field(50, description="tokens that go at each stage: one number, or one a stage (60/50/40)")
    threshold: float = Field(7e-5, ge=0, description="variance of the scores below which an image's tokens are merged")
    blocks: Places | None = Field(None, description="blocks that reduce; a quarter, half, three quarters if unset")

    @property
    def proportional(self) -> bool:
        """In all blocks."""
        return True

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token, and an r for each stage."""
        blocks = quarters(self.blocks, vit)
        if isinstance(self.r, tuple) and len(self.r) != len(blocks):
            return f"r gives {len(self.r)} numbers for {len(blocks)} stages"
        return unscored(vit) or outside(blocks, vit)

    def caveat(self, vit: Backbone) -> str | None:
        """At which stage fewer than r tokens go."""
        count = vit.grid[0] * vit.grid[1]
        for stage, block in enumerate(quarters(self.blocks, vit)):
            r = self.r[stage] if isinstance(self.r, tuple) else self.r
            if r > count // 2:
                return (
                    f"from block {block} on fewer than r go, for at most half of {count} tokens can, and r is {r} there"
                )
            count -= r
        return None

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage; none where r is 0 at all of them."""
        if not any(self.r if isinstance(self.r, tuple) else (self.r,)):
            return {}
        return {block: [PruneOrPool(stage)] for stage, block in enumerate(quarters(self.blocks, vit))}
