"""MCTF: merge by similarity, attention received and size, and attend as if merging came after (arXiv 2403.10030)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.rows import take
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported, outside, quarters
from tokenbench.methods.recipe import FINETUNE, Recipe

FEWEST = 10  # tokens below which nothing merges


def going(r: float, total: int) -> int:
    """Tokens to merge of `total`, the class token included: r of them, or that share; never below `FEWEST` are left."""
    r = min(r, total - FEWEST)
    return min(int((total - 1) * r) if r < 1 else int(r), (total - 1) // 2)


def both_ways(scores: Tensor, r: int, bidirectional: bool) -> tuple[Tensor, Tensor, int]:
    """Half of r merge from A into B, then the other half from B into what is left of A (section 3.3).

    Args:
        scores: (B, |A|, |B|).
        r: tokens to merge.
        bidirectional: False merges all of them from A into B.

    Returns:
        The places of A and of B, (B, |A|) and (B, |B|), and their number: the rest of A, then that of B by best score.
    """
    first = r // 2 if bidirectional else r
    best, nearest = scores.max(dim=2)
    order = best.argsort(dim=1, descending=True, stable=True)
    merged, left = order[:, :first], order[:, first:].sort(dim=1).values
    ahead = left.shape[1]
    if bidirectional:
        best_b, nearest_b = take(scores, left).max(dim=1)
    else:
        best_b, nearest_b = scores.max(dim=1)
    order_b = best_b.argsort(dim=1, descending=True, stable=True)
    merged_b, left_b = order_b[:, : r - first], order_b[:, r - first :]
    place_b = torch.zeros_like(order_b).scatter(1, merged_b, nearest_b.gather(1, merged_b))
    place_b = place_b.scatter(1, left_b, ahead + torch.arange(left_b.shape[1], device=left_b.device).expand_as(left_b))
    place_a = torch.zeros_like(order).scatter(1, left, torch.arange(ahead, device=left.device).expand_as(left))
    place_a = place_a.scatter(1, merged, place_b.gather(1, nearest.gather(1, merged)))
    return place_a, place_b, ahead + left_b.shape[1]


class MergeAhead(Reducer):
    """Merge tokens before the values are made, and the attention between them with them (one step ahead)."""

    where: ClassVar = "attention"
    matrix: ClassVar[bool] = True
    values: ClassVar = "after"

    def forward(self, tokens: Tokens, attn: Attn | None) -> tuple[Tokens, Attn | None]:
        """At attention."""
        r = going(self.method.r, tokens.count)
        if attn is None or attn.matrix is None or r <= 0:
            return tokens, attn
        received = attn.received().mean(1).detach() / tokens.count  # (B, N)
        place, count = self.places(tokens, received, r)
        sizes = tokens.sizes()
        weights = received * sizes / sizes.amax(1, keepdim=True)
        merged = tokens.group(place, count, weights=weights[:, tokens.prefix :])
        lead = torch.arange(tokens.prefix, device=place.device).expand(place.shape[0], -1)
        whole = torch.cat([lead, place + tokens.prefix], dim=1)
        return merged, replace(attn, matrix=folded(attn.matrix, whole, weights, merged.count))

    def places(self, tokens: Tokens, received: Tensor, r: int) -> tuple[Tensor, int]:
        """The place (B, N - prefix) of each patch, and their number; A are those at even positions of all tokens."""
        method, start = self.method, tokens.prefix
        rare = 1 / received
        rare = rare / rare.amax(1, keepdim=True)
        small = 1 / tokens.sizes()
        small = small / small.amax(1, keepdim=True)
        factor = (rare ** (1 / method.tau_info) * small ** (1 / method.tau_size))[:, start:]
        x = F.normalize(tokens.patches.detach(), dim=-1)
        a, b = slice(start % 2, None, 2), slice(1 - start % 2, None, 2)
        like = ((x[:, a] @ x[:, b].transpose(1, 2) + 1) / 2).clamp(min=0) ** (1 / method.tau_sim)
        scores = like * factor[:, a].unsqueeze(2) * factor[:, b].unsqueeze(1)
        place_a, place_b, count = both_ways(scores, r, method.bidirectional)
        place = place_a.new_zeros(x.shape[:2])
        place[:, a], place[:, b] = place_a, place_b
        return place, count


def folded(matrix: Tensor, place: Tensor, weights: Tensor, count: int) -> Tensor:
    """Attention (B, H, count, count) between merged tokens, of (B, H, N, N): columns add up, rows are averaged.

    Args:
        matrix: attention, whose rows sum to 1.
        place: (B, N) where each token goes.
        weights: (B, N) of the rows in their means.
        count: number of merged tokens.
    """
    matrix = matrix.to(weights.dtype)  # which may be lower, under autocast
    batch, heads, total, _ = matrix.shape
    columns = matrix.new_zeros(batch, heads, total, count)
    columns = columns.scatter_add(3, place[:, None, None].expand_as(matrix), matrix)
    rows = matrix.new_zeros(batch, heads, count, count)
    rows = rows.scatter_add(2, place[:, None, :, None].expand_as(columns), columns * weights[:, None, :, None])
    whole = weights.new_zeros(batch, count).scatter_add(1, place, weights)
    return rows / whole[:, None, :, None]


class MCTF(Method):
    """MCTF: merge tokens that are alike, little attended to and small, before the attention of most blocks."""

    name = "mctf"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "Multi-criteria Token Fusion with One-step-ahead Attention for Efficient Vision Transformers",
        "2403.10030",
        "CVPR 2024",
    )
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": FINETUNE.change(
            {
                "lr": 1.5e-5,
                "weight_decay": 0.05,
                "drop_path": 0.1,
                "mixup": 0,
                "cutmix": 0,
                "source": "arXiv 2403.10030 and its released settings; the rest as EViT's",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"consistency", "confidence"})
    notes = "r below 1 is a share of the tokens, at three stages (r=0.35 is its authors' fast form)."
    reported = (
        Reported("deit_t", {"r": 16}, 72.7, 0.71, trained=True),
        Reported("deit_t", {"r": 0.35}, 72.7, 0.75, trained=True, reason="0.745 rounded up"),
        Reported("deit_s", {"r": 16}, 80.1, 2.60, trained=True, reason="2.594 rounded up"),
        Reported("deit_s", {"r": 0.35}, 80.1, 2.76, trained=True, reason="2.750 rounded up"),
        Reported("deit_s", {"r": 18}, 79.9, 2.4, trained=True),
        Reported("deit_s", {"r": 20}, 79.5, 2.2, trained=True),
    )

    r: float = Field(16, ge=0, description="tokens merged in each block, or below 1 the share of the tokens that is")
    blocks: Places | None = Field(
        None, description="blocks that merge; all but the first if unset, for a share a quarter, half, three quarters"
    )
    tau_sim: float = Field(1.0, gt=0, description="how little likeness of tokens counts")
    tau_info: float = Field(20.0, gt=0, description="how little the attention they receive counts")
    tau_size: float = Field(40.0, gt=0, description="how little their size counts")
    bidirectional: bool = Field(True, description="merge half of r one way and half the other")

    consistency: float = Field(3.0, ge=0, description="training: weight of the distance from a pass that merges fewer")
    confidence: float = Field(
        0.4, ge=0, le=1, description="training: probability of the label from which on an image's distance counts"
    )

    @property
    def proportional(self) -> bool:
        """In all blocks."""
        return True

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone; r a whole number from 1 on."""
        if self.r >= 1 and self.r % 1:
            return f"r={self.r:g} is no whole number of tokens, nor a share of them, which is below 1"
        return outside(self.places(vit), vit)

    def places(self, vit: Backbone) -> tuple[int, ...]:
        """The blocks that merge."""
        return tuple(range(1, vit.depth)) if self.blocks is None and self.r >= 1 else quarters(self.blocks, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A merge in each; none at r 0."""
        return {block: [MergeAhead()] for block in self.places(vit)} if self.r else {}

    def twin(self) -> MCTF:
        """The teacher: it merges fewer, drawn below half of r each time (for 16, 0 to 7)."""
        half = self.r / 2
        r = half * torch.rand(()).item() if self.r < 1 else torch.randint(max(1, int(half)), ()).item()
        return self.model_copy(update={"r": r})

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification by both passes, and the distance of class tokens where the label is held for likely."""
        terms = {"class": F.cross_entropy(out.logits, target)}
        if out.twin is None:
            return terms
        own, theirs = out.features[:, 0], out.twin.features[:, 0].detach()
        label = target if target.dim() == 1 else target.argmax(dim=1)
        sure = out.logits.detach().softmax(dim=1).gather(1, label.unsqueeze(1)).squeeze(1) > self.confidence
        apart = ((own - theirs) ** 2).mean(dim=1) * sure
        terms["class_twin"] = F.cross_entropy(out.twin.logits, target)
        terms["consistency"] = self.consistency * apart.sum() / sure.sum().clamp(min=1)
        return terms
