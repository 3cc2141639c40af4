"""From a model to a file that runs elsewhere, checked against the model before anything is in its place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tokenbench.core import atomic
from tokenbench.errors import Unsupported, UsageError, WeightsError, first_line
from tokenbench.model import Model
from tokenbench.shipping import formats
from tokenbench.shipping.header import Format, Header, beside, preprocessing, versions
from tokenbench.weights.checkpoints import Weights

CAPTURED = 2  # images that the graph is captured on; it is checked on other numbers of others
CHECKED = (1, 5)
APART = 1e-3  # of the largest logit: more than float32 in another order makes of it
HIDES = (
    "images keep different numbers of tokens, and an exported graph hides tokens in place of removing them: outputs "
    "are the same, and no time is saved"
)


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its header, and how far its logits are from the model's, of the largest one."""

    path: Path
    header: Header
    apart: float


def export(model: Model, weights: Weights, path: Path, format: Format, force: bool = False) -> Exported:
    """Write a model to a file with a batch of any size, its header beside it.

    Args:
        model: in eval mode, on the CPU.
        weights: those that it runs on.
        path: the file; its header becomes `path`.json. Both are there once all is checked, or neither.
        format: one of `formats.KINDS`.
        force: replace what is there.

    Raises:
        UsageError: the file exists, or a library is not installed.
        Unsupported: this model cannot be exported, or the file gives other logits than it; the message says why.
        WeightsError: the file cannot be written.
    """
    check_target(path, force)
    formats.check_installed(format)
    header = describe(model, weights, format)
    try:
        images = _images(header, CAPTURED, seed=0)
        with atomic.filling(path.parent, WeightsError) as stage:
            formats.write(format, model, images, header, stage / path.name)
            apart = compare(model, formats.open_file(format, stage / path.name)[0], header)
            text = json.dumps(header.model_dump(mode="json"), indent=2)
            beside(stage / path.name).write_text(text + "\n", encoding="utf-8")
    except Unsupported as error:
        raise Unsupported(f"{header.label} on {header.backbone} cannot be exported to {format}: {error}.") from error
    return Exported(path, header, apart)


def check_target(path: Path, force: bool) -> None:
    """Raise before any work where a file could not be written; `UsageError` where it exists and is to stay."""
    if not force and (path.exists() or beside(path).exists()):
        raise UsageError(
            f"{path if path.exists() else beside(path)} exists; give another name, or --force to replace it."
        )
    atomic.check(path, WeightsError)


def describe(model: Model, weights: Weights, format: Format) -> Header:
    """What is to be said of a model."""
    backbone, method = model.backbone, model.method
    notes = [method.caveat(backbone), HIDES if hides(model) else None]
    return Header(
        method=method.name,
        setting=method.model_dump(mode="json"),
        label=method.label,
        backbone=backbone.name,
        weights=weights.identity,
        format=format,
        shape=backbone.input_size,
        classes=backbone.vit.num_classes,
        class_names=backbone.class_names,
        preprocessing=preprocessing(backbone),
        pixels=backbone.pixels,
        note="; ".join(filter(None, notes)) or None,
        versions=versions(*(("onnx", "onnxscript") if format == "onnx" else ())),
    )


def hides(model: Model) -> bool:
    """Whether images keep different numbers of tokens, which a graph of fixed shapes cannot remove."""
    images = torch.randn(2, *model.backbone.input_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return any(step.present is not None for step in model.run(images).trace)


def compare(model: Model, run: formats.Run, header: Header) -> float:
    """The largest difference of a file's logits from the model's, of the largest logit.

    Raises:
        Unsupported: it is large, or the file does not run at these batch sizes.
    """
    worst = 0.0
    for batch in CHECKED:
        images = _images(header, batch, seed=batch)
        with torch.inference_mode():
            wanted = model(images)
            try:
                given = run(images)
            except Exception as error:  # shapes that hold for the captured batch only
                raise Unsupported(f"what was written does not run at batch {batch} ({first_line(error)})") from error
        if given.shape != wanted.shape:
            shapes = f"{tuple(given.shape)} and not {tuple(wanted.shape)}"
            raise Unsupported(f"what was written gives {shapes} at batch {batch}")
        apart = ((given - wanted).abs().max() / wanted.abs().max()).item()
        if not apart <= APART:
            raise Unsupported(f"what was written gives logits {apart:.1g} of the largest apart from the model's")
        worst = max(worst, apart)
    return worst


def _images(header: Header, batch: int, seed: int) -> Tensor:
    return torch.randn(batch, *header.shape, generator=torch.Generator().manual_seed(seed))
