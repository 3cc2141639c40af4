"""Checkpoints that authors published, recognised by the names of their tensors, as models of tokenbench.

What the names mean stands with each method (`Method.recognise`, `Method.published`). What neither names nor stored
options tell is given by hand, or taken from the defaults with a sentence that says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones import Backbone, hub, sizes
from tokenbench.errors import UsageError, WeightsError
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method, make
from tokenbench.methods.released import Release, Stored, suite_model
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.weights import files, fitting
from tokenbench.weights.choice import ALL, Take
from tokenbench.weights.files import Reading
from tokenbench.weights.told import NOTHING, Told, by_others, kept

HUB_NAME = re.compile(r"(?P<hub>hf-hub:)?(?P<repo>[\w-][\w.-]*/[\w.-]+)(@(?P<revision>[\w.-]+))?/(?P<file>.+)")
PLAIN = "timm or DeiT"  # the layout that dense, EViT and ToMe weights share


@dataclass(frozen=True)
class Published:
    """A published checkpoint: the setting and backbone it is of, and its tensors named as `Model.state_dict()` does.

    `layout` says whose it is, `source` and `hash` (SHA-256, 16 hex digits) which file, and `assumed` holds a clause for
    everything that the file does not tell.
    """

    method: Method
    backbone: str
    classes: int
    image_size: tuple[int, int]
    parameters: int
    tensors: Mapping[str, Tensor]
    layout: str
    source: str
    hash: str
    assumed: tuple[str, ...] = ()
    told: Told = NOTHING  # beside the weights

    @property
    def header(self) -> dict[str, Any]:
        """What tokenbench keeps beside the weights of a trained model, as JSON values."""
        return {
            "method": self.method.name,
            "setting": self.method.model_dump(mode="json"),
            "backbone": self.backbone,
            "classes": self.classes,
            "image_size": list(self.image_size),
            "published": {"layout": self.layout, "source": self.source, "hash": self.hash},
            "assumed": list(self.assumed),
            **kept(self.told.pool, self.told.pixels),
        }

    def model(self) -> Model:
        """The model with these weights, in eval mode; `backbone` must be a name."""
        made = backbones.create(self.backbone, self.image_size, self.classes, 0.0, self.told.pool, self.told.pixels)
        model = Model(made, self.method)
        model.load_state_dict(self.tensors)
        return model.eval()


def read(
    source: str | Path,
    method: str | Method | None = None,
    backbone: str | Backbone | None = None,
    averaged: bool = False,
    key: str | None = None,
) -> Published:
    """Read a published checkpoint.

    Args:
        source: a file, or one on the hub: `owner/repo/file`, `owner/repo@revision/file`, or that after `hf-hub:`.
        method: a setting, or one as the command line takes it (`evit[keep_rate=0.7]`), needed where the file does not
            tell its method. Its knobs go before those that the file tells.
        backbone: a name, or a model of your own, where the tensors do not tell or another one is meant.
        averaged: take averaged weights (EMA) where the file has both; else those the authors evaluate.
        key: take the weights under this key, where the file has several.

    Raises:
        WeightsError: no such file, or one that cannot be read; no known layout; or recognised, and it does not fit.
        UsageError: a method or backbone that does not exist, or cannot be.
    """
    found = _read(source, method, backbone, Take(averaged, key))
    if isinstance(found, Published):
        return found
    tensors = found.tensors
    if suite_model(found) is not None:
        raise WeightsError(f"{source} holds TokenReduction's '{suite_model(found)}', which is no method of tokenbench.")
    if sizes.is_vit(tensors):
        raise WeightsError(
            f"{source} holds a plain vision transformer ({sizes.describe(tensors)}), and dense, EViT and ToMe weights "
            'have these same names; say which it is with --method, such as "evit[keep_rate=0.7]" or "tome[r=13]".'
        )
    first, shape = next((key, tuple(value.shape)) for key, value in tensors.items())
    known = [name for name, cls in all_methods().items() if "recognise" in vars(cls)]
    raise WeightsError(
        f"{source} is in no known layout, its {len(tensors)} tensors begin with {first} {shape}; known are published "
        f"checkpoints of {', '.join(known)}, and with --method those in the layout of timm or DeiT."
    )


def find(
    source: str | Path, backbone: str | Backbone | None = None, reading: Reading | None = None
) -> Published | None:
    """As `read`, but None for a file that does not tell its method: plain weights, other people's, or our own.

    `reading` is what the file holds, if it was read before.
    """
    if files.header(_located(source)[0]):
        return None
    found = _read(source, None, backbone, ALL, reading)
    return found if isinstance(found, Published) else None


def convert(
    source: str | Path,
    out: str | Path,
    method: str | Method | None = None,
    backbone: str | None = None,
    averaged: bool = False,
    force: bool = False,
    key: str | None = None,
) -> Published:
    """Read a published checkpoint and write it as tokenbench's own: safetensors with the settings in its header.

    Raises:
        UsageError: `out` is no .safetensors name, or exists and `force` is not set; as `read`.
        WeightsError: as `read`, or `out` cannot be written.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise UsageError(f"OUT is '{out}', and must end in .safetensors.")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; give another name, or --force to replace it.")
    found = read(source, method, backbone, averaged, key)
    files.write(out, found.tensors, found.header)
    return found


