"""ToMe: merge the most similar tokens in every block (arXiv 2210.09461)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported
from tokenbench.methods.released import SUITE, SUITE_PATCHES, Release, Stored, suite


@dataclass(frozen=True)
class Matching:
    """Which tokens merge: token i of N goes to place `assign[i]` of `count`; several may share a place."""

    assign: Tensor  # (B, N)
    count: int
    merged: Tensor  # (B, |A|) bool: which of the tokens at even positions merge into another

    def stay(self) -> Tensor:
        """The tokens by their place, (B, count): those that merge into none and those that others merge into."""
        batch, total = self.assign.shape
        gone = _interleave(self.merged, self.merged.new_zeros(batch, total // 2))
        kept = self.assign.masked_fill(gone, self.count)  # those that merge all go to a place beyond the others
        every = torch.arange(total, device=kept.device).expand(batch, -1)
        return kept.new_empty(batch, self.count + 1).scatter(1, kept, every)[:, : self.count]


def bipartite(metric: Tensor, r: int, protected: Sequence[int] = (0,)) -> Matching:
    """Bipartite soft matching (section 3): A, the even positions, find their nearest in B; the r nearest merge.

    Result order: protected tokens, the unmerged rest of A, the rest of B.

    Args:
        metric: (B, N, d) what similarity is measured on; normalised here.
        r: tokens to merge; capped at half of the unprotected.
        protected: positions never merged nor merged into.
    """
    batch, total, _ = metric.shape
    r = max(0, min(r, (total - len(protected)) // 2))
    metric = metric / metric.norm(dim=-1, keepdim=True)
    scores = metric[:, ::2] @ metric[:, 1::2].transpose(-1, -2)  # (B, |A|, |B|)
    for position in protected:
        if position % 2 == 0:
            scores[:, position // 2] = float("-inf")
        else:
            scores[..., position // 2] = float("-inf")
    best, nearest = scores.max(dim=-1)  # (B, |A|)
    order = best.argsort(dim=-1, descending=True)
    merged = torch.zeros_like(order).scatter(1, order[:, :r], 1) > 0
    kept = scores.shape[1] - r
    place_a = (~merged).cumsum(1) - 1 if 0 in protected else order.argsort(dim=-1) - r
    odd = torch.arange(scores.shape[2], device=metric.device)
    after = sum(position % 2 for position in protected)
    place_b, target = odd + kept, nearest + kept
    if after:  # protected tokens of B stand right after those of A
        lead = len(protected) - after
        place_a = place_a + (place_a >= lead) * after
        place_b, target = (torch.where(b < kept + after, b - kept + lead, b) for b in (place_b, target))
    assign = _interleave(torch.where(merged, target, place_a), place_b.expand(batch, -1))
    return Matching(assign, kept + scores.shape[2], merged)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """(B, N) with `even` at 0, 2, 4, … and `odd` at 1, 3, 5, …"""
    out = even.new_empty(even.shape[0], even.shape[1] + odd.shape[1])
    out[:, ::2] = even
    out[:, 1::2] = odd
    return out


def schedule(r: int | tuple[int, ...], inflect: float, depth: int) -> list[int]:
    """Tokens to merge in each block (appendix B): constant, given block by block, or a line through r.

    Args:
        r: one number, or one a block; blocks beyond the list merge none.
        inflect: -1 falls from 2r to 0, 0 is constant, 1 rises from 0 to 2r.
        depth: number of blocks.
    """
    if isinstance(r, tuple):
        return [*r, *[0] * (depth - len(r))]
    low = int(r * (1.0 - inflect))
    step = (2 * r - 2 * low) / max(1, depth - 1)
    return [int(low + step * i) for i in range(depth)]


def too_many(r: int | tuple[int, ...], inflect: float, vit: Backbone) -> str | None:
    """The reason if r lists more blocks than there are, or is one for all and more than the first can merge, else None.

    A list, as published models have, may ask for more: at most half is merged there, and `runs_out` says so.
    """
    if isinstance(r, tuple) and len(r) > vit.depth:
        return f"r lists {len(r)} blocks, and this backbone has {vit.depth}"
    block, most, count = next(_short(r, inflect, vit), (vit.depth, 0, 0))
    if not isinstance(r, tuple) and count == vit.grid[0] * vit.grid[1]:
        return f"block {block} merges at most half of its {count} patches, and r={most} is more"
    return None


def runs_out(r: int | tuple[int, ...], inflect: float, vit: Backbone) -> str | None:
    """From which block on fewer than r tokens can be merged, since at most half of them can; None if nowhere."""
    block, most, count = next(_short(r, inflect, vit), (vit.depth, 0, 0))
    if block == vit.depth:
        return None
    return f"from block {block} on fewer than r merge, for at most half of {count} tokens can, and r is {most} there"


def _short(r: int | tuple[int, ...], inflect: float, vit: Backbone) -> Iterator[tuple[int, int, int]]:
    """Blocks that merge fewer than they should: which, r there, and tokens after the prefix before it."""
    count = vit.grid[0] * vit.grid[1]
    for block, most in enumerate(schedule(r, inflect, vit.depth)):
        if most > count // 2:
            yield block, most, count
        count -= min(most, count // 2)


def _whole(r: Any) -> Any:
    """Other codes take r as (number, slope) or as a share of the tokens; here these are told apart."""
    values = r if isinstance(r, list | tuple) else [r]
    if any(isinstance(value, float) and (value % 1 or value < 0 or len(values) > 1) for value in values):
        raise ValueError(
            "should be a whole number of tokens, or one a block; a schedule that falls or rises is inflect=-1.0 or "
            "1.0 beside it, and a share of the tokens has no setting"
        )
    return r


def _not_negative(r: int | tuple[int, ...]) -> int | tuple[int, ...]:
    if min(r if isinstance(r, tuple) else (r,), default=0) < 0:
        raise ValueError("should be 0 or more")
    return r


PerBlock = Annotated[int | Places, BeforeValidator(_whole), AfterValidator(_not_negative)]  # knobs as ToMe's r


class Merge(Reducer):
    """Merge r tokens by the similarity of their keys."""

    def __init__(self, r: int) -> None:
        super().__init__()
        self.r = r

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        r = min(self.r, (tokens.count - tokens.prefix) // 2)
        if attn is None or r <= 0:
            return tokens
        match = bipartite(attn.mean_key(), r, range(tokens.prefix))
        return tokens.group(match.assign[:, tokens.prefix :] - tokens.prefix, match.count - tokens.prefix)


class ToMe(Method):
    """Token merging: in every block, the r most similar pairs of tokens become one, with no training needed."""

    name = "tome"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "CC-BY-NC-4.0"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper("Token Merging: Your ViT But Faster", "2210.09461", "ICLR 2023")
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    notes = "On MAE weights, which were trained without it, set prop_attn=false as the paper does."
    reported = (
        Reported("vit_s", {"r": 13}, 79.30),
        Reported("vit_b", {"r": 13}, 82.60),
        Reported("vit_l", {"r": 7}, 84.26),
        Reported("deit_s", {"r": 13}, 78.83),
        Reported("deit_s", {"r": 13}, 79.36, 2.7, trained=True),
        Reported("deit_t", {"r": 13}, 71.27, trained=True),
    )

    r: PerBlock = Field(13, description="tokens merged in each block: one number, or one a block (8/8/4)")
    inflect: float = Field(0.0, ge=-1, le=1, description="slope of r over the blocks: -1 falling, 0 constant, 1 rising")
    prop_attn: bool = Field(True, description="add the log of token sizes to the attention logits")

    @property
    def proportional(self) -> bool:
        """Proportional attention, unless switched off."""
        return self.prop_attn

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone; see `too_many`."""
        return too_many(self.r, self.inflect, vit)

    def caveat(self, vit: Backbone) -> str | None:
        """See `runs_out`."""
        return runs_out(self.r, self.inflect, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A merge in every block whose r is not 0."""
        return {i: [Merge(r)] for i, r in enumerate(schedule(self.r, self.inflect, vit.depth)) if r > 0}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's ToMe, by the options of its training: merges in few blocks, down to its counts."""
        run = suite(stored, "tome")
        if run is None:
            return None
        refusal = run.compounding(stored).refusal
        if refusal:
            return Release(SUITE, refusal=refusal)
        r, before = [0] * (max(run.blocks, default=-1) + 1), SUITE_PATCHES
        for block, count in zip(run.blocks, run.counts, strict=True):
            r[block], before = before - count, count
        return Release(SUITE, {"r": tuple(r)})
