"""Tokens and its verbs: the only code that changes a token map.

A token starts as one patch. Methods drop tokens (`keep`), merge them (`group`) or condense them (`mix`); each verb
changes the features and, when maps are being traced, the map from patches to tokens in the same way. So a method's
author writes no visualisation code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Paths:
    """Two ways through the MLPs of a stage for tokens that stay in their places.

    In eval mode the places (B, K) and (B, N - K) of the tokens that take each; in training, where both are run for all
    tokens, what each token would be by either, (B, N, C).
    """

    slow: Tensor
    fast: Tensor


@dataclass(frozen=True)
class Tokens:
    """The tokens of a batch on their way through the blocks.

    Shapes: B images, N tokens of which the first `prefix` are class, distillation or register tokens, C width,
    P patches of the grid. Verbs never touch prefix tokens; their indices count from the first other token.
    """

    x: Tensor  # (B, N, C) features, prefix tokens first
    prefix: int  # number of prefix tokens
    grid: tuple[int, int]  # rows and columns of the patch grid, P = rows * columns
    size: Tensor | None = None  # (B, N) patches in each token; None while every token is one patch
    source: Tensor | None = None  # (B, N - prefix, P) weight of each patch in each token; None when not traced
    fused: Tensor | None = None  # (B, P) 1 where a patch is in a fused token or on a fast path; None when not traced
    alive: Tensor | None = None  # (B, N - prefix) 1 kept, 0 dropped: training drops by mask, not by removal
    decisions: tuple[Tensor, ...] = ()  # every `alive` so far, one a stage
    context: Tokens | None = None  # where keys and values come from, when not from the tokens themselves
    views: Tensor | None = None  # (W, K) context tokens that each of W windows may look at; None: all of them
    layout: tuple[int, int] | None = None  # rows and columns the tokens lie in now; None when in no grid
    paths: Paths | None = None  # which tokens take the slow path and which the fast one; None while there is one only

    @property
    def count(self) -> int:
        """Number of tokens N, prefix included."""
        return self.x.shape[1]

    @property
    def patches(self) -> Tensor:
        """The tokens after the prefix, (B, N - prefix, C)."""
        return self.x[:, self.prefix :]

    @property
    def share(self) -> Tensor | None:
        """What share of each patch each token holds, (B, N - prefix, P); sums to 1 or less over the tokens.

        Hard methods give 0 and 1. Soft ones give attention; a patch the tokens look at less than once in all keeps
        a sum below 1. None when not traced.
        """
        if self.source is None:
            return None
        return self.source / self.source.sum(dim=1, keepdim=True).clamp(min=1.0)

    def traced(self) -> Tokens:
        """The same tokens, one patch each, with the map switched on."""
        batch, n = self.x.shape[0], self.count - self.prefix
        eye = torch.eye(n, dtype=torch.float32, device=self.x.device)
        return replace(self, source=eye.expand(batch, n, n), fused=eye.new_zeros(batch, n))

    def sizes(self) -> Tensor:
        """Patches in each token, (B, N); ones before the first merge."""
        return self.x.new_ones(self.x.shape[:2]) if self.size is None else self.size

    def with_x(self, x: Tensor) -> Tokens:
        """The same tokens with new features, (B, N, C)."""
        return replace(self, x=x)

    def keep(self, index: Tensor, fuse: Tensor | None = None) -> Tokens:
        """Prune: keep the tokens at `index`, in that order.

        Args:
            index: (B, K) or, the same for every image, (K,); positions among the tokens after the prefix.
            fuse: (B, N - prefix) weights. If given, one token is appended: the sum of the dropped tokens, each times
                its weight (EViT, arXiv 2202.07800, equation 5). Its size and map are the sum of theirs, and their
                patches count as `fused` from then on, whatever becomes of that token.
        """
        batch, fused = self.x.shape[0], self.fused
        index = index.expand(batch, -1)
        x = torch.cat([self.x[:, : self.prefix], _take(self.patches, index)], dim=1)
        size = None if self.size is None else torch.cat([self.size[:, : self.prefix], _take(self._psize(), index)], 1)
        source = None if self.source is None else _take(self.source, index)
        if fuse is not None:
            weights = fuse.scatter(1, index, 0.0)  # (B, n): the dropped tokens' weights, 0 where kept
            x = torch.cat([x, weights.unsqueeze(1) @ self.patches], dim=1)
            dropped = torch.ones_like(fuse).scatter(1, index, 0.0)  # (B, n)
            if size is not None:
                size = torch.cat([size, (dropped * self._psize()).sum(1, keepdim=True)], dim=1)
            if source is not None and self.source is not None:
                rest = dropped.to(source.dtype).unsqueeze(1) @ self.source  # (B, 1, P)
                source = torch.cat([source, rest], dim=1)
                fused = None if fused is None else torch.maximum(fused, rest.squeeze(1))
        return replace(self, x=x, size=size, source=source, fused=fused, layout=None)

    def group(self, assign: Tensor, count: int) -> Tokens:
        """Merge: hard clusters, each the mean of its tokens weighted by their sizes.

        Args:
            assign: (B, N - prefix) new place of each token after the prefix, in [0, count).
            count: number of tokens after the prefix in the result.
        """
        sizes = self.sizes()
        size = _add_at(sizes[:, self.prefix :].unsqueeze(-1), assign, count)  # (B, count, 1)
        x = _add_at(self.patches * sizes[:, self.prefix :].unsqueeze(-1), assign, count) / size
        source = None if self.source is None else _add_at(self.source, assign, count)
        return replace(
            self,
            x=torch.cat([self.x[:, : self.prefix], x], dim=1),
            size=torch.cat([sizes[:, : self.prefix], size.squeeze(-1)], dim=1),
            source=source,
            layout=None,
        )

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
        return replace(self, x=x, size=None, source=source, fused=fused, context=None, views=None, layout=layout)

    def mix(self, weights: Tensor, x: Tensor | None = None, layout: tuple[int, int] | None = None) -> Tokens:
        """Condense: soft clusters; the result has no prefix.

        Args:
            weights: (B, M, N) what each new token takes of each token, prefix included.
            x: (B, M, C) features of the new tokens; `weights @ x` if not given.
            layout: rows and columns the new tokens lie in, if they lie in a grid.
        """
        source = None
        if self.source is not None:
            source = weights[:, :, self.prefix :].to(self.source.dtype) @ self.source
        x = weights @ self.x if x is None else x
        return replace(self, x=x, prefix=0, size=None, source=source, layout=layout)

    def mask(self, alive: Tensor) -> Tokens:
        """Drop without removing, for training: tokens with `alive` 0 (B, N - prefix) are no key to any other."""
        return replace(self, alive=alive, decisions=(*self.decisions, alive))

    def part(self, slow: Tensor, fast: Tensor) -> Tokens:
        """Two paths for tokens that stay: places (B, K) and (B, N - K). Patches of the fast one count as dropped."""
        fused = self.fused
        if self.source is not None:
            away = self.source.new_zeros(self.source.shape[:2]).scatter(1, fast, 1.0)
            fused = (away.unsqueeze(1) @ self.source).squeeze(1)
        return replace(self, paths=Paths(slow, fast), fused=fused)

    def without_prefix(self) -> Tokens:
        """The tokens without class, distillation and register tokens."""
        size = None if self.size is None else self._psize()
        return replace(self, x=self.patches, prefix=0, size=size)

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
        return replace(self, x=queries, prefix=0, size=None, source=None, context=context, views=views, layout=layout)

    def settle(self) -> Tokens:
        """The tokens alone; from here on they attend to themselves."""
        return replace(self, context=None, views=None)

    def join(self, other: Tokens) -> Tokens:
        """These tokens followed by `other`'s, both without prefix; the maps are stacked."""
        source = None
        if self.source is not None and other.source is not None:
            source = torch.cat([self.source, other.source], dim=1)
        return replace(
            self, x=torch.cat([self.x, other.x], dim=1), source=source, context=None, views=None, layout=None
        )

    def last(self, count: int) -> Tokens:
        """The last `count` tokens, without prefix."""
        source = None if self.source is None else self.source[:, -count:]
        x = self.x[:, -count:]
        return replace(self, x=x, prefix=0, size=None, source=source, context=None, views=None, layout=None)

    def _psize(self) -> Tensor:
        return self.sizes()[:, self.prefix :]


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, K[, C]) of `values` (B, N[, C]) at `index` (B, K)."""
    if values.dim() == 2:
        return values.gather(1, index)
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _add_at(values: Tensor, assign: Tensor, count: int) -> Tensor:
    """Sums (B, count, C) of the rows of `values` (B, N, C) by their place `assign` (B, N)."""
    out = values.new_zeros(values.shape[0], count, values.shape[-1])
    return out.scatter_add(1, assign.unsqueeze(-1).expand(-1, -1, values.shape[-1]), values)