def _read(
    source: str | Path,
    method: str | Method | None,
    backbone: str | Backbone | None,
    take: Take,
    reading: Reading | None = None,
) -> Published | Stored:
    """What `read` returns, or only what the file holds if no method is told."""
    given = _one(method) if isinstance(method, str) else method
    path, name = _located(source)
    if files.header(path):
        raise WeightsError(f"{path} is tokenbench's own already; use it with `tokenbench run --weights`.")
    found = reading or files.reading(path, take)
    stored, assumed = Stored(found.tensors, found.options), list(found.clauses)
    recognised = _recognised(stored, given, path)
    if recognised is None:
        return stored
    cls, release = recognised
    stored = Stored(cls.translate(stored.tensors), stored.options)
    setting, clauses = _setting(cls, release, given, path)
    told = by_others(found, path)
    adapted = _backbone(stored.tensors, backbone, told, path)
    assumed += clauses
    if release.layout == PLAIN:
        fitting.refuse_other(stored.tensors, adapted.vit.state_dict(), path, adapted.name)
    if backbone is None and release.layout == PLAIN and adapted.name in sizes.TWINS:
        twin = sizes.TWINS[adapted.name]
        assumed.append(
            f"{adapted.name}, whose tensors are those of AugReg's {twin} too; give --backbone {twin} if it is that, "
            "for images are normalised otherwise"
        )
    model = Model(adapted, setting)
    what = f"{setting.label} on {adapted.name} in the layout of {release.layout},"
    return Published(
        setting,
        adapted.name,
        int(adapted.vit.num_classes),
        adapted.input_size[1:],
        sum(parameter.numel() for parameter in model.parameters()),
        _named(stored.tensors, model, path, what),
        release.layout,
        name,
        files.sha(path),
        tuple(assumed),
        told,
    )


def _one(text: str) -> Method:
    settings = parse(text)
    if len(settings) != 1:
        raise UsageError(f"--method {text} is {len(settings)} settings; give the one that the checkpoint is of.")
    return settings[0]


def _located(source: str | Path) -> tuple[Path, str]:
    """The file, on the disk or from the hub, and what to call it."""
    path, match = Path(source), HUB_NAME.fullmatch(str(source))
    if path.exists() or not match or isinstance(source, Path):
        return path, path.name
    repo, file = match["repo"], match["file"]
    try:
        path = hub.from_hub(repo, (file,), match["revision"])
    except Exception as error:  # the hub's client raises the errors of three libraries
        lost = "" if match["hub"] else f"There is no file '{source}', and on the hub "
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise WeightsError(
            f"{lost}{file} of {repo} cannot be had ({reason}); give a file, or owner/repo/file as the hub has it."
        ) from None
    commit = path.parents[file.count("/")].name[:12]  # the hub's cache keeps files under .../snapshots/<commit>/
    return path, f"{repo}@{commit}/{file}"


