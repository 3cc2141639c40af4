"""LTMP: every block learns from which likeness on tokens merge and below what importance they go (arXiv 2307.10780)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper
from tokenbench.methods.recipe import Recipe

IMPORTANCE = "importance"
SOFTNESS = 0.1  # of the masks in training
NEVER = -2.0  # a likeness that no threshold lets through


class Threshold(nn.Module):
    """A number that is learnt: values above it pass."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor([start]))

    def forward(self, values: Tensor) -> Tensor:
        """Whether values pass, 1 or 0; in training with the gradient of a sigmoid."""
        hard = (values > self.threshold).to(values.dtype)
        if not self.training:
            return hard
        soft = ((values - self.threshold) / SOFTNESS).sigmoid()
        return hard + soft - soft.detach()


class MergeAndPrune(Reducer):
    """Merge what is alike enough, then drop what receives too little attention."""

    matrix: ClassVar[bool] = True

    def __init__(self, merge: float, prune: float) -> None:
        super().__init__()
        self.merge_masker, self.prune_masker = Threshold(merge), Threshold(prune)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        if attn is None or attn.matrix is None:
            return tokens
        prefix = tokens.prefix
        here = torch.ones_like(tokens.patches[..., 0])
        for held in (tokens.present, tokens.alive):
            here = here if held is None else here * held.to(here.dtype)
        asking = F.pad(here.detach(), (prefix, 0), value=1.0)
        received = (attn.matrix * asking[:, None, :, None]).sum(2).mean(1) / asking.sum(1, keepdim=True)
        keys = F.normalize(attn.mean_key()[:, prefix:], dim=-1)
        a, b = slice(prefix % 2, None, 2), slice(1 - prefix % 2, None, 2)  # even and odd of all tokens
        if keys[:, a].shape[1] and keys[:, b].shape[1]:
            alike = keys[:, a] @ keys[:, b].transpose(1, 2)
            away = (here[:, a] < 0.5).unsqueeze(2) | (here[:, b] < 0.5).unsqueeze(1)
            best, nearest = alike.masked_fill(away, NEVER).max(dim=-1)
        else:
            best, nearest = keys.new_full(keys[:, a, 0].shape, NEVER), received.new_zeros(keys[:, a, 0].shape).long()
        merges = self.merge_masker(best)  # (B, |A|)
        if self.training:
            return self.softly(tokens, received[:, prefix:], merges * here[:, a], nearest, here, (a, b))
        own = torch.arange(merges.shape[1], device=nearest.device).expand_as(nearest)
        place = nearest.new_zeros(here.shape)
        place[:, a] = torch.where(merges > 0.5, merges.shape[1] + nearest, own)
        place[:, b] = merges.shape[1] + torch.arange(place[:, b].shape[1], device=place.device)
        top = torch.zeros_like(here).scatter_reduce(1, place, received[:, prefix:], "amax").gather(1, place)
        tokens = tokens.mark(IMPORTANCE, torch.cat([received[:, :prefix], top], dim=1)).group(place, None)
        return tokens.keep_where(self.prune_masker(tokens.marks[IMPORTANCE][:, prefix:]) > 0.5)

    def softly(
        self,
        tokens: Tokens,
        received: Tensor,
        merges: Tensor,
        nearest: Tensor,
        here: Tensor,
        halves: tuple[slice, slice],
    ) -> Tokens:
        """The same in training, where all tokens stay and masks say which are there."""
        (a, b), prefix, sizes = halves, tokens.prefix, tokens.sizes()
        moves = F.one_hot(nearest, here[:, b].shape[1]).to(here.dtype) * merges.unsqueeze(2)  # (B, |A|, |B|)
        x, size = tokens.patches, sizes[:, prefix:]
        taken = moves * size[:, a].unsqueeze(2)
        grown = size[:, b] + taken.sum(1)
        new_x, new_size, top, alive = x.clone(), size.clone(), received.clone(), here.clone()
        new_x[:, b] = (x[:, b] * size[:, b].unsqueeze(2) + taken.transpose(1, 2) @ x[:, a]) / grown.unsqueeze(2)
        new_size[:, b] = grown
        top[:, b] = received[:, b].maximum((moves * received[:, a].unsqueeze(2)).amax(1))
        alive[:, a] = here[:, a] * (1 - merges)
        made = tokens.with_x(torch.cat([tokens.x[:, :prefix], new_x], dim=1))
        made = made.sized(torch.cat([sizes[:, :prefix], new_size], dim=1))
        return made.mask(alive * self.prune_masker(top))


class LTMP(Method):
    """LTMP: by two learnt thresholds a block tokens merge and go, in some images more than in others."""

    name = "ltmp"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "none given"
    held: ClassVar[str] = "outputs of the published code; its training is written from the paper"
    paper: ClassVar[Paper | None] = Paper(
        "Learned Thresholds Token Merging and Pruning for Vision Transformers", "2307.10780", "TMLR 2023"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "target"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "thresholds": Recipe(
            epochs=1,
            batch=128,
            lr=5e-3,
            lr_batch=128,
            warmup_epochs=0,
            backbone_lr=1e-3,
            start="dense",
            knobs={"merge_from": 0.9},
            source="arXiv 2307.10780: one epoch, thresholds at 5e-3 and weights at 5e-6; augmentation as DeiT's",
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"target", "budget_weight", "merge_from", "prune_to"})
    notes = (
        "Its authors begin from merge_from=0.9, as its recipe does. In training the masked softmax adds 1e-6 to sums, "
        "and the published one 1e-5."
    )

    target: float = Field(0.75, gt=0, le=1, description="training: share of the dense model's FLOPs to come to")
    budget_weight: float = Field(10.0, ge=0, description="training: weight of the squared distance from that share")
    merge_from: float = Field(0.6, ge=-1, le=2, description="likeness above which tokens merge, before it is learnt")
    prune_to: float = Field(0.0, ge=0, le=1, description="importance up to which tokens go, before it is learnt")

    @property
    def proportional(self) -> bool:
        """In all blocks."""
        return True

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One in every block."""
        return {block: [MergeAndPrune(self.merge_from, self.prune_to)] for block in range(vit.depth)}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification, and the squared distance of the FLOPs that the mean masks stand for from the target."""
        terms = {"class": F.cross_entropy(out.logits, target)}
        if out.tokens.decisions:
            share = flops_share(out.tokens.decisions, out.tokens.prefix, out.features.shape[-1])
            terms["budget"] = self.budget_weight * (share - self.target) ** 2
        return terms

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Thresholds are named by their block there."""
        return {n: re.sub(r"\.reducers\.\d+\.", ".", name) for n, name in super().published(names).items()}


def flops_share(decisions: Sequence[Tensor], prefix: int, dim: int) -> Tensor:
    """FLOPs of the blocks over those of dense ones, by how many tokens masks (B, n) leave in the mean after each."""
    total = decisions[0].shape[1] + prefix
    left = [torch.ones_like(decisions[0].sum()), *((prefix + d.sum(1).mean()) / total for d in decisions)]
    whole = 6 * total * dim**2 + total**2 * dim
    blocks = [
        2 * one * total * dim**2 + one**2 * total**2 * dim + 4 * after * total * dim**2 for one, after in pairwise(left)
    ]
    return torch.stack(blocks).mean() / whole
