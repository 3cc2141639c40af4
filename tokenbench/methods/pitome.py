"""PiToMe: merge the tokens of highest energy, those that lie among many like them (arXiv 2405.16148)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.rows import take
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Reported


class MergeEnergetic(Reducer):
    """Rank the patches by energy, and merge pairs of even and odd rank.

    Args:
        margin: similarity from which on a neighbour adds to a token's energy as it is.
        all_ranks: whether all patches may merge, or only the first 2R, all of them.
    """

    def __init__(self, margin: float, all_ranks: bool) -> None:
        super().__init__()
        self.margin, self.all_ranks = margin, all_ranks

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        total = tokens.count - tokens.prefix
        count = min(math.floor(total - total * self.method.ratio), total // 2)
        if attn is None or count <= 0:
            return tokens
        keys = F.normalize(attn.mean_key()[:, tokens.prefix :], dim=-1)
        similar = keys @ keys.transpose(1, 2)  # (B, T, T)
        energy = F.elu(similar - self.margin).mean(-1)
        order = energy.argsort(dim=1, descending=True, stable=True)
        rest = order[:, total:] if self.all_ranks else order[:, 2 * count :]
        pairs = order if self.all_ranks else order[:, : 2 * count]
        even, odd = pairs[:, ::2], pairs[:, 1::2]
        best, nearest = take(similar, even).gather(2, odd.unsqueeze(1).expand(-1, even.shape[1], -1)).max(dim=-1)
        ranking = best.argsort(dim=1, descending=True, stable=True)
        going, stay = ranking[:, :count], ranking[:, count:]
        left = torch.cat([even.gather(1, stay), rest, odd], dim=1)  # the new order
        place = torch.arange(left.shape[1], device=left.device).expand_as(left)
        assign = torch.zeros_like(order).scatter(1, left, place)
        ahead = left.shape[1] - odd.shape[1]
        assign = assign.scatter(1, even.gather(1, going), ahead + nearest.gather(1, going))
        return tokens.group(assign, left.shape[1])


class PiToMe(Method):
    """PiToMe: in every block, merge the patches that have most others like them, and leave rare ones alone."""

    name = "pitome"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "Accelerating Transformers with Spectrum-Preserving Token Merging", "2405.16148", "NeurIPS 2024"
    )
    main: ClassVar[str | None] = "ratio"
    neutral: ClassVar[Mapping[str, Any] | None] = {"ratio": 1.0}
    notes = (
        "Sizes weigh in means and not in attention, as published. On MAE weights its code begins with the half where "
        "only energetic tokens take part: first=energetic; for AugReg weights it has margin=0.9."
    )
    reported = (
        *(
            Reported("deit_s", {"ratio": ratio}, gmacs=gmacs, tokens=left, note="counted on the published code")
            for ratio, gmacs, left in ((0.95, 3.458, 111), (0.925, 3.006, 82), (0.9, 2.607, 60), (0.875, 2.299, 44))
        ),
        Reported("deit_t", {"ratio": 0.925}, gmacs=0.823, note="counted on the published code"),
        Reported("deit_b", {"ratio": 0.925}, gmacs=11.502, note="counted on the published code"),
    )

    ratio: float = Field(0.925, gt=0, le=1, description="share of the patches that each block leaves")
    margin: float = Field(
        0.75, ge=0, le=1, description="similarity that counts as near in block 0; falls to 0 over the depth"
    )
    first: Literal["all", "energetic"] = Field(
        "all", description="which patches may merge in the first half of the blocks; the others in the second half"
    )

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A merge in every block; none at ratio 1."""
        if self.ratio == 1:
            return {}
        depth, half = vit.depth, math.ceil(vit.depth / 2)
        return {
            block: [MergeEnergetic(self.margin * (1 - block / depth), (block < half) == (self.first == "all"))]
            for block in range(depth)
        }
