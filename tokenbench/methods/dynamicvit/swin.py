"""DynamicViT on Swin (arXiv 2207.01580): tokens stay in their places, and those scored low take a cheap path.

Windows need all tokens of a grid, so none is dropped: attention runs over all of them, and in place of the MLP the
less informative ones go through one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import STAGE, Swin, SwinTurn, laid, official
from tokenbench.core.attention import Attn
from tokenbench.core.block import Block, Reducer
from tokenbench.core.borrowed import unmeddled
from tokenbench.core.rows import across, add_at, take
from tokenbench.core.tokens import Paths, Tokens
from tokenbench.methods.base import unordered


class FastPath(nn.Module):
    """What stands in for the MLP: a LayerNorm and one linear layer."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) of (B, N, C)."""
        y: Tensor = self.linear(self.norm(x))
        return y


class Choose(Reducer):
    """Choose, among all tokens anew, which go through the MLPs that follow: those the predictor scores highest."""

    where: ClassVar = "before"

    def __init__(self, stage: int, predictor: nn.Module) -> None:
        super().__init__()
        self.stage = stage
        self.predictor = predictor

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block; in training by a Gumbel-softmax draw, which both paths then take part in."""
        scores = self.predictor(tokens.x, tokens.x.new_ones(tokens.x.shape[:2]))  # (B, N, 2)
        if self.training:
            chosen = self.draw(scores)
            paths = tokens.paths or Paths(tokens.x, tokens.x)
            return replace(tokens.with_x(_either(chosen, paths.slow, paths.fast)).mask(chosen), paths=paths)
        count = int(tokens.count * self.method.asymmetric_rate(self.stage))
        if count >= tokens.count:
            return replace(tokens, paths=None)
        order = scores[..., 0].argsort(dim=1, descending=True)
        return tokens.part(order[:, :count], order[:, count:])

    def draw(self, log_probs: Tensor) -> Tensor:
        """Hard 0/1 decisions (B, N) with straight-through gradients, one Gumbel sample a token."""
        return F.gumbel_softmax(log_probs, tau=1.0, hard=True)[..., 0]


class AsymmetricTurn(SwinTurn):
    """A Swin block with a fast path beside its MLP; the block as it is while no tokens are chosen.

    In training each path is also run for the tokens that do not take it, from where that path last left them, so that
    the decisions get gradients from the difference.
    """

    def __init__(self, turn: SwinTurn, reducers: Sequence[Reducer], last: bool) -> None:
        block, merging = turn.borrowed
        super().__init__(block, merging, turn.halvings, reducers)
        self.fast = FastPath(block.dim)
        self.last = last

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """The fast path counts as MLP, in whose place it is."""
        return [*super().parts, ("mlp", self.fast)]

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens after this block; all are alike again after the last block of the stage."""
        tokens = self.whole(self._reduce("before", self.enter(tokens), None))
        return replace(tokens, alive=None, paths=None) if self.last else tokens

    def whole(self, tokens: Tokens) -> Tokens:
        """The block, its MLP for the chosen tokens only."""
        if tokens.paths is None:
            return super().whole(tokens)
        block, paths = self.borrowed[0], tokens.paths
        unmeddled(block)
        x = tokens.x + block.drop_path1(block._attn(block.norm1(tokens.x).unflatten(1, laid(tokens))).flatten(1, 2))
        if tokens.alive is None:
            slow, fast = (take(x, index) for index in (paths.slow, paths.fast))
            update = torch.cat([block.drop_path2(block.mlp(block.norm2(slow))), block.drop_path2(self.fast(fast))], 1)
            places = torch.cat([paths.slow, paths.fast], 1)
            return tokens.with_x(x + add_at(update.to(x.dtype), across(places, x.shape[1]), x.shape[1]))
        slow = x + block.drop_path2(block.mlp(block.norm2(_either(tokens.alive, x, paths.slow))))
        fast = x + block.drop_path2(self.fast(_either(tokens.alive, paths.fast, x)))
        return replace(tokens.with_x(_either(tokens.alive, slow, fast)), paths=Paths(slow, fast))


class AsymmetricSwin(Swin):
    """A Swin whose blocks from one of the third stage on have a fast path; its weights are used in place."""

    def __init__(self, swin: Backbone, first: int) -> None:
        super().__init__(swin.vit, swin.name)
        self.first = first

    def __new__(cls, swin: Backbone, first: int) -> AsymmetricSwin:  # type: ignore[misc]
        """An adapter around the same model."""
        return object.__new__(cls)

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """Swin's own turn, with a fast path from block `first` to the end of the third stage."""
        turn, end = super().turn(index, reducers, proportional), sum(self.stages[: STAGE + 1])
        if self.first <= index < end and isinstance(turn, SwinTurn):
            return AsymmetricTurn(turn, reducers, index == end - 1)
        return turn


def places(swin: Swin, blocks: tuple[int, ...] | None) -> tuple[int, ...]:
    """The blocks before which tokens are chosen: as given, or in the third stage as published.

    That is blocks 1, 2, 3 of its 6 in Swin-T, and 2, 4, 6 of its 18 in Swin-S and B.
    """
    if blocks is not None:
        return blocks
    return tuple(sum(swin.stages[:STAGE]) + max(1, swin.stages[STAGE] // 9) * i for i in (1, 2, 3))


def outside_third_stage(swin: Swin, blocks: tuple[int, ...]) -> str | None:
    """The reason if a block lies in another stage than the third, else None."""
    first, end = sum(swin.stages[:STAGE]), sum(swin.stages[: STAGE + 1])
    wrong = [b for b in blocks if not first <= b < end]
    if wrong:
        return f"block {wrong[0]} is not in the third stage, whose blocks are {first} to {end - 1}"
    return unordered(blocks)


def released(names: Sequence[str]) -> dict[str, str]:
    """The published name of every tensor of a `Model.state_dict()`, by its name there."""
    kinds = ("norm", "linear")
    before = {m[0] for name in names if (m := re.match(r"vit\.layers\.[01]\.blocks\.\d+\.", name))}
    predictors = {name: re.fullmatch(r"blocks\.(\d+)\.reducers\.\d+\.predictor\.(.+)", name) for name in names}
    fast = {name: re.fullmatch(r"blocks\.(\d+)\.fast\.(\w+)\.(.+)", name) for name in names}
    stages = sorted({int(part[1]) for part in predictors.values() if part})
    stage = f"layers.{STAGE}"
    return (
        {name: official(name.removeprefix("vit.")) for name in names}
        | {n: f"{stage}.score_predictor.{stages.index(int(p[1]))}.{p[2]}" for n, p in predictors.items() if p}
        | {
            n: f"{stage}.blocks.{int(p[1]) - len(before)}.fastmlp.fc1.{kinds.index(p[2])}.{p[3]}"
            for n, p in fast.items()
            if p
        }
    )


def _either(chosen: Tensor, slow: Tensor, fast: Tensor) -> Tensor:
    """(B, N, C) rows of `slow` where `chosen` (B, N) is 1, of `fast` where it is 0."""
    return slow * chosen.unsqueeze(-1) + fast * (1 - chosen.unsqueeze(-1))
