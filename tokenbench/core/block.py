"""One turn of the loop, attention, reducers and MLP, and what a pass over all turns returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tokenbench.core.attention import Attn, attend, project, queries, values
from tokenbench.core.borrowed import unmeddled
from tokenbench.core.tokens import Tokens

Place = Literal["before", "attention", "between", "after"]
BLANK = "blank"  # mark (B, N): where it is 0, blocks take in zeros in place of the token's normalised features


@dataclass(frozen=True)
class Output:
    """What a pass returns besides the logits.

    `features` are the final-norm outputs (B, N, C) of `tokens`, the tokens that are left; `trace` holds the tokens
    after each block, in order; `patch_head` is a head that reads patches too, where there is one. In training, `twin`
    is what the same weights give by another setting, where a method has one (`Method.twin`).
    """

    logits: Tensor
    features: Tensor
    tokens: Tokens
    trace: tuple[Tokens, ...]
    patch_head: nn.Module | None = None
    twin: Output | None = None

    @property
    def patches(self) -> Tensor | None:
        """What the head on patches says of each token after the prefix, (B, N - prefix, classes); None without one."""
        return None if self.patch_head is None else self.patch_head(self.features[:, self.tokens.prefix :])


class Reducer(nn.Module):
    """One place in a block where tokens change.

    `where` is "before" the block, "attention" (q, k and v are there, and nothing is mixed yet), "between" the block's
    attention and its MLP, or "after" it. `attn` is given at "attention" and "between". `self.method` holds the knobs as
    they are now; read those that a schedule may change from there, in `forward`.
    """

    where: ClassVar[Place] = "between"
    matrix: ClassVar[bool] = False  # True: attention is written out, once for this reducer and for the block's output
    values: ClassVar[Literal["before", "after"]] = "before"  # "after": at "attention", v comes of the tokens returned
    rate: ClassVar[float] = 1.0  # factor on the learning rate of its parameters
    requery: ClassVar[bool] = False  # True, in eval mode: at "attention", q of patches comes of the tokens returned too
    method: Any = None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Any:
        """Return the tokens after this place, changed only by the verbs of `Tokens`.

        At "attention" return the `Attn` that goes on too: `(tokens, replace(attn, ...))` with another bias, other
        queries (those of the tokens that are left), or a matrix in place of softmax. As many queries, or rows of the
        matrix, as there are tokens; as many keys, or columns, as there are values.
        """
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
        if self._plain(tokens):
            tokens = self.whole(tokens)
        else:
            # handed on in one breath: q, k and v must not live through the MLP
            tokens = self._reduce("between", *self.attention(tokens))
            tokens = self.mlp(tokens)
        return self._reduce("after", tokens, None)

    def enter(self, tokens: Tokens) -> Tokens:
        """What comes before anything else in this turn."""
        return tokens

    def whole(self, tokens: Tokens) -> Tokens:
        """The block when nothing reduces in it: timm's, called as it is."""
        return tokens.with_x(self.borrowed[0](tokens.x))

    def attention(self, tokens: Tokens) -> tuple[Tokens, Attn]:
        """The tokens after attention and its residual, and what a reducer may ask of it."""
        block, context, start = self.borrowed[0], tokens.context, tokens.x
        unmeddled(block, block.attn)
        within = self._at("attention")
        y = _blanked(block.norm1(start), tokens)
        keys = None if context is None else block.norm1(context.x)
        asking = tokens.prefix if not self.training and any(r.requery for r in within) else None
        q, k, v = self.project(tokens, y, keys, any(r.values == "after" for r in within), asking)
        bias = self._bias(tokens if context is None else context)
        attn = Attn(q, k, v, block.attn.scale, tokens.prefix, bias, y=y, real=tokens.real)
        if tokens.alive is not None or any(r.matrix for r in (*within, *self._at("between"))):
            attn = attn.written_out(_policy(tokens))
        for reducer in within:
            tokens, attn = reducer(tokens, attn)
        if tokens.x is not start:
            y = _blanked(block.norm1(tokens.x), tokens)
            attn = replace(attn, y=y, real=tokens.real)
        if asking is not None:
            attn = replace(attn, q=self.queries(tokens, y))
        if attn.v is None:
            attn = replace(attn, v=self.values(y))
        x = tokens.x + block.drop_path1(self.scaled(1, attend(block.attn, attn, y)))
        if context is not None and context.source is not None:
            made = context.mix(attn.weights(), x)
            tokens = replace(tokens, source=made.source, fused=made.fused)
        return tokens.with_x(x), attn

    def mlp(self, tokens: Tokens) -> Tokens:
        """The tokens after the MLP and its residual."""
        block = self.borrowed[0]
        y = block.mlp(_blanked(block.norm2(tokens.x), tokens))
        return tokens.with_x(tokens.x + block.drop_path2(self.scaled(2, y)))

    def project(
        self, tokens: Tokens, y: Tensor, keys: Tensor | None, late: bool, asking: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, keys and values, as `core.attention.project` has them."""
        return project(self.borrowed[0].attn, y, keys, late, asking)

    def queries(self, tokens: Tokens, y: Tensor) -> Tensor:
        """Queries of normalised tokens, as `core.attention.queries` has them."""
        return queries(self.borrowed[0].attn, y)

    def values(self, y: Tensor) -> Tensor:
        """Values of normalised tokens, as `core.attention.values` has them."""
        return values(self.borrowed[0].attn, y)

    def scaled(self, branch: int, x: Tensor) -> Tensor:
        """What LayerScale makes of a residual branch, 1 or 2."""
        block = self.borrowed[0]
        return block.ls1(x) if branch == 1 else block.ls2(x)  # type: ignore[no-any-return]

    def _plain(self, tokens: Tokens) -> bool:
        """Whether nothing happens inside the block."""
        sized = self.proportional and tokens.size is not None
        marked = any(held is not None for held in (tokens.alive, tokens.context, tokens.present))
        marked = marked or BLANK in tokens.marks
        return not (sized or marked or self._at("attention") or self._at("between"))

    def _bias(self, keys: Tokens) -> Tensor | None:
        """(B, 1, 1, N) added to the logits: the log of sizes where attention is proportional, -inf at padding."""
        bias = keys.size.log() if self.proportional and keys.size is not None else None
        if keys.real is not None:
            bias = (torch.zeros_like(keys.x[..., 0]) if bias is None else bias).masked_fill(~keys.real, float("-inf"))
        return None if bias is None else bias[:, None, None, :]

    def _at(self, where: str) -> list[Reducer]:
        return [reducer for reducer in self.reducers if reducer.where == where]  # type: ignore[misc]

    def _reduce(self, where: str, tokens: Tokens, attn: Attn | None) -> Tokens:
        for reducer in self._at(where):
            tokens = reducer(tokens, attn)
        return tokens


def _blanked(y: Tensor, tokens: Tokens) -> Tensor:
    shown = tokens.marks.get(BLANK)
    return y if shown is None else y * shown.unsqueeze(-1)


def _policy(tokens: Tokens) -> Tensor | None:
    if tokens.alive is None:
        return None
    alive = tokens.alive if tokens.present is None else tokens.alive * tokens.present
    return torch.cat([alive.new_ones(alive.shape[0], tokens.prefix), alive], dim=1)
