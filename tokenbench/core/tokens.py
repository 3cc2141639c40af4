"""Tokens and its verbs: the only code that changes a token map.

A token starts as one patch. Methods drop tokens (`keep`, `keep_where`), merge them (`group`) or condense them (`mix`);
each verb changes the features, all that is known of each token (`size`, `marks`) and, when maps are being traced, the
map from patches to tokens in the same way. So a method's author writes no visualisation code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenbench.core.paths import Paths as Paths
from tokenbench.core.rows import across, add_at, stacked
from tokenbench.core.tokendata import TokenData, empty
from tokenbench.errors import Unsupported

PLACE = "place"  # mark (B, N), whole numbers: where each token lay at first, for blocks that read positions


@dataclass(frozen=True)
class Tokens(TokenData):
    """The tokens of a batch, and what may become of them.

    Verbs never touch prefix tokens; their indices count from the first other.
    """

    def mark(self, name: str, value: Tensor) -> Tokens:
        """Keep a value (B, N) or (B, N, D) of each token, prefix included, for a later block: `marks[name]`.

        It follows its token: `keep` and `keep_where` pick it, `group`, `mix` and a fused token make it as they make
        features, `join` keeps those that both have. Tokens made otherwise (`ask`, `halve`) have none.

        Raises:
            ValueError: the value is not one a token.
        """
        if value.dim() not in (2, 3) or value.shape[:2] != self.x.shape[:2]:
            want = tuple(self.x.shape[:2])
            raise ValueError(f"Mark '{name}' has shape {tuple(value.shape)}; give {want} or {want} and a width.")
        return replace(self, marks=MappingProxyType({**self.marks, name: value}))

    def store(self, name: str, value: Any) -> Tokens:
        """Hand any other value to a later block, as it is: `state[name]`. Every verb carries it, and none changes it.

        Tokens themselves may be handed on, such as `keep(others)` to `join` again some blocks later.
        """
        return replace(self, state=MappingProxyType({**self.state, name: value}))

    def keep(self, index: Tensor, fuse: Tensor | None = None) -> Tokens:
        """Prune: keep the tokens at `index`, in that order.

        Args:
            index: (B, K) or, the same for every image, (K,); positions among the tokens after the prefix.
            fuse: (B, N - prefix) weights. If given, one token is appended: the sum of the dropped tokens, each times
                its weight (EViT, arXiv 2202.07800, equation 5). Its size and map are the sum of theirs, and their
                patches count as `fused` from then on, whatever becomes of that token.
        """
        index = index.expand(self.x.shape[0], -1)
        kept = self._pick(index)
        return (kept if fuse is None else self._fuse(kept, torch.ones_like(fuse).scatter(1, index, 0.0), fuse))._pack()

    def keep_where(self, mask: Tensor, fuse: Tensor | None = None, always: bool = False) -> Tokens:
        """Prune where images differ in how many tokens they keep; the others are padded (`present`).

        In a graph that is compiled or exported, and on the meta device, where shapes cannot hang on values, what is
        dropped stays as padding, behind the others.
        One image alone is never padded.

        Args:
            mask: (B, N - prefix) True for tokens to keep. An image without prefix tokens keeps its first in any case.
            fuse: as for `keep`.
            always: images that drop none have a fused token too, of zeros.
        """
        if self.present is not None:
            mask = mask & self.present
        if self.prefix == 0:
            first = torch.arange(mask.shape[1], device=mask.device) == 0
            mask = mask | (first & ~mask.any(1, keepdim=True))
        kept = replace(self, present=mask, layout=None)
        return (kept if fuse is None else self._fuse(kept, (~mask).to(fuse.dtype), fuse, always))._pack()

    def sized(self, size: Tensor | None) -> Tokens:
        """The same tokens with other sizes (B, N), which proportional attention and pooling read; None keeps none."""
        return replace(self, size=size)

    def group(self, assign: Tensor, count: int | None, weights: Tensor | None = None, eps: float = 0.0) -> Tokens:
        """Merge: hard clusters, each the mean of its tokens weighted by their sizes, or by other weights.

        Args:
            assign: (B, N - prefix) new place of each token after the prefix, in [0, count).
            count: number of tokens after the prefix in the result. None where images differ in it: places that
                nothing goes to are left out, and images with fewer are padded (`present`).
            weights: (B, N - prefix) what each token weighs in the mean, in place of its size; sizes add up as ever.
            eps: added to the sum of the weights that the mean is divided by.
        """
        self._unplaced()
        uneven = count is None or self.present is not None
        places = self.count - self.prefix if count is None else count
        # the prefix goes along, each token by itself, which is cheaper than to lay it before the others after
        total = self.prefix + places
        at = across(self._placed(assign), total)
        sizes = self.sizes() if self.real is None else self.sizes() * self.real
        size = add_at(sizes.unsqueeze(-1), at, total)  # (B, total, 1)
        part, whole = sizes, size
        if weights is not None:
            part = F.pad(weights if self.present is None else weights * self.present, (self.prefix, 0), value=1.0)
            whole = add_at(part.unsqueeze(-1), at, total)
        whole = whole.where(size > 0, 1) if uneven else whole
        if eps:
            whole = whole + F.pad(whole.new_full((places, 1), eps), (0, 0, self.prefix, 0))

        def merged(values: Tensor) -> Tensor:
            return add_at(values * part.unsqueeze(-1), at, total) / whole

        grouped = replace(
            self,
            x=merged(self.x),
            size=size.squeeze(-1),
            source=None if self.source is None else add_at(self.source, across(assign, places), places),
            present=size[:, self.prefix :, 0] > 0 if uneven else None,
            marks=self._marks(merged),
            layout=None,
        )
        return grouped._pack() if uneven else grouped

    def halve(self, x: Tensor) -> Tokens:
        """Patch merging (Swin): of every 2x2 tokens one, with features x (B, rows/2 * columns/2, C), rounded up.

        Raises:
            ValueError: the tokens lie in no grid.
        """
        if self.layout is None:
            raise ValueError("Tokens that lie in no grid have no neighbours to merge; reduce them by `mix` or `ask`.")
        rows, cols = self.layout
        source = self.source
        if source is not None:
            source = source.unflatten(1, self.layout)
            if rows % 2 or cols % 2:
                source = F.pad(source, (0, 0, 0, cols % 2, 0, rows % 2))
            source = source.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).sum((2, 4)).flatten(1, 2)
        fused = None if self.fused is None else torch.zeros_like(self.fused)
        layout = (-(-rows // 2), -(-cols // 2))
        made = replace(self, x=x, size=None, source=source, fused=fused, layout=layout, marks=empty())
        return made.settle()

    def mix(self, weights: Tensor, x: Tensor | None = None, layout: tuple[int, int] | None = None) -> Tokens:
        """Condense: soft clusters; the result has no prefix. `condense` keeps it.

        Args:
            weights: (B, M, N) what each new token takes of each token, prefix included; 0 of padding.
            x: (B, M, C) features of the new tokens; `weights @ x` if not given.
            layout: rows and columns the new tokens lie in, if they lie in a grid.
        """
        self._unplaced()
        source = None
        if self.source is not None:
            source = weights[:, :, self.prefix :].to(self.source.dtype) @ self.source
        x = weights @ self.x if x is None else x
        marks = self._marks(lambda mark: weights.to(mark.dtype) @ mark)
        return replace(self, x=x, prefix=0, size=None, source=source, layout=layout, present=None, marks=marks)

    def condense(self, weights: Tensor, x: Tensor | None = None) -> Tokens:
        """Soft clusters behind a prefix that is set aside and comes first again.

        Args:
            weights: (B, M, N - prefix) what each new token takes of each token after the prefix; 0 of padding.
            x: (B, M, C) features of the new tokens; `weights` times those of the tokens after the prefix if not given.
        """
        nothing = torch.zeros(0, dtype=torch.long, device=self.x.device)
        return self.keep(nothing).join(self.without_prefix().mix(weights, x))

    def absorb(self, other: Tokens, weights: Tensor) -> Tokens:
        """Add to tokens what they take of others, which go: weights (B, N - prefix, N' - prefix'), 0 of padding.

        Features, sizes and maps add up; `other` is of the same images, such as `keep` of the places left out here.
        """
        taken = other.without_prefix().mix(weights)
        size = None
        if self.size is not None or other.size is not None:
            grown = (weights @ other.sizes()[:, other.prefix :, None]).squeeze(-1)
            size = self.sizes() + F.pad(grown, (self.prefix, 0))
        source = None if self.source is None or taken.source is None else self.source + taken.source
        return replace(self, x=self.x + F.pad(taken.x, (0, 0, self.prefix, 0)), size=size, source=source)

    def mask(self, alive: Tensor, fuse: Tensor | None = None) -> Tokens:
        """Drop without removing, for training: tokens with `alive` 0 (B, N - prefix) are no key to any other.

        `fuse` is as for `keep`, of the tokens that were not dropped before.
        """
        masked = replace(self, alive=alive, decisions=(*self.decisions, alive))
        if fuse is None:
            return masked
        before = torch.ones_like(alive) if self.alive is None else self.alive
        return masked._fuse(masked, before - alive, fuse)

    def part(self, slow: Tensor, fast: Tensor) -> Tokens:
        """Two paths for tokens that stay: places (B, K) and (B, N - K). Patches of the fast one count as dropped."""
        fused = self.fused
        if self.source is not None:
            away = self.source.new_zeros(self.source.shape[:2]).scatter(1, fast, 1.0)
            fused = (away.unsqueeze(1) @ self.source).squeeze(1)
        return replace(self, paths=Paths(slow, fast), fused=fused)

    def without_prefix(self) -> Tokens:
        """The tokens without class, distillation and register tokens."""
        size = None if self.size is None else self.size[:, self.prefix :]
        marks = self._marks(lambda mark: mark[:, self.prefix :])
        return replace(self, x=self.patches, prefix=0, size=size, marks=marks)

    def ask(
        self, queries: Tensor, context: Tokens, views: Tensor | None = None, layout: tuple[int, int] | None = None
    ) -> Tokens:
        """Queries that the following blocks answer by cross-attention to `context`, until `settle`.

        Args:
            queries: (B, M, C).
            context: the tokens that keys and values come from.
            views: (W, K) context tokens each of W windows may look at; all look at all if not given.
            layout: rows and columns the queries lie in, if they lie in a grid; windows divide it evenly.
        """
        new = replace(self, x=queries, prefix=0, size=None, source=None, present=None, marks=empty(), layout=layout)
        return replace(new, context=context, views=views)

    def settle(self) -> Tokens:
        """The tokens alone; from here on they attend to themselves."""
        return replace(self, context=None, views=None)

    def join(self, other: Tokens) -> Tokens:
        """These tokens followed by those of `other` after its prefix; the maps are stacked."""
        rest = other.without_prefix()
        size = present = None
        if self.size is not None or rest.size is not None:
            size = torch.cat([self.sizes(), rest.sizes()], dim=1)
        if self.present is not None or rest.present is not None:
            present = torch.cat([self._here(), rest._here()], dim=1)
        marks = {n: torch.cat([mark, rest.marks[n]], dim=1) for n, mark in self.marks.items() if n in rest.marks}
        joined = replace(
            self,
            x=torch.cat([self.x, rest.x], dim=1),
            size=size,
            source=stacked(self.source, rest.source),
            alive=stacked(self.alive, rest.alive),
            present=present,
            marks=MappingProxyType(marks),
            layout=None,
        )
        return joined.settle()._pack()

    def last(self, count: int) -> Tokens:
        """The last `count` tokens, without prefix."""
        source, present = (None if t is None else t[:, -count:] for t in (self.source, self.present))
        marks = self._marks(lambda mark: mark[:, -count:])
        left = replace(self, x=self.x[:, -count:], prefix=0, size=None, source=source, present=present, marks=marks)
        return replace(left, layout=None).settle()

    def _unplaced(self) -> None:
        """Raise `Unsupported` where each token has a place that its blocks read."""
        if PLACE in self.marks:
            raise Unsupported("Tokens whose blocks read where each lies (RoPE, relative positions) cannot be merged.")

    def _fuse(self, kept: Tokens, dropped: Tensor, fuse: Tensor, always: bool = False) -> Tokens:
        """`kept` and one token more, of the tokens here where `dropped` (B, N - prefix) is 1, times their weights."""
        if self.present is not None:
            dropped = dropped * self.present
        rest = replace(self.without_prefix(), source=None).mix((fuse * dropped).unsqueeze(1))
        if self.size is not None:
            rest = replace(rest, size=(dropped * self.size[:, self.prefix :]).sum(1, keepdim=True))
        if self.source is not None:
            rest = replace(rest, source=dropped.to(self.source.dtype).unsqueeze(1) @ self.source)  # (B, 1, P)
        if kept.present is not None:
            rest = replace(rest, present=dropped.any(1, keepdim=True) | always)
        if self.alive is not None:
            rest = replace(rest, alive=torch.ones_like(self.alive[:, :1]))
        fused = self.fused if rest.source is None or self.fused is None else rest.source.squeeze(1).maximum(self.fused)
        return replace(kept.join(rest), fused=fused, context=self.context, views=self.views)

    def _pack(self) -> Tokens:
        """Real tokens first, in their order, in no more places than the image with most has."""
        if self.present is None:
            return self
        first = self.present.int().argsort(dim=1, descending=True, stable=True)
        if torch.compiler.is_compiling() or self.x.is_meta:  # all places stay; methods may go by the order of tokens
            packed = self._pick(first)
        else:
            fewest, most = torch.stack(self.present.sum(1).aminmax()).tolist()
            packed = self._pick(first[:, :most])
            if fewest == most:
                return replace(packed, present=None)
        if packed.source is None or packed.present is None:
            return packed
        return replace(packed, source=packed.source * packed.present.unsqueeze(-1))
