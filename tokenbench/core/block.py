"""One turn of the loop, attention, reducers and MLP, and what a pass over all turns returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tokenbench.core.attention import Attn, attend
from tokenbench.core.tokens import Tokens


@dataclass(frozen=True)
class Output:
    """What a pass returns besides the logits.

    `features` are the final-norm outputs (B, N, C) of `tokens`, the tokens that are left; `trace` holds the tokens
    after each block, in order.
    """

    logits: Tensor
    features: Tensor
    tokens: Tokens
    trace: tuple[Tokens, ...]


class Reducer(nn.Module):
    """One place in a block where tokens change.

    `where` is "before" the block, "between" its attention and its MLP, or "after" it. `attn` is given only between.
    `self.method` holds the knobs as they are now; read those that a schedule may change from there, in `forward`.
    """

    where: ClassVar[Literal["before", "between", "after"]] = "between"
    method: Any = None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Return the tokens after this place, changed only by the verbs of `Tokens`."""
        raise NotImplementedError


class Block(nn.Module):
    """One turn of the loop: a timm block and what reduces tokens in it. Owns the reducers, borrows the block.

    This is the turn of plain blocks; families whose blocks work otherwise override its four steps.
    """

    def __init__(self, block: Any, reducers: Sequence[Reducer] = (), proportional: bool = False) -> None:
        super().__init__()
        # a tuple, so that its parameters are registered once, in the timm model
        self.borrowed: tuple[Any, ...] = (block,)
        self.reducers = nn.ModuleList(reducers)
        self.proportional = proportional

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """The borrowed modules whose costs are told apart, by part of `tokenbench.measure.flops.PARTS`."""
        return [("mlp", self.borrowed[0].mlp)]

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens after this block."""
        tokens = self._reduce("before", self.enter(tokens), None)
        plain = tokens.alive is None and tokens.context is None and not (self.proportional and tokens.size is not None)
        if plain and not any(r.where == "between" for r in self.reducers):
            tokens = self.whole(tokens)
        else:
            tokens, attn = self.attention(tokens)
            tokens = self.mlp(self._reduce("between", tokens, attn))
        return self._reduce("after", tokens, None)

    def enter(self, tokens: Tokens) -> Tokens:
        """What comes before anything else in this turn."""
        return tokens

    def whole(self, tokens: Tokens) -> Tokens:
        """The block when nothing reduces in it: timm's, called as it is."""
        return tokens.with_x(self.borrowed[0](tokens.x))

    def attention(self, tokens: Tokens) -> tuple[Tokens, Attn]:
        """The tokens after attention and its residual, and what a reducer may ask of it."""
        block = self.borrowed[0]
        keys = None if tokens.context is None else block.norm1(tokens.context.x)
        bias = tokens.size.log()[:, None, None, :] if self.proportional and tokens.size is not None else None
        out, q, k = attend(block.attn, block.norm1(tokens.x), keys, bias, _policy(tokens))
        attn = Attn(q, k, block.attn.scale, tokens.prefix, bias)
        x = tokens.x + block.drop_path1(block.ls1(out))
        if tokens.context is not None and tokens.context.source is not None:
            tokens = replace(tokens.context.mix(attn.weights(), x, tokens.layout), context=tokens.context)
        return tokens.with_x(x), attn

    def mlp(self, tokens: Tokens) -> Tokens:
        """The tokens after the MLP and its residual."""
        block = self.borrowed[0]
        return tokens.with_x(tokens.x + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x)))))

    def _reduce(self, where: str, tokens: Tokens, attn: Attn | None) -> Tokens:
        for reducer in self.reducers:
            if reducer.where == where:
                tokens = reducer(tokens, attn)
        return tokens


def _policy(tokens: Tokens) -> Tensor | None:
    if tokens.alive is None:
        return None
    return torch.cat([tokens.alive.new_ones(tokens.alive.shape[0], tokens.prefix), tokens.alive], dim=1)