def _recognised(stored: Stored, given: Method | None, path: Path) -> tuple[type[Method], Release] | None:
    """The method a checkpoint is of, and what it says of it; None if that is not known."""
    try:
        found = {cls: release for cls in all_methods().values() if (release := cls.recognise(stored)) is not None}
    except (TypeError, ValueError, LookupError) as error:
        raise WeightsError(f"{path} holds options that make no sense ({error}); give its bare state dict.") from None
    names = " or ".join(cls.name for cls in found)
    if given is None:
        if len(found) > 1:
            raise WeightsError(f"{path} could be a checkpoint of {names}; say which with --method.")
        return next(iter(found.items()), None)
    if type(given) in found:
        return type(given), found[type(given)]
    if found:
        raise WeightsError(f"{path} is a checkpoint of {names}, not of {given.name}; leave --method out, or name that.")
    return type(given), Release(PLAIN, unknown=(given.main,) if given.main else ())


def _setting(cls: type[Method], release: Release, given: Method | None, path: Path) -> tuple[Method, list[str]]:
    """The setting a checkpoint is of, and what was assumed in it."""
    own = {} if given is None else {knob: getattr(given, knob) for knob in given.model_fields_set}
    confirmed = release.knobs and all(own.get(knob) == value for knob, value in release.knobs.items())
    if release.refusal and not confirmed:
        raise WeightsError(f"{path} is {cls.name} of {release.layout}, but cannot be read: {release.refusal}.")
    theirs, setting = make(cls, release.knobs), make(cls, {**release.knobs, **own})
    clauses = [
        f"{knob}={value}, as you gave it, though the file says {getattr(theirs, knob)}"
        for knob, value in own.items()
        if knob in release.knobs and getattr(theirs, knob) != value
    ]
    return setting, clauses + [
        f"{knob}={getattr(setting, knob)}, the default, for the file does not tell; "
        f'give --method "{cls.name}[{knob}=...]" if it was trained with another'
        for knob in release.unknown
        if knob not in own
    ]


def _backbone(tensors: Mapping[str, Tensor], given: str | Backbone | None, told: Told, path: Path) -> Backbone:
    """The backbone of a checkpoint's size, without memory for its weights unless it was given."""
    if isinstance(given, Backbone):
        return given
    name = given or sizes.recognise(tensors)
    if name is None:
        raise WeightsError(
            f"{path} is of no known size ({sizes.describe(tensors)}), and heads cannot be told from weights; "
            "say which model it is with --backbone."
        )
    positions = tensors.get("pos_embed")
    with torch.device("meta"):
        backbone = backbones.create(name, classes=told.classes, pool=told.pool)
        if positions is None or positions.shape == getattr(backbone.vit, "pos_embed", positions).shape:
            return backbone
        patches = positions.shape[1] - backbone.prefix
        side = math.isqrt(patches)
        if side**2 != patches:
            raise WeightsError(f"{path} has positions of {patches} patches, and only those of square images are read.")
        size = side * int(backbone.vit.patch_embed.patch_size[0])
        return backbones.create(name, (size, size), told.classes, pool=told.pool)


def _named(tensors: Mapping[str, Tensor], model: Model, path: Path, what: str) -> dict[str, Tensor]:
    """Published tensors under the model's names; raises `WeightsError` with published names that do not fit."""
    wanted = model.state_dict()
    names = model.method.published(list(wanted))
    given = {key: value for key, value in tensors.items() if not key.endswith(model.method.derived)}
    fitting.check(given, {name: wanted[own] for own, name in names.items()}, path, what)
    return {own: given[name] for own, name in names.items()}
