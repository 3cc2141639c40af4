"""ToFu: prune by similarity in early blocks, merge without losing length in late ones (arXiv 2312.01026)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper
from tokenbench.methods.tome import PerBlock, bipartite, runs_out, schedule, too_many


class Fuse(Reducer):
    """Match as ToMe does; drop the r tokens that would merge, or merge them and give the mean the longest length."""

    def __init__(self, r: int, prunes: bool) -> None:
        super().__init__()
        self.r, self.prunes = r, prunes

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        ratio, prefix = self.method.ratio, tokens.prefix
        r = self.r if ratio is None else math.floor(tokens.count - tokens.count * ratio)
        r = min(r, (tokens.count - prefix) // 2)
        if attn is None or r <= 0:
            return tokens
        match = bipartite(attn.mean_key(), r, range(prefix))
        stay = match.stay()[:, prefix:] - prefix
        if self.prunes:
            return tokens.keep(stay)
        assign, length = match.assign[:, prefix:] - prefix, tokens.patches.norm(dim=-1)
        merged = tokens.group(assign, match.count - prefix, weights=torch.ones_like(length)).sized(None)
        longest = torch.zeros_like(length[:, : stay.shape[1]]).scatter_reduce(1, assign, length, "amax")
        own = merged.patches.norm(dim=-1) if self.method.norm == "paper" else length.gather(1, stay)
        scaled = merged.patches * (longest / own.clamp(min=torch.finfo(own.dtype).tiny)).unsqueeze(-1)
        return merged.with_x(torch.cat([merged.x[:, :prefix], scaled], dim=1))


class ToFu(Method):
    """Token fusion: the r most similar tokens of a block are dropped in the first half, and merged in the second."""

    name = "tofu"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "no code published"
    held: ClassVar[str] = "outputs of a third party's code (OpenToMe), with norm=toolbox"
    paper: ClassVar[Paper | None] = Paper(
        "Token Fusion: Bridging the Gap between Token Pruning and Token Merging", "2312.01026", "WACV 2024"
    )
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    notes = (
        "Its authors published no code: norm=paper is the equation printed, norm=toolbox what a third party made of it."
    )

    r: PerBlock = Field(13, description="tokens that go in each block: one number, or one a block (8/8/4)")
    ratio: float | None = Field(
        None, gt=0, le=1, description="share of all tokens that each block leaves, in place of r"
    )
    norm: Literal["paper", "toolbox"] = Field(
        "paper", description="a mean gets the longest length by its own length, or by that of the token merged into"
    )

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone, as ToMe."""
        return None if self.ratio is not None else too_many(self.r, 0.0, vit)

    def caveat(self, vit: Backbone) -> str | None:
        """From which block on fewer than r tokens go, since at most half of them can."""
        return None if self.ratio is not None else runs_out(self.r, 0.0, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Blocks up to half of the depth, that one included, prune; later ones merge."""
        rates = schedule(self.r, 0.0, vit.depth)
        going = [block for block in range(vit.depth) if (rates[block] > 0 if self.ratio is None else self.ratio < 1)]
        return {block: [Fuse(rates[block], block <= vit.depth / 2)] for block in going}
