"""What commands that run no model need to know of methods and backbones, without importing torch and timm for it.

`catalogue.json` has it, written by `make catalogue`, and beside it the hash of each source that it was made from. Where
these are other sources now, a package or a plug-in offers methods, or methods are imported already, the code is asked
instead: as right, and seconds slower.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenbench import methods as registry
from tokenbench.methods.paper import Kind, Paper, Reported

FILE = Path(__file__).with_suffix(".json")
WINGS = ("methods", "backbones")  # whose sources decide what is listed


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Printed(_Frozen):
    """A number that a paper printed, and every knob of the setting that it is of, as rows have them."""

    reported: Reported
    setting: dict[str, Any]


class ListedRecipe(_Frozen):
    """Where a recipe is from, and which of its values tell it from others."""

    source: str
    told: dict[str, Any]


class ListedMethod(_Frozen):
    """What a method's class says of it; `knobs` are the properties of its JSON schema, `defaults` as rows have them."""

    name: str
    about: str
    kind: Kind | None = None
    trained: bool = False
    licence: str = ""
    held: str = ""
    notes: str = ""
    main: str | None = None
    pyramids: tuple[str, ...] = ()
    plugin: bool = False
    paper: Paper | None = None
    knobs: dict[str, dict[str, Any]] = {}
    defaults: dict[str, Any] | None = None
    printed: tuple[Printed, ...] = ()
    recipes: dict[str, ListedRecipe] = {}


class ListedBackbone(_Frozen):
    """A backbone by its short name: its tokens, and by reason the methods that do not run on it."""

    full: str
    prefix: int
    grid: tuple[int, int]
    refused: dict[str, tuple[str, ...]] = {}


class Weights(_Frozen):
    """What timm says of the weights that papers began from: the images' height and width, and the name on the hub."""

    architecture: str
    tag: str
    size: tuple[int, int]
    hub: str | None


class Catalogue(_Frozen):
    """Methods and backbones by name; `weights` of each name in the numbers of papers, and of each without its tag."""

    sources: dict[str, str]
    methods: dict[str, ListedMethod]
    backbones: dict[str, ListedBackbone]
    weights: dict[str, Weights]


def methods() -> dict[str, ListedMethod]:
    """Every method by name, dense first, then in order of name; of plug-ins only what a list shows."""
    kept = _kept()
    if kept is not None:
        return kept.methods
    from tokenbench.methods import listing

    return {name: listing.line(cls) for name, cls in registry.all_methods().items()}


def method(name: str) -> ListedMethod:
    """All of one method; raises `UnknownName` with the nearest one."""
    kept = _kept()
    if kept is None:
        from tokenbench.methods import listing

        return listing.method(registry.get(name))
    if name not in kept.methods:
        raise registry.unknown(name, kept.methods)
    return kept.methods[name]


def printed(method: str) -> tuple[Printed, ...]:
    """The numbers of a method's paper; none of a plug-in that is not loaded now."""
    kept = _kept()
    if kept is not None:
        return kept.methods[method].printed if method in kept.methods else ()
    from tokenbench.methods import listing

    cls = registry.all_methods().get(method)
    return () if cls is None else listing.printed(cls)


def defaults(method: str) -> dict[str, Any] | None:
    """The knobs of a method at its defaults, as rows have them; None where it has none, or is not loaded now."""
    kept = _kept()
    if kept is not None:
        return kept.methods[method].defaults if method in kept.methods else None
    from tokenbench.methods import listing

    cls = registry.all_methods().get(method)
    return None if cls is None else listing.defaults(cls)


def backbones() -> dict[str, ListedBackbone]:
    """Backbones by their short names."""
    kept = _kept()
    if kept is not None:
        return kept.backbones
    from tokenbench.methods import listing

    return listing.backbones()


def weights(backbone: str) -> Weights | None:
    """Of a short or full name; None where timm has none, or no paper's numbers are of that architecture."""
    kept = _kept()
    if kept is not None:
        full = kept.backbones[backbone].full if backbone in kept.backbones else backbone
        return kept.weights.get(bare(full))
    from tokenbench.methods import listing

    return listing.weights(backbone)


def bare(name: str) -> str:
    """A name on the hub as timm has it."""
    return name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")


def sources() -> dict[str, str]:
    """12 digits of the SHA-256 of each source that decides what is listed, however its lines end."""
    package = FILE.parents[1]
    found = sorted(path for wing in WINGS for path in (package / wing).rglob("*.py"))
    return {
        path.relative_to(package).as_posix(): hashlib.sha256(path.read_text("utf-8").encode()).hexdigest()[:12]
        for path in found
    }


def text(made: Catalogue) -> str:
    """As the file has it: a line each, so that two changes seldom meet."""
    told = made.model_dump(mode="json", exclude_defaults=True)
    parts = {
        part: ",\n".join(
            f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in told[part].items()
        )
        for part in Catalogue.model_fields
    }
    return "{\n" + ",\n".join(f'"{part}": {{\n{lines}\n}}' for part, lines in parts.items()) + "\n}\n"


def _kept() -> Catalogue | None:
    """The file, if it stands for what there is in this process."""
    return None if registry.loaded() else _read()


@cache
def _read() -> Catalogue | None:
    if entry_points(group=registry.__name__):
        return None
    try:
        found = json.loads(FILE.read_text("utf-8"))
        return Catalogue(**found) if found["sources"] == sources() else None
    except (OSError, ValueError):
        return None
