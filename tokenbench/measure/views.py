"""Top-1 and top-5 of clips, by the mean of the probabilities of several views, and of each view alone."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure.accuracy import Predictions, ranked
from tokenbench.measure.running import forward


@dataclass(frozen=True, eq=False)
class Viewed:
    """What one model said of every clip, in the order of the data."""

    whole: Predictions  # by all views of a clip
    views: NDArray[np.int32]  # (N, views, k) classes, best first, by each view alone
    decoded: NDArray[np.int64]  # (N,) frames that were decoded
    seconds: NDArray[np.float64]  # (N,) that it took, in one process

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.whole)

    @property
    def alone(self) -> Predictions:
        """What was said of every view, each with the right class of its clip."""
        return Predictions(self.views.reshape(-1, self.views.shape[2]), self.whole.target.repeat(self.views.shape[1]))

    @property
    def decoding(self) -> float:
        """Frames decoded a second, in one process."""
        return float(self.decoded.sum() / max(self.seconds.sum(), 1e-9))

    def save(self, path: str | Path) -> None:
        """Write to a compressed .npz, whole or not at all; as predictions of images it can be read too."""
        with atomic.replacing(Path(path), ResultsError) as part, part.open("wb") as file:
            np.savez_compressed(
                file,
                top=self.whole.top,
                target=self.whole.target,
                views=self.views,
                decoded=self.decoded,
                seconds=self.seconds,
            )

    @classmethod
    def load(cls, path: str | Path) -> Viewed:
        """Read what `save` wrote; raises `ResultsError` if that is not what the file holds."""
        whole = Predictions.load(path)
        try:
            with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return cls(whole, file["views"].astype(np.int32), file["decoded"], file["seconds"])
        except (OSError, EOFError, KeyError, ValueError, TypeError, UsageError, zipfile.BadZipFile) as error:
            raise ResultsError(f"{path} holds no predictions of clips ({error}); run its job again.") from error


def answer(model: nn.Module, images: Tensor, batch: Any, precision: str, name: str) -> tuple[Tensor, Tensor]:
    """The best classes of a batch of clips, by all views (B, k) and by each (B, views, k), on the CPU.

    As many views as there are clips go through the model at once.

    Raises:
        DataError: a right class is none of the model's.
        TokenbenchError: logits that are NaN or infinite.
    """
    each = []
    targets = batch.targets.repeat_interleave(batch.views)
    for part in images.split(len(batch)):
        logits = forward(model, part, precision, name)
        each.append(logits.double() if batch.logits is None else logits[:, list(batch.logits)].double())
    shares = torch.cat(each).softmax(dim=1)
    alone = ranked(shares, targets, name).unflatten(0, (-1, batch.views))
    return ranked(shares.unflatten(0, (-1, batch.views)).mean(1), batch.targets, name), alone


def gather(answers: Sequence[tuple[Tensor, Tensor]], batches: Sequence[Any]) -> Viewed:
    """The answers of all batches and what is right, as one."""
    return Viewed(
        Predictions(
            torch.cat([whole for whole, _ in answers]).numpy(),
            torch.cat([batch.targets for batch in batches]).to(torch.int32).numpy(),
        ),
        torch.cat([views for _, views in answers]).numpy(),
        torch.cat([batch.decoded for batch in batches]).numpy(),
        torch.cat([batch.seconds for batch in batches]).double().numpy(),
    )


def join(parts: Sequence[Viewed]) -> Viewed:
    """Of several stretches of clips, one after the other, as one."""
    whole = Predictions(
        np.concatenate([part.whole.top for part in parts]), np.concatenate([part.whole.target for part in parts])
    )
    views, decoded, seconds = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("views", "decoded", "seconds")
    )
    return Viewed(whole, views, decoded, seconds)
