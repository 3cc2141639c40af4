"""What is known of the tokens of a batch, and what can be read off it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenbench.core.paths import Paths
from tokenbench.core.rows import flat, take, wide


def empty() -> Mapping[str, Any]:
    """No marks, no state."""
    return MappingProxyType({})


@dataclass(frozen=True)
class TokenData:
    """The tokens of a batch: B images, N tokens, the first `prefix` class, distillation or register tokens, width C.

    P is the number of patches of the grid. Of a clip each of its `frames` is an image here, one after the other, so
    that what works on images works on frames.

    Where images keep different numbers of tokens, those with fewer are padded at the end: `present` says which tokens
    are real. Padding is no key to any token, is in no map, count or mean, and what it holds is of no account.
    """

    x: Tensor  # (B, N, C) features, prefix tokens first
    prefix: int  # number of prefix tokens
    grid: tuple[int, int]  # rows and columns of the patch grid, P = rows * columns
    size: Tensor | None = None  # (B, N) patches in each token; None while every token is one patch
    source: Tensor | None = None  # (B, N - prefix, P) weight of each patch in each token; None when not traced
    fused: Tensor | None = None  # (B, P) 1 where a patch is in a fused token or on a fast path; None when not traced
    alive: Tensor | None = None  # (B, N - prefix) 1 kept, 0 dropped: training drops by mask, not by removal
    decisions: tuple[Tensor, ...] = ()  # every `alive` so far, one a stage
    context: Self | None = None  # where keys and values come from, when not from the tokens themselves
    views: Tensor | None = None  # (W, K) context tokens that each of W windows may look at; None: all of them
    layout: tuple[int, int] | None = None  # rows and columns the tokens lie in now; None when in no grid
    paths: Paths | None = None  # which tokens take the slow path and which the fast one; None while there is one only
    present: Tensor | None = None  # (B, N - prefix) bool, False at padding; None while all images have as many tokens
    marks: Mapping[str, Tensor] = field(default_factory=empty)  # (B, N) or (B, N, D) by name, of each token; `mark`
    state: Mapping[str, Any] = field(default_factory=empty)  # anything else for a later block, by name; `store`
    frames: int = 1  # of a clip, each a row of the batch

    @property
    def count(self) -> int:
        """Number of tokens N, prefix included; with padding, that of the image that has most."""
        return self.x.shape[1]

    @property
    def counts(self) -> Tensor:
        """Tokens of each image, (B,), prefix included; without padding and those that a mask has dropped.

        Of clips (B / frames,), those of all their frames.
        """
        each: Tensor = self.prefix + self.live.sum(1)
        of_clips: Tensor = each.unflatten(0, (-1, self.frames)).sum(1)
        return of_clips

    @property
    def live(self) -> Tensor:
        """(B, N - prefix) bool, False at padding and where a mask has dropped."""
        here = self._here()
        return here if self.alive is None else here & (self.alive > 0.5)

    @property
    def real(self) -> Tensor | None:
        """(B, N) bool, False at padding; None where there is none."""
        return None if self.present is None else F.pad(self.present, (self.prefix, 0), value=True)

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

    def traced(self) -> Self:
        """The same tokens, one patch each, with the map switched on."""
        batch, n = self.x.shape[0], self.count - self.prefix
        eye = torch.eye(n, dtype=torch.float32, device=self.x.device)
        return replace(self, source=eye.expand(batch, n, n), fused=eye.new_zeros(batch, n))

    def sizes(self) -> Tensor:
        """Patches in each token, (B, N); ones before the first merge."""
        return self.x.new_ones(self.x.shape[:2]) if self.size is None else self.size

    def with_x(self, x: Tensor) -> Self:
        """The same tokens with new features, (B, N, C)."""
        return replace(self, x=x)

    def _here(self) -> Tensor:
        """`present`, (B, N - prefix) bool, written out where there is no padding."""
        return torch.ones_like(self.x[:, self.prefix :, 0], dtype=torch.bool) if self.present is None else self.present

    def _pick(self, index: Tensor) -> Self:
        """The tokens at places (B, K) after the prefix, with all that is known of each."""
        places = self._placed(index)

        def pick(values: Tensor) -> Tensor:
            return take(values, places)

        return replace(
            self,
            x=pick(self.x),
            size=None if self.size is None else pick(self.size),
            source=None if self.source is None else take(self.source, index),
            alive=None if self.alive is None else take(self.alive, index),
            present=None if self.present is None else take(self.present, index),
            marks=self._marks(pick),
            layout=None,
        )

    def _placed(self, index: Tensor) -> Tensor:
        """Places (B, K) among the tokens after the prefix as places (B, prefix + K) among all, the prefix first."""
        first = torch.arange(self.prefix, device=index.device).expand(index.shape[0], -1)
        return torch.cat([first, index + self.prefix], dim=1)

    def _marks(self, change: Callable[[Tensor], Tensor]) -> Mapping[str, Tensor]:
        """Every mark, changed as (B, N, D)."""
        return MappingProxyType({name: flat(change(wide(mark)), mark) for name, mark in self.marks.items()})
