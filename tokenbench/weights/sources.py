"""Which weights a model gets: `--weights` made into files, one for each method that has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError
from tokenbench.methods.base import Method, make
from tokenbench.model import Model
from tokenbench.weights import checkpoints, files

WORDS = ("auto", "dense", "random")


@dataclass(frozen=True)
class Sources:
    """`dense` is what `checkpoints.load_dense` takes; `own` are files trained with a method, with their headers.

    `others` are files that are neither: of the dense model of another backbone.
    """

    dense: str
    own: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)  # of the dense model's file, where it has one
    others: tuple[Path, ...] = ()

    def trained(self, method: Method, backbone: str) -> Path | None:
        """The file of weights trained for exactly this setting on this backbone, if there is one."""
        for path, header in self.own.items():
            told = {k: v for k, v in header.get("setting", {}).items() if k not in method.in_training}
            if (
                _is_of(header, backbone)
                and header["method"] == method.name
                and make(type(method), told).decides == method.decides
            ):
                return path
        return None

    def classes(self, backbone: str) -> int | None:
        """The number of classes that the files trained on this backbone have; None if there are none."""
        told = [header for header in self.own.values() if _is_of(header, backbone)]
        found = {h.get("classes") for h in (*told, self.header) if h}
        return int(found.pop()) if len(found) == 1 and None not in found else None  # type: ignore[arg-type]


def find(text: str, backbone: str) -> Sources:
    """What a `--weights` value means for a backbone.

    Args:
        text: "auto": what ships (or the hub's) for the dense model, and what ships for each method; "dense": the same
            dense weights for all; "random"; or files and folders of them, separated by commas: those that
            `tokenbench train` wrote go to their methods, any other is the dense model's.
        backbone: its short or timm name.

    Raises:
        WeightsError: a file does not exist or is damaged, or several would be the dense model's.
    """
    if text == "auto":
        shipped = sorted(checkpoints.SHIPPED.glob(f"{backbone}-*.safetensors"))
        return Sources("auto", {path: files.header(path) for path in shipped})
    if text in WORDS:
        return Sources("auto" if text == "dense" else text)
    own: dict[Path, Mapping[str, Any]] = {}
    dense: dict[Path, Mapping[str, Any]] = {}
    others: list[Path] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        for path in _files(Path(part)):
            header = files.header(path)
            if not header:
                _refuse_published(path)
            if header.get("method", "dense") != "dense":
                own[path] = header
            elif "backbone" not in header or _is_of(header, backbone):
                dense[path] = header
            else:
                others.append(path)
    if len(dense) > 1:
        first, second, *_ = dense
        raise WeightsError(
            f"--weights gives {len(dense)} files for the dense {backbone} ({first}, {second}); give one."
        )
    for path, told in dense.items():
        return Sources(str(path), own, told, tuple(others))
    return Sources("auto", own, {}, tuple(others))


def model(method: Method, backbone: Backbone, own: Path | None) -> tuple[Model, checkpoints.Weights | None]:
    """A model on the backbone, which it shares; or with weights of its own, on a copy.

    Returns:
        The model, in eval mode on the backbone's device, and where its own weights are from, if it has any.

    Raises:
        Unsupported: the method cannot run on this backbone.
        WeightsError: its own weights do not fit.
    """
    like = next(backbone.vit.parameters())
    if own is None:
        return Model(backbone, method).to(like).eval(), None
    fresh = backbones.create(backbone.name, backbone.input_size[1:], backbone.vit.num_classes)
    made = Model(fresh, method)
    weights = checkpoints.load(made, own)
    if own.parent == checkpoints.SHIPPED:
        weights = replace(weights, kind="shipped")
    return made.to(like).eval(), weights


def _is_of(header: Mapping[str, Any], backbone: str) -> bool:
    """Whether weights are of this backbone, by short or timm name."""
    return backbones.full_name(str(header.get("backbone"))) == backbones.full_name(backbone)


def _refuse_published(path: Path) -> None:
    """Raise `WeightsError` for somebody else's checkpoint of a method, which has to be converted first."""
    from tokenbench.weights import published

    found = published.find(path)
    if found is not None and found.method.name != "dense":
        raise WeightsError(
            f"{path} is a checkpoint of {found.method.label} in the layout of {found.layout}; make it tokenbench's own "
            f"first: `tokenbench convert {path} {path.stem}.safetensors`."
        )


def _files(path: Path) -> list[Path]:
    """A file, or what `tokenbench train` left in a folder and below it."""
    if not path.is_dir():
        return [path]
    found = [file for file in sorted(path.rglob("*.safetensors")) if "settings" not in files.header(file)]
    if not found:
        raise WeightsError(f"Weights folder '{path}' has no weights in it; give one that `tokenbench train` wrote.")
    return found
