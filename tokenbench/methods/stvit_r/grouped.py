"""Windows that look at their neighbourhoods of a map, in groups: what the gathered form gives, at less cost.

A group's keys are one crop of the map, projected once, and what a window does not see of it is masked. Zeros over the
border and in the padding are n equal keys, so one key with log n added to its logit. Only places that the map has are
projected, asked for or attended to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from tokenbench.core.windows import Pair
from tokenbench.methods.stvit_r.blocks import Semantic

HIDDEN = -1000.0  # added to the logits of hidden keys
TOGETHER = 3  # windows along a group: more, and each looks at more keys in vain; fewer, and more are copied
ON_GPU = 12  # the same there, where starting work costs more than looking in vain
KEPT = 12  # sizes of maps whose masks are kept, by block


@dataclass(frozen=True)
class Side:
    """Windows and their neighbourhoods along one side of a map; all in tokens."""

    ask: int  # queries along a window
    asking: int  # queries along the map
    step: int  # keys along a window
    reach: int  # keys along a neighbourhood
    real: int  # keys that the map has
    padded: int  # keys with the zeros that make whole windows
    below: int  # keys at the end of `padded` that are hidden where they are on the other side too; 0 for all

    @property
    def windows(self) -> int:
        """How many there are."""
        return self.padded // self.step

    @property
    def hidden(self) -> int:
        """The first of the keys that are hidden where they are on the other side too."""
        return max(0, self.padded - self.below) if self.below else 0

    def span(self, window: int) -> tuple[int, int]:
        """The first key of a neighbourhood and the first after it, over the border too."""
        start = window * self.step - (self.reach - self.step) // 2
        return start, start + self.reach

    def seen(self, window: int, first: int, end: int) -> int:
        """How many of the keys from `first` to `end` a window sees."""
        start, stop = self.span(window)
        return max(0, min(stop, end) - max(start, first))

    def groups(self, together: int) -> Iterator[Group]:
        """So many windows at a time, or all that there are where every one sees the whole side."""
        alike = all(self.seen(window, 0, self.real) == self.real for window in range(self.windows))
        size = self.windows if alike else together
        for first in range(0, self.windows, size):
            yield Group(self, first, min(first + size, self.windows))


@dataclass(frozen=True)
class Group:
    """Neighbouring windows along one side."""

    side: Side
    first: int
    end: int

    @property
    def queries(self) -> slice:
        """Their queries on the map."""
        return slice(self.first * self.side.ask, min(self.end * self.side.ask, self.side.asking))

    @property
    def keys(self) -> slice:
        """The crop of the map that they see together."""
        return slice(max(0, self.side.span(self.first)[0]), min(self.side.real, self.side.span(self.end - 1)[1]))

    @property
    def partial(self) -> bool:
        """Whether some window does not see all of the crop."""
        whole = self.keys.stop - self.keys.start
        return any(self.side.seen(w, self.keys.start, self.keys.stop) < whole for w in range(self.first, self.end))

    def places(self, device: torch.device) -> Tensor:
        """(keys,) where each key of the crop lies on the map."""
        return torch.arange(self.keys.start, self.keys.stop, device=device)

    def visible(self, device: torch.device) -> Tensor:
        """(windows, keys) whether a window sees a key of the crop."""
        starts, ends = torch.tensor([self.side.span(w) for w in range(self.first, self.end)], device=device).T
        places = self.places(device)
        seen: Tensor = (places >= starts[:, None]) & (places < ends[:, None])
        return seen

    def of_query(self, device: torch.device) -> Tensor:
        """(queries,) the window of each, counted in the group."""
        return torch.arange(self.queries.stop - self.queries.start, device=device) // self.side.ask


def grouped(
    block: Semantic, asking: Tensor, grid: Tensor, ask: int, step: int, reach: int, corner: Pair | None
) -> Tensor:
    """What each place of a map finds in the neighbourhood of its window on another map, scaled: (B, rows * columns, C).

    Args:
        block: its weights.
        asking: (B, rows, columns, C) what asks; its last windows need not be whole.
        grid: (B, rows, columns, C) what is looked at; nor need these.
        ask: queries along a window.
        step: keys along a window.
        reach: keys along a neighbourhood.
        corner: rows and columns at the end that are hidden where they meet, 0 for all, and so is what lies over the
            border; None to hide nothing.
    """
    sides = [
        Side(
            ask, asking.shape[i + 1], step, reach, length, -(-length // step) * step, 0 if corner is None else corner[i]
        )
        for i, length in enumerate(grid.shape[1:3])
    ]
    attn = block.attn
    q = attn.q(block.norm1(asking)).unflatten(3, (attn.num_heads, -1))
    kv = attn.kv(block.norm1(grid))
    zero = attn.kv(block.norm1(grid.new_zeros(1, 1, grid.shape[3]))).expand(len(grid), -1, -1)
    lines = []
    for several in _plan(sides[0], sides[1], corner is not None, q):
        line = []
        for rows, cols, bias, zeros in several:
            keys = kv[:, rows.keys, cols.keys].flatten(1, 2)
            if zeros:
                keys = torch.cat([keys, zero], dim=1)
            k, v = keys.unflatten(2, (2, attn.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            asked = q[:, rows.queries, cols.queries]
            out = attn.attend(asked.flatten(1, 2).transpose(1, 2), k, v, bias)
            line.append(out.transpose(1, 2).unflatten(1, asked.shape[1:3]))
        lines.append(torch.cat(line, dim=2))
    mixed: Tensor = block.layer_scale_1 * attn.proj(torch.cat(lines, dim=1).flatten(1, 2).flatten(2))
    return mixed


Planned = tuple[Group, Group, Tensor | None, bool]


def _plan(rows: Side, cols: Side, hide: bool, like: Tensor) -> tuple[tuple[Planned, ...], ...]:
    """All groups, line by line, each with what `_bias` says of it. It depends on sizes only, and is kept for the next
    block or image, unless a compiler or the like looks on.
    """
    together = ON_GPU if like.device.type == "cuda" else TOGETHER
    plan = _planned.__wrapped__ if torch.compiler.is_compiling() or type(like) is not Tensor else _planned
    return plan(rows, cols, hide, together, like.dtype, like.device)


@lru_cache(maxsize=KEPT)
def _planned(
    rows: Side, cols: Side, hide: bool, together: int, dtype: torch.dtype, device: torch.device
) -> tuple[tuple[Planned, ...], ...]:
    with torch.inference_mode(False), torch.no_grad():  # what is kept may serve training next
        return tuple(
            tuple((row, col, *_bias(row, col, hide, dtype, device)) for col in cols.groups(together))
            for row in rows.groups(together)
        )


def _bias(rows: Group, cols: Group, hide: bool, dtype: torch.dtype, device: torch.device) -> tuple[Tensor | None, bool]:
    """What is added to a group's logits, (queries or 1, keys), and whether the zero is the last of its keys."""
    shape = (rows.end - rows.first, cols.end - cols.first)
    weights = [
        _weights(rows.side, cols.side, i, j, hide)
        for i, j in product(range(rows.first, rows.end), range(cols.first, cols.end))
    ]
    zeros = any(zero > HIDDEN / 2 for _, zero in weights)
    corner = any(hidden for hidden, _ in weights) and all(g.keys.stop > g.side.hidden for g in (rows, cols))
    partial = rows.partial or cols.partial
    if not (zeros or corner or partial):
        return None, False
    alike = not partial and len(set(weights)) == 1
    if alike:
        shape, weights = (1, 1), weights[:1]
    added = torch.tensor(weights, dtype=dtype, device=device).view(*shape, 2)
    bias = added.new_zeros(*shape, rows.keys.stop - rows.keys.start, cols.keys.stop - cols.keys.start)
    if corner:
        late_rows, late_cols = (g.places(device) >= g.side.hidden for g in (rows, cols))
        bias = bias + added[..., 0, None, None] * (late_rows[:, None] & late_cols)
    least = torch.finfo(dtype).min  # not -inf, of which a block of a fused kernel may hold nothing else
    if partial:
        seen = rows.visible(device)[:, None, :, None] & cols.visible(device)[None, :, None, :]
        bias = bias.masked_fill(~seen, least)
    bias = bias.flatten(2)
    if zeros:
        bias = torch.cat([bias, added[..., 1:].clamp(min=least)], dim=2)
    if not alike:
        bias = bias[rows.of_query(device)][:, cols.of_query(device)]
    return bias.flatten(0, 1), zeros


def _weights(rows: Side, cols: Side, i: int, j: int, hide: bool) -> tuple[float, float]:
    """What is added to a window's logits of hidden keys, and of the zero that stands for all of its zeros."""

    def seen(first: tuple[int, int], end: tuple[int, int]) -> int:
        return rows.seen(i, first[0], end[0]) * cols.seen(j, first[1], end[1])

    real = (rows.real, cols.real)
    zeros = rows.reach * cols.reach - seen((0, 0), real)
    if not hide:
        return 0.0, _log(zeros)
    padded, corner = (rows.padded, cols.padded), (rows.hidden, cols.hidden)
    shown = seen((0, 0), padded) - seen(corner, padded)  # places that are not hidden, zeros among them
    if not shown:
        return 0.0, _log(zeros)  # all are hidden alike, which softmax does not see
    blank = shown - seen((0, 0), real) + seen(corner, real)  # zeros that are not hidden
    return HIDDEN, _log(blank) if blank else HIDDEN + _log(zeros)


def _log(count: int) -> float:
    return math.log(count) if count else -math.inf
