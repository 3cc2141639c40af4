"""Models in another runtime: once a model is counted it is exported, and scored and timed as its users would run it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from tokenbench.core.extras import needed
from tokenbench.errors import UsageError
from tokenbench.model import Model
from tokenbench.runs.candidates import Candidate, Group, failing
from tokenbench.runs.plan import Plan
from tokenbench.runs.watch import Watch
from tokenbench.shipping import exporting, formats, quantising, runtimes

CALIBRATED = 64  # images that ranges of activations are found on
AT_ONCE = 16


def check(plan: Plan) -> None:
    """Raise `UsageError` for a plan whose runtime cannot do what it asks, or is not installed."""
    if plan.runtime == "torch":
        if plan.precision == "int8":
            raise UsageError(f"--precision int8 is of exported models; add --runtime {' or '.join(runtimes.RUNTIMES)}.")
        return
    what = f"--runtime {plan.runtime}"
    needed(plan.runtime, runtimes.RUNTIMES[plan.runtime], what)
    formats.check_installed("onnx")
    if plan.task.has_head or plan.task.name != "classification":
        raise UsageError(f"{what} runs classifiers, and --task {plan.task.name} has models of another kind.")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError(f"{what} runs in one process; start it without torchrun, or divide the settings by --shard.")
    if plan.device != "cpu":
        raise UsageError(f"{what} runs on the CPU here; give --device cpu.")
    if plan.compile or plan.precision not in ("fp32", "int8"):
        odd = "--compile" if plan.compile else f"--precision {plan.precision}"
        raise UsageError(f"{odd} is for models in torch; with {what} give --precision fp32 or int8.")


def export(group: Group, watch: Watch) -> None:
    """Put each model that is still in torch into the plan's runtime, if that is another."""
    runtime = group.plan.runtime
    live = [(candidate, model) for candidate, model in group.live() if isinstance(model, Model)]
    if runtime == "torch" or not live:
        return
    watch.stretch(f"{group.backbone.name}: exporting to {runtime}", len(live))
    with tempfile.TemporaryDirectory() as folder:
        for done, (candidate, model) in enumerate(live, 1):
            with failing(candidate):
                candidate.model = runtimes.load(
                    runtime, _written(group, candidate, model, Path(folder) / f"{done}.onnx")
                )
            watch.step(done)


def _written(group: Group, candidate: Candidate, model: Model, path: Path) -> Path:
    """The file to run: what was given, or else is exported to `path`; or its int8 form beside `path`."""
    given = candidate.file
    if given is None:
        header = exporting.export(model, candidate.own or group.weights, path, "onnx", force=True).header
    else:
        header = group.plan.exported[given]
    _note(candidate, header.note)
    if group.plan.precision != "int8":
        return given or path
    out = path.with_name(f"{path.stem}.int8.onnx")
    batches = list(_calibration(group))
    quantising.quantise(given or path, out, batches, header, group.plan.runtime)
    what = "images of noise" if group.data is None else "of the images"
    _note(candidate, f"int8 ranges are from {sum(map(len, batches))} {what}")
    return out


def _note(candidate: Candidate, note: str | None) -> None:
    if note and note not in "; ".join(candidate.notes):  # they may be of a run before
        candidate.notes.append(note)


def _calibration(group: Group) -> Iterator[Tensor]:
    """Images of the data, spread evenly, or noise where there are none."""
    if group.data is None:
        for start in range(0, CALIBRATED, AT_ONCE):
            yield group.plan.task.timed(None, group.backbone, AT_ONCE, start, group.size)
        return
    for images, _ in group.plan.task.loader(group.data, group.backbone, AT_ONCE, 0, CALIBRATED):
        yield images
