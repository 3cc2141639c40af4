"""What a model said of every image, kept so that two models can be compared later. Needs no torch."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure.verdicts import Paired, wilson


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model said of every image, in the order of the data.

    With five classes or fewer the fifth guess says nothing; then fewer than five are kept and `top5` is None.

    Raises:
        UsageError: the shapes do not fit each other, or there is no image.
    """

    top: NDArray[np.int32]  # (N, k) classes, best first; k is 5, or less where there are five classes or fewer
    target: NDArray[np.int32]  # (N,) the right class

    def __post_init__(self) -> None:
        if self.top.ndim != 2 or self.target.shape != self.top.shape[:1] or 0 in self.top.shape:
            raise UsageError(
                f"Predictions of shape {self.top.shape} do not fit targets of shape {self.target.shape}; "
                f"give (N, k) and (N,) with N and k at least 1."
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.target)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether the first guess is right, (N,)."""
        return np.equal(self.top[:, 0], self.target, dtype=np.bool_)

    @property
    def top1(self) -> float:
        """How often the first guess is right, in percent."""
        return 100.0 * float(self.hits.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of `top1`, in percent; see `verdicts.wilson`."""
        return wilson(int(self.hits.sum()), len(self.target))

    @property
    def top5(self) -> float | None:
        """How often one of five guesses is right, in percent; None if fewer than five are known."""
        if self.top.shape[1] < 5:
            return None
        return 100.0 * float((self.top[:, :5] == self.target[:, None]).any(axis=1).mean())

    def agreement(self, other: Predictions) -> float:
        """How often both give the same first guess, right or wrong, in percent; `UsageError` on different images."""
        _same_images(self, other)
        return 100.0 * float((self.top[:, 0] == other.top[:, 0]).mean())

    def save(self, path: str | Path) -> None:
        """Write to a compressed .npz, whole or not at all."""
        with atomic.replacing(Path(path), ResultsError) as part, part.open("wb") as file:
            np.savez_compressed(file, top=_narrow(self.top), target=_narrow(self.target))

    @classmethod
    def load(cls, path: str | Path) -> Predictions:
        """Read what `save` wrote; raises `ResultsError` if that is not what the file holds."""
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return cls(file["top"].astype(np.int32), file["target"].astype(np.int32))
        except FileNotFoundError:
            raise ResultsError(f"There are no predictions at {path}; run the job that makes them.") from None
        except (OSError, EOFError, KeyError, ValueError, TypeError, UsageError, zipfile.BadZipFile) as error:
            raise ResultsError(f"{path} holds no predictions ({error}); delete it and run its job again.") from error


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several stretches of images, one after the other, as one."""
    return Predictions(np.concatenate([part.top for part in parts]), np.concatenate([part.target for part in parts]))


def paired(a: Predictions, b: Predictions) -> Paired:
    """Which images only one of them got right, b being the reference; `UsageError` on different images."""
    _same_images(a, b)
    return Paired(int((a.hits & ~b.hits).sum()), int((b.hits & ~a.hits).sum()), len(a.target))


def _same_images(a: Predictions, b: Predictions) -> None:
    if not np.array_equal(a.target, b.target):
        raise UsageError(
            f"Predictions of {len(a.target)} and {len(b.target)} images with different targets cannot be paired; "
            f"predict both on the same images in the same order."
        )


def _narrow(values: NDArray[np.int32]) -> NDArray[np.signedinteger]:
    fits = values.max() <= np.iinfo(np.int16).max and values.min() >= np.iinfo(np.int16).min
    return values.astype(np.int16 if fits else np.int32)
