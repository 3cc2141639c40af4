"""Which weights a model gets: `--weights` made into files, one for each method that has its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import UnknownName, UsageError, WeightsError, first_sentence
from tokenbench.methods import get
from tokenbench.methods.base import Method, make
from tokenbench.model import Model
from tokenbench.weights import checkpoints, files
from tokenbench.weights.choice import ALL, Take
from tokenbench.weights.told import NOTHING, Told, by_header, by_others, in_folder

WORDS = ("auto", "dense", "random")
CLASSIFIER = "classification"  # the task of weights that do not say theirs


@dataclass(frozen=True)
class Sources:
    """`dense` is what `checkpoints.load_dense` takes; `own` are files trained with a method, with their headers.

    `others` are files that are neither: of the dense model of another backbone. `take` says which weights, of files
    that hold several, and `told` what the dense model's file tells beside them.
    """

    dense: str
    own: Mapping[Path, Mapping[str, Any]] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)  # of the dense model's file, where it has one
    others: tuple[Path, ...] = ()
    take: Take = ALL
    told: Told = NOTHING

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
        """The number of classes that the files for this backbone have; None if they have none, or several."""
        told = [by_header(header) for header in self.own.values() if _is_of(header, backbone)]
        found = {one.classes for one in (*told, *([self.told] if self.dense not in WORDS else []))}
        return found.pop() if len(found) == 1 else None

    def create(
        self,
        backbone: str,
        image_size: tuple[int, int] | None = None,
        classes: int | None = None,
        drop_path: float = 0.0,
        pixels: Mapping[str, Any] | None = None,
    ) -> Backbone:
        """The backbone that these weights are of, not yet filled; what is given here goes before what they tell."""
        told = [by_header(header) for header in self.own.values() if _is_of(header, backbone)]
        tells = next((one for one in (self.told, *told) if one != NOTHING), NOTHING)
        made = backbones.create(
            backbone,
            image_size or tells.image_size,
            self.classes(backbone) if classes is None else classes,
            drop_path,
            tells.pool,
            {**tells.pixels, **(pixels or {})},
        )
        heads = next((part.num_heads for part in made.vit.modules() if hasattr(part, "num_heads")), None)
        if self.told.heads and heads and self.told.heads != heads:
            raise WeightsError(
                f"{self.dense} is of a model with {self.told.heads} attention heads by its config.json, and {backbone} "
                f"has {heads}; give the backbone that it is of."
            )
        return made

    def load(self, backbone: Backbone, seed: int = 0, transfer: bool = False) -> checkpoints.Weights:
        """Fill a backbone with the dense weights; as `checkpoints.load_dense`."""
        return checkpoints.load_dense(backbone, self.dense, seed, self.take, transfer)

    def class_names(self, backbone: str) -> tuple[str, ...] | None:
        """What the files trained on this backbone call their classes, in order; None if none says it.

        Raises:
            WeightsError: two files call them otherwise, so no image has one label for both.
        """
        told = {str(path): header for path, header in self.own.items() if _is_of(header, backbone)}
        named = {
            path: h["class_names"] for path, h in {**told, self.dense: self.header}.items() if h.get("class_names")
        }
        if len({tuple(names) for names in named.values()}) > 1:
            one, two = next((a, b) for a in named for b in named if named[a] != named[b])
            raise WeightsError(
                f"{one} and {two} were trained on other classes or another order of them; measure them in runs of "
                "their own."
            )
        return next((tuple(map(str, names)) for names in named.values()), self.told.class_names)


def find(text: str, backbone: str, take: Take = ALL, task: str = CLASSIFIER) -> Sources:
    """What a `--weights` value means for a backbone.

    Args:
        text: "auto": what ships (or the hub's) for the dense model, and what ships for each method; "dense": the same
            dense weights for all; "random"; or files and folders of them, separated by commas: those that
            `tokenbench train` wrote go to their methods, any other is the dense model's.
        backbone: its short or timm name.
        take: which weights, of files that hold several.
        task: what models are for: files of models with a head of their own for it go to their methods, dense too.

    Raises:
        WeightsError: a file does not exist or is damaged, is of another task, or several would be the dense model's.
    """
    if text == "auto" and task == CLASSIFIER:
        shipped = sorted(checkpoints.SHIPPED.glob(f"{backbone}-*.safetensors"))
        return Sources("auto", {path: files.header(path) for path in shipped})
    if text in WORDS:
        return Sources("auto" if text == "dense" else text)
    own: dict[Path, Mapping[str, Any]] = {}
    dense: dict[Path, Mapping[str, Any]] = {}
    others: list[Path] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        for path in _files(Path(part)):
            header = _checked(files.header(path), path)
            theirs, plain = header.get("task", CLASSIFIER), header.get("method", "dense") == "dense"
            if theirs != task and not (plain and theirs == CLASSIFIER):  # a dense classifier is a backbone of any task
                raise WeightsError(f"{path} was trained for {theirs}, not {task}; give others, or --task {theirs}.")
            if not plain or theirs != CLASSIFIER:
                own[path] = header
            elif "backbone" not in header or _is_of(header, backbone):
                dense[path] = header
            else:
                others.append(path)
    if not (own or dense or others):
        raise UsageError("--weights names no file; give auto, dense, random, or files and folders.")
    if len(dense) > 1:
        first, second, *_ = dense
        raise WeightsError(
            f"--weights gives {len(dense)} files for the dense {backbone} ({first}, {second}); give one."
        )
    for path, header in dense.items():
        told = by_header(header) if header else _told(path, take)
        return Sources(str(path), own, header, tuple(others), take, told)
    return Sources("auto" if task == CLASSIFIER else "random", own, {}, tuple(others), take)


def single(text: str, take: Take = ALL) -> Sources:
    """What a `--weights` value of one model means: "auto", "random", or one file, whatever method it was trained with.

    Raises:
        WeightsError: it does not exist, is damaged, or holds no weights.
    """
    if text in WORDS:
        return Sources(text, take=take)
    path = in_folder(Path(text)) or Path(text)
    header = _checked(files.header(path), path)
    told = by_header(header) if header else by_others(files.reading(path, take), path)
    return Sources(str(path), {}, header, (), take, told)


def model(
    method: Method,
    backbone: Backbone,
    own: Path | None,
    make: Callable[[nn.Module], nn.Module] | None = None,
    kind: type[Model] = Model,
) -> tuple[Any, checkpoints.Weights | None]:
    """A model on the backbone, which it shares; or with weights of its own, on a copy.

    `make` puts a task's head on it, which is random unless there are weights of its own. `kind` is the class of the
    model.

    Returns:
        The model, in eval mode on the backbone's device, and where its own weights are from, if it has any.

    Raises:
        Unsupported: the method cannot run on this backbone.
        WeightsError: its own weights do not fit.
    """
    like = next(backbone.vit.parameters())
    plain = kind(backbone if own is None else copy.deepcopy(backbone), method)
    made = plain if make is None else make(plain)
    if own is None:
        return made.to(like).eval(), None
    weights = checkpoints.load(made, own)
    if own.parent == checkpoints.SHIPPED:
        weights = replace(weights, kind="shipped")
    return made.to(like).eval(), weights


def _is_of(header: Mapping[str, Any], backbone: str) -> bool:
    """Whether weights are of this backbone, by short or timm name."""
    return backbones.is_same(str(header.get("backbone")), backbone)


def _checked(header: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """A header of ours; raises `WeightsError` where what it says makes no sense."""
    try:
        if header.get("method", "dense") != "dense":
            make(get(header["method"]), header.get("setting", {}))
            backbones.full_name(header["backbone"])
        elif "backbone" in header:
            backbones.full_name(header["backbone"])
    except UnknownName as error:
        raise WeightsError(f"{path} was written for something that is not here: {error}") from None
    except (UsageError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} has a header that makes no sense ({first_sentence(error)}); it is damaged."
        ) from None
    return header


def _told(path: Path, take: Take) -> Told:
    """What somebody else's file tells; raises `WeightsError` for a checkpoint of a method, to be converted first."""
    from tokenbench.weights import published

    reading = files.reading(path, take)
    found = published.find(path, reading=reading)
    if found is not None and found.method.name != "dense":
        raise WeightsError(
            f"{path} is a checkpoint of {found.method.label} in the layout of {found.layout}; make it tokenbench's own "
            f"first: `tokenbench convert {path} {path.stem}.safetensors`."
        )
    return by_others(reading, path)


def _files(path: Path) -> list[Path]:
    """A file; of a folder what timm or transformers saved there, or `tokenbench train` there and below."""
    if not path.is_dir():
        return [path]
    saved = in_folder(path)
    if saved is not None:
        return [saved]
    every = [file for file in sorted(path.rglob("*.safetensors")) if file.name != "best.safetensors"]
    found = [file for file in every if "settings" not in files.header(file)]  # else it is there to go on from
    if not found:
        raise WeightsError(f"Weights folder '{path}' has no weights in it; give one that `tokenbench train` wrote.")
    return found
