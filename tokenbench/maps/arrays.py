"""Token maps as plain arrays: which patch went into which token, block by block. Needs numpy only, no torch.

Shapes: B images, T tokens after the prefix, P patches of a grid of rows * columns. Blocks count from 0, and -1 is the
last; a map is that after the block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tokenbench.errors import UsageError

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Ints = NDArray[np.integer]
Weighing = NDArray[np.floating | np.uint8]

READ = ("class token", "mean of the others")  # what features of a block may be of


@dataclass(frozen=True, eq=False)
class TokenMaps:
    """The maps of one setting of a method on a batch of images, with the images as the model saw them.

    `weights` holds for each block what each token takes of each patch: 0 and 1, as bytes, for methods that drop and
    merge, attention for those that condense. `note` is what a reader must know, such as "untrained".
    """

    method: str  # tome
    label: str  # tome[r=13]
    backbone: str
    note: str
    names: tuple[str, ...]  # B, of the images
    pictures: NDArray[np.uint8]  # (B, H, W, 3)
    grid: tuple[int, int]  # rows and columns
    weights: tuple[Weighing, ...]  # a block: (B, T, P)
    fused: tuple[Bools, ...]  # a block: (B, P), patches that were dropped into a fused token
    counts: tuple[int, ...]  # a block: tokens, prefix included; where images differ, of the one that has most
    each: Ints | None = None  # (blocks, B) tokens of each image, prefix included; None where all have `counts`
    frames: int = 1  # of a clip, each an image here, one after the other
    features: tuple[dict[str, Floats], ...] = ()  # a block: (B, C) by what of, of `READ`; not kept in files

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.weights)

    def tokens(self, image: int, block: int = -1) -> int:
        """Tokens of an image, prefix included."""
        return self.counts[block] if self.each is None else int(self.each[block, image])

    def soft(self, block: int = -1) -> bool:
        """Whether tokens hold patches by degrees: attention, not 0 and 1."""
        weights = self.weights[block]
        return not bool(np.all((weights == 0) | (weights == 1)))

    def share(self, block: int = -1) -> Floats:
        """What share of each patch each token holds, (B, T, P); sums to 1 or less over the tokens."""
        weights = self.weights[block]
        shares: Floats = weights / np.maximum(weights.sum(1, keepdims=True), 1.0)
        return shares

    def kept(self, block: int = -1) -> Bools:
        """Patches that are in a live token, (B, rows, columns); those of a fused token are not."""
        held: Bools = (self.weights[block].sum(1) > 0) & ~self.fused[block]
        return held.reshape(-1, *self.grid)

    def clusters(self, block: int = -1) -> Ints:
        """The token that holds most of each patch, (B, rows, columns), counted from 0; -1 where dropped."""
        return self._clusters[block]

    @cached_property
    def _clusters(self) -> tuple[Ints, ...]:
        most: list[Ints] = []
        for block, weights in enumerate(self.weights):
            same = block and weights is self.weights[block - 1]
            most.append(most[-1] if same else weights.argmax(1).reshape(-1, *self.grid))
        return tuple(np.where(self.kept(block), tokens, -1) for block, tokens in enumerate(most))

    def sizes(self, block: int = -1) -> list[Ints]:
        """Patches in each cluster that has any, largest first, an array an image."""
        return [np.sort(np.unique(c[c >= 0], return_counts=True)[1])[::-1] for c in self.clusters(block)]

    def heat(self, block: int = -1) -> Weighing:
        """What each token is made of, (B, T, rows, columns); a row of attention for soft methods."""
        return self.weights[block].reshape(*self.weights[block].shape[:2], *self.grid)

    def kept_share(self, block: int = -1) -> Floats:
        """Share of the patches that is kept, (B,)."""
        share: Floats = self.kept(block).mean((1, 2))
        return share

    def entropy(self, block: int = -1) -> Floats:
        """Entropy of the cluster sizes in bits, (B,): 0 for one cluster, log2 n for n equal ones."""
        return np.array([entropy(sizes) for sizes in self.sizes(block)])


def agreement(a: TokenMaps, b: TokenMaps, block: int = -1) -> tuple[Floats, Floats]:
    """IoU of the kept patches and NMI of the clusters of two settings, each (B,), image by image.

    Raises:
        UsageError: the two are of different images or grids.
    """
    if a.grid != b.grid or a.pictures.shape[0] != b.pictures.shape[0]:
        raise UsageError(
            f"{a.label} has {len(a.pictures)} maps of {a.grid} patches and {b.label} {len(b.pictures)} of {b.grid}; "
            "trace both on the same images and grid."
        )
    kept = np.array([iou(x, y) for x, y in zip(a.kept(block), b.kept(block), strict=True)])
    shared = np.array([nmi(x, y) for x, y in zip(a.clusters(block), b.clusters(block), strict=True)])
    return kept, shared


def agreements(a: TokenMaps, b: TokenMaps) -> Floats:
    """`agreement` after every block, (blocks, 2, B); computed where either map changed."""
    found: list[tuple[Floats, Floats]] = []
    for block in range(a.depth):
        same = block and all(_unchanged(m, block) for m in (a, b))
        found.append(found[-1] if same else agreement(a, b, block))
    return np.array(found)


def _unchanged(m: TokenMaps, block: int) -> bool:
    return m.weights[block] is m.weights[block - 1] and bool((m.fused[block] == m.fused[block - 1]).all())


def iou(a: Bools, b: Bools) -> float:
    """Intersection over union of two sets given as masks of one shape; 1 where both are empty."""
    union = np.logical_or(a, b).sum()
    return float(np.logical_and(a, b).sum() / union) if union else 1.0


def nmi(a: Ints, b: Ints) -> float:
    """Normalised mutual information 2 I(a; b) / (H(a) + H(b)) of two clusterings given as labels of one shape.

    In [0, 1], and 1 for clusterings equal up to their labels. Patches labelled -1, the dropped, are a cluster too.
    """
    _, a = np.unique(a, return_inverse=True)
    _, b = np.unique(b, return_inverse=True)
    joint = np.zeros((a.max(initial=0) + 1, b.max(initial=0) + 1))
    np.add.at(joint, (a.ravel(), b.ravel()), 1)
    alone = entropy(joint.sum(1)) + entropy(joint.sum(0))
    if alone == 0:
        return 1.0  # both are one cluster
    return float(np.clip(2 * (alone - entropy(joint)) / alone, 0.0, 1.0))


def entropy(counts: Floats | Ints) -> float:
    """Entropy in bits of counts of any shape; 0 of none."""
    positive = counts[counts > 0]
    share = positive / max(positive.sum(), 1)
    return float(max(0.0, -(share * np.log2(share)).sum()))
