"""Top-1, top-5 and agreement, from one pass over the data, and how sure one can be of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from tokenbench.core.words import counted
from tokenbench.errors import DataError, TokenbenchError, UsageError
from tokenbench.measure.predictions import Predictions, join, paired
from tokenbench.measure.running import evaluating, forward

__all__ = ["Predictions", "answer", "gather", "join", "paired", "predict", "ranked"]


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


def ranked(logits: Tensor, target: Tensor, name: str) -> Tensor:
    """The best classes (B, k) of logits (B, classes), on the CPU."""
    if logits.dim() != 2 or logits.shape[0] != target.shape[0]:
        raise UsageError(
            f"{name} gave {_kind(logits)} for {counted(len(target), 'image')}; it must give logits (B, classes)."
        )
    if not bool(logits.isfinite().all()):
        raise TokenbenchError(f"{name} gave logits that are NaN or infinite; check its weights and precision.")
    classes = logits.shape[1]
    low, high = int(target.min()), int(target.max())
    if low < 0 or high >= classes:
        raise DataError(f"Class {low if low < 0 else high} is none of the {classes} of {name}; check data and weights.")
    # Half precision makes ties between the first two classes common; a stable sort breaks them alike everywhere.
    order = logits.sort(dim=1, descending=True, stable=True).indices
    return order[:, : max(1, min(5, classes - 1))].to("cpu", torch.int32)


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
