"""One confusion matrix over all pixels of a set, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, UsageError, first_line

RESAMPLED = 1000

Counts = NDArray[np.int64]


def count(found: Counts, truth: Counts, classes: int, ignored: int = 255) -> Counts:
    """A confusion matrix (classes, classes), truth by rows, of labels of any shape; ignored pixels are in no cell."""
    here = truth != ignored
    pairs = truth[here].astype(np.int64) * classes + found[here].astype(np.int64)
    return np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)


def ious(matrix: Counts) -> NDArray[np.float64]:
    """Intersection over union (..., K) of each class of matrices (..., K, K), in percent; NaN where a class is in
    neither.
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    union = matrix.sum(axis=-1) + matrix.sum(axis=-2) - right
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = np.where(union > 0, 100 * right / union, np.nan)
    return found


def mean_iou(matrix: Counts) -> NDArray[np.float64]:
    """The mean (...) over classes that are there, in percent; NaN where none is."""
    each = ious(matrix)
    there = ~np.isnan(each)
    with np.errstate(invalid="ignore"):
        mean: NDArray[np.float64] = np.where(there, each, 0).sum(axis=-1) / there.sum(axis=-1)
    return mean


@dataclass(frozen=True, eq=False)
class Labelled:
    """What a segmenter said of a set of images: a confusion matrix of each, and the names of classes."""

    matrices: Counts  # (I, K, K)
    names: tuple[str, ...]
    images: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.matrices)

    def save(self, path: str | Path) -> None:
        """Write it as compressed `.npz`; raises `ResultsError` if that cannot be."""
        with atomic.replacing(Path(path), ResultsError) as part, part.open("wb") as file:
            np.savez_compressed(file, matrices=self.matrices, names=np.array(self.names), images=np.array(self.images))

    @classmethod
    def load(cls, path: str | Path) -> Labelled:
        """What `save` wrote; raises `ResultsError` if it cannot be read."""
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names, images = (tuple(map(str, arrays[key])) for key in ("names", "images"))
                return cls(arrays["matrices"], names, images)
        except Exception as error:  # a damaged archive makes numpy and zlib raise nearly anything
            raise ResultsError(f"Labels '{path}' cannot be read ({first_line(error)}); run the job again.") from None

    @property
    def total(self) -> Counts:
        """The matrix of the whole set."""
        found: Counts = self.matrices.sum(axis=0)
        return found

    @property
    def accuracy(self) -> float | None:
        """Right pixels in percent."""
        every = self.total.sum()
        return 100 * float(np.trace(self.total) / every) if every else None

    @property
    def miou(self) -> float | None:
        """Mean IoU in percent; None where no pixel counts."""
        found = float(mean_iou(self.total))
        return None if np.isnan(found) else found

    def interval(self, seed: int) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval of the mean IoU, by a bootstrap over images; nothing where no pixel counts."""
        drawn = _known(mean_iou(_resampled([self], seed)[0]))
        return _ends(drawn) if len(drawn) else (None, None)

    def change(self, other: Labelled, seed: int) -> tuple[float, float, float, float] | None:
        """Its mean IoU minus another's on the same images, the ends of the 95 % interval, and a two-sided p-value; None
        where no pixel counts.
        """
        if self.images != other.images:
            raise UsageError("Labels of other images cannot be paired; run both on the same images.")
        mine, theirs = (mean_iou(drawn) for drawn in _resampled([self, other], seed))
        change = _known(mine - theirs)
        if not len(change) or self.miou is None or other.miou is None:
            return None
        p = min(1.0, 2 * max(1 / len(change), float(min(np.mean(change <= 0), np.mean(change >= 0)))))
        return self.miou - other.miou, *_ends(change), p


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of draws in which a pixel counts."""
    return values[~np.isnan(values)]


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _resampled(several: Sequence[Labelled], seed: int) -> list[Counts]:
    """The matrices (RESAMPLED, K, K) of sets of images drawn anew, with the same draws for all."""
    images = len(several[0])
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), RESAMPLED)
    return [np.tensordot(draws, one.matrices, axes=1) for one in several]


def joined(parts: Sequence[Labelled]) -> Labelled:
    """Those of several sets of images as one."""
    images = tuple(name for part in parts for name in part.images)
    return Labelled(np.concatenate([part.matrices for part in parts]), parts[0].names, images)
