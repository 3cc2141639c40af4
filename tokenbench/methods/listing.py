"""What the code says of methods and backbones: what `catalogue.json` is made of, and stands for."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from timm.models import get_pretrained_cfg

from tokenbench import backbones as families
from tokenbench.core.settings import make
from tokenbench.errors import PLUGIN, BadSetting
from tokenbench.methods import all_methods, catalogue
from tokenbench.methods.base import Method
from tokenbench.methods.catalogue import Catalogue, ListedBackbone, ListedMethod, ListedRecipe, Printed, Weights


def everything() -> Catalogue:
    """The catalogue as the code is now."""
    methods = {name: method(cls) for name, cls in all_methods().items()}
    named = {made.reported.backbone for listed in methods.values() for made in listed.printed}
    full = {families.SHORT_NAMES.get(name, name) for name in named}
    names = sorted({catalogue.bare(name) for name in full} | {name.split(".")[0] for name in full})
    known = {name: found for name in names if (found := weights(name)) is not None}
    return Catalogue(sources=catalogue.sources(), methods=methods, backbones=backbones(), weights=known)


def line(cls: type[Method]) -> ListedMethod:
    """What a list shows of a method."""
    return ListedMethod(
        name=cls.name,
        about=(cls.__doc__ or cls.name).strip().splitlines()[0],
        kind=cls.kind,
        trained=cls.trained,
        licence=cls.licence,
        held=cls.held,
        notes=cls.notes,
        main=cls.main,
        pyramids=cls.pyramids(),
        plugin=cls.__module__.startswith(PLUGIN),
        paper=cls.paper,
    )


def method(cls: type[Method]) -> ListedMethod:
    """All that its class says."""
    more: dict[str, Any] = {
        "knobs": cls.model_json_schema().get("properties", {}),
        "defaults": defaults(cls),
        "printed": printed(cls),
        "recipes": {title: ListedRecipe(source=r.source, told=r.told()) for title, r in cls.recipes.items()},
    }
    return line(cls).model_copy(update=more)


def defaults(cls: type[Method]) -> dict[str, Any] | None:
    """Its knobs at their defaults, as rows have them; None where one has none."""
    try:
        return make(cls, {}).model_dump(mode="json")
    except BadSetting:
        return None


def printed(cls: type[Method]) -> tuple[Printed, ...]:
    """The numbers of its paper."""
    return tuple(
        Printed(reported=reported, setting=make(cls, reported.settings).model_dump(mode="json"))
        for reported in cls.reported
    )


def backbones() -> dict[str, ListedBackbone]:
    """Every backbone with a short name, and what each method at its defaults says of it."""
    settings = [cls() for name, cls in all_methods().items() if name != "dense"]
    found = {}
    for short, full in families.SHORT_NAMES.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone = families.create(short)
        refused: dict[str, tuple[str, ...]] = {}
        for setting in settings:
            reason = setting.refusal(backbone)
            if reason is not None:
                refused[reason] = (*refused.get(reason, ()), setting.name)
        found[short] = ListedBackbone(full=full, prefix=backbone.prefix, grid=backbone.grid, refused=refused)
    return found


@cache
def weights(backbone: str) -> Weights | None:
    """timm's configuration of the weights that a short or full name stands for; None where it has none."""
    name = catalogue.bare(families.SHORT_NAMES.get(backbone, backbone))
    try:
        found = get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError:  # a tag that this version of timm does not have
        return None
    if found is None:
        return None
    height, width = found.input_size[1:]
    return Weights(architecture=found.architecture, tag=found.tag, size=(height, width), hub=found.hf_hub_id)
