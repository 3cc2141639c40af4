"""Top-1, top-5 and agreement, from one pass over the data, and how sure one can be of them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenbench.core import atomic
from tokenbench.errors import DataError, ResultsError, TokenbenchError, UsageError
from tokenbench.measure.running import evaluating, forward
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


def predict(
    models: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Predictions]:
    """What every model says of every image, in one pass: each batch is loaded once and all models see it.

    Args:
        models: modules from images to logits, by name; moved to `device`, run in eval mode, their mode restored.
        batches: images (B, channels, H, W), already normalised, and right classes (B,).
        device: where to run.
        precision: "fp32", or "bf16" or "fp16" for autocast (amp); see `tokenbench.measure.running.forward`.
        progress: called after each batch with the number of images done so far.

    Returns:
        The predictions of each model, by its name. Equal logits rank by class index, the lower first.

    Raises:
        DataError: there is no image, or a right class is none of a model's classes.
        OutOfMemory: a batch does not fit.
        TokenbenchError: a model gave a logit that is NaN or infinite.
    """
    if not models:
        raise UsageError("No model was given to predict with; give at least one.")
    ranked: dict[str, list[Tensor]] = {name: [] for name in models}
    targets: list[Tensor] = []
    done = 0
    for model in models.values():
        model.to(device)
    with evaluating(*models.values()):
        for images, target in batches:
            if target.dim() != 1 or target.is_floating_point():
                raise DataError(f"Targets are {_kind(target)}; give one class index an image, (B,) and whole numbers.")
            images = images.to(device, non_blocking=True)
            for name, model in models.items():
                ranked[name].append(answer(model, images, target, precision, name))
            targets.append(target)
            done += len(target)
            if progress is not None:
                progress(done)
    if not done:
        raise DataError("The data holds no image; give at least one.")
    return {name: gather(tops, targets) for name, tops in ranked.items()}


def answer(
    model: nn.Module,
    images: Tensor,
    target: Tensor,
    precision: str = "fp32",
    name: str | None = None,
    among: Sequence[int] | None = None,
) -> Tensor:
    """The best classes (B, k) of a batch, best first, on the CPU; what is raised is as in `predict`.

    With `among`, only these logits are looked at, and classes are places among them.
    """
    name = name or type(model).__name__
    logits = forward(model, images, precision, name)
    return ranked(logits if among is None else logits[:, list(among)], target, name)


def gather(ranked: Sequence[Tensor], targets: Sequence[Tensor]) -> Predictions:
    """The answers of all batches and their right classes (B,) as one."""
    return Predictions(torch.cat(list(ranked)).numpy(), torch.cat(list(targets)).to("cpu", torch.int32).numpy())


def join(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several stretches of images, one after the other, as one."""
    return Predictions(np.concatenate([part.top for part in parts]), np.concatenate([part.target for part in parts]))


def paired(a: Predictions, b: Predictions) -> Paired:
    """Which images only one of them got right, b being the reference; `UsageError` on different images."""
    _same_images(a, b)
    return Paired(int((a.hits & ~b.hits).sum()), int((b.hits & ~a.hits).sum()), len(a.target))


def ranked(logits: Tensor, target: Tensor, name: str) -> Tensor:
    """The best classes (B, k) of logits (B, classes), on the CPU."""
    if logits.dim() != 2 or logits.shape[0] != target.shape[0]:
        raise UsageError(f"{name} gave {_kind(logits)} for {len(target)} images; it must give logits (B, classes).")
    if not bool(logits.isfinite().all()):
        raise TokenbenchError(f"{name} gave logits that are NaN or infinite; check its weights and precision.")
    classes = logits.shape[1]
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= classes:
        raise DataError(f"Class {low if low < 0 else high} is none of the {classes} of {name}; check data and weights.")
    # Half precision makes ties between the first two classes common; a stable sort breaks them alike everywhere.
    order = logits.sort(dim=1, descending=True, stable=True).indices
    return order[:, : max(1, min(5, classes - 1))].to("cpu", torch.int32)


def _same_images(a: Predictions, b: Predictions) -> None:
    if not np.array_equal(a.target, b.target):
        raise UsageError(
            f"Predictions of {len(a.target)} and {len(b.target)} images with different targets cannot be paired; "
            f"predict both on the same images in the same order."
        )


def _narrow(values: NDArray[np.int32]) -> NDArray[np.signedinteger]:
    fits = values.max() <= np.iinfo(np.int16).max and values.min() >= np.iinfo(np.int16).min
    return values.astype(np.int16 if fits else np.int32)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
