"""Exported files given to a run in place of weights: what is said in them decides what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbench import backbones
from tokenbench.errors import UnknownName, UsageError, WeightsError, first_sentence
from tokenbench.methods import get
from tokenbench.methods.base import Method, make
from tokenbench.shipping import exporting, runtimes
from tokenbench.shipping.header import Header, preprocessing
from tokenbench.weights import files, sources
from tokenbench.weights.checkpoints import Weights

if TYPE_CHECKING:
    from tokenbench.runs.candidates import Candidate, Group
    from tokenbench.runs.plan import Plan

SUFFIX = ".onnx"


def read(text: str, runtime: str) -> tuple[str, dict[Path, Header]]:
    """What of a `--weights` value is weights, "auto" where nothing is, and the exported files with their headers.

    Raises:
        UsageError: they are to run in torch, or two are of the same setting.
        WeightsError: a file cannot be read, `tokenbench export` did not write it, or what it is of is not here.
    """
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    paths = list(dict.fromkeys(Path(part) for part in parts if part.endswith(SUFFIX)))
    if paths and runtime == "torch":
        raise UsageError(f"{paths[0]} is an exported model; add --runtime {' or '.join(runtimes.RUNTIMES)}.")
    found: dict[Path, Header] = {}
    for path in paths:
        header = runtimes.header_of(path)
        try:
            name = _named(header)
        except UnknownName as error:
            raise WeightsError(f"{path} was exported of something that is not here: {error}") from None
        except UsageError as error:
            raise WeightsError(f"{path} is of a setting that is none here ({first_sentence(error)}).") from None
        same = next((p for p, other in found.items() if _named(other) == name), None)
        if same:
            raise UsageError(f"{same} and {path} are both of {_of(header)}; give one.")
        found[path] = header
    if not paths:
        return text, found
    return ",".join(part for part in parts if not part.endswith(SUFFIX)) or "auto", found


def methods(exported: Mapping[Path, Header]) -> list[Method]:
    """The settings that files are of, each once."""
    return list({method.label: method for method in map(method_of, exported.values())}.values())


def method_of(header: Header) -> Method:
    """The setting that a file is of."""
    return make(get(header.method), header.setting)


def given(plan: Plan, backbone: str) -> sources.Sources:
    """What a plan's weights and exported files mean for a backbone; as `sources.find`.

    Raises:
        UsageError: weights and an exported file would both be the dense model.
    """
    found = sources.find(plan.weights, backbone, plan.take, plan.task.name)
    if not plan.exported:
        return found
    own = {path: _told(header) for path, header in plan.exported.items()}
    dense = dense_of(plan, backbone)
    if dense is not None and found.dense not in sources.WORDS:
        raise UsageError(f"{dense} and {found.dense} would both be the dense {backbone}; give one.")
    before = {} if plan.weights == "auto" else found.own  # files were named, so what ships is not meant
    return replace(found, own={**before, **own}, dense=found.dense if dense is None else "random")


def dense_of(plan: Plan, backbone: str) -> Path | None:
    """The exported file that is the dense model of a backbone, if one is."""
    exported = plan.exported.items()
    return next((p for p, h in exported if h.method == "dense" and backbones.is_same(h.backbone, backbone)), None)


def weights_of(header: Header) -> Weights:
    """The weights that a file runs on, as it says."""
    told: Any = header.weights
    return Weights(told["kind"], told["name"], told["hash"])


def identity(path: Path) -> str:
    """Which file, as a condition of its rows: its name and 16 hex digits of its SHA-256."""
    return f"{path.name} ({files.sha(path)})"


def check(plan: Plan, groups: Sequence[Group]) -> None:
    """Hold what is to be measured to the files that were given for it.

    Raises:
        UsageError: a file is not asked for, or is of other images than the run's; or a setting has no file, and no
            weights to be exported with.
    """
    used = {candidate.file for group in groups for candidate in group.candidates}
    for path, header in plan.exported.items():
        if path not in used:
            raise UsageError(
                f"{path} is of {_of(header)}, which this run does not ask for; leave --methods and --backbone out, or "
                "ask for it."
            )
    for group in groups:
        dense = dense_of(plan, group.backbone.name)
        for candidate in group.candidates:
            _check_one(plan, group, candidate, dense)


def _check_one(plan: Plan, group: Group, candidate: Candidate, dense: Path | None) -> None:
    what = f"{candidate.method.label} on {group.backbone.name}"
    if candidate.file is None:
        if dense is not None and candidate.model is not None:
            raise UsageError(
                f"No exported file is of {what}, and {dense.name} has no weights to export it with; give its file, or "
                "weights in place of that one."
            )
        return
    told, here = plan.exported[candidate.file].preprocessing, preprocessing(group.backbone)
    differs = [name for name, value in told if value != getattr(here, name)]
    if differs:
        name = differs[0]
        raise UsageError(
            f"{candidate.file} takes images of {name} {getattr(told, name)}, and this run brings them to "
            f"{getattr(here, name)}; leave that to the file, and give files of other images to a run of their own."
        )


def hidden(plan: Plan, candidate: Candidate) -> str | None:
    """Why the costs of an exported file cannot be counted on a model of its setting, as a clause; None if they can."""
    if candidate.file is None or exporting.HIDES not in (plan.exported[candidate.file].note or ""):
        return None
    return f"how many tokens each image keeps hangs on weights, which {candidate.file.name} does not give back"


def _named(header: Header) -> tuple[str, Any, str]:
    method = method_of(header)
    return method.name, method.decides, backbones.full_name(header.backbone)


def _of(header: Header) -> str:
    return f"{header.label} on {header.backbone}"


def _told(header: Header) -> dict[str, Any]:
    """As a file of weights has it, and the size of its images, which alone it runs at."""
    names = {"class_names": header.class_names} if header.class_names else {}
    told = header.model_dump(include={"method", "setting", "backbone", "classes", "pixels"})
    return {**told, **names, "img_size": header.shape[1:]}
