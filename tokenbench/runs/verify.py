"""Every number that a paper printed and that needs no weights, counted now."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

import torch

from tokenbench import backbones
from tokenbench.measure import flops, memory
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method, Reported, make
from tokenbench.model import Model


@dataclass(frozen=True)
class Check:
    """One published number and what is counted in its place."""

    setting: str  # label
    backbone: str
    what: str  # "GMAC", "GMAC saved %", "params M" or "tokens at the end"
    published: float
    counted: float
    reason: str  # why they differ, where that is known

    @property
    def same(self) -> bool:
        """Whether what is counted is what was printed, to its last digit."""
        exponent = Decimal(str(self.published)).as_tuple().exponent
        half = 0.5 * 10.0 ** int(exponent)
        return abs(self.counted - self.published) <= half * (1 + 1e-9)

    @property
    def off(self) -> bool:
        """Whether they differ and no reason is known, or by more than a reason explains: 3 % or 3 points."""
        reach = 3.0 if "%" in self.what else 0.03 * self.published
        return not self.same and not (self.reason and abs(self.counted - self.published) <= reach)


def checks() -> Iterator[Check]:
    """Every published count of every registered method, at the backbone's own image size."""
    for cls in all_methods().values():
        for reported in cls.reported:
            if any(value is not None for value in (reported.gmacs, reported.params_m, reported.saved, reported.tokens)):
                yield from _checked(make(cls, reported.settings), reported)


def _checked(method: Method, reported: Reported) -> Iterator[Check]:
    backbone = _meta(reported.backbone)
    method = method.on(backbone)
    with torch.device("meta"):
        model = Model(backbone, method).eval()
    images = torch.empty(1, *backbone.shape, device="meta")
    counted: dict[str, tuple[float | None, float]] = {}
    if reported.params_m is not None:
        counted["params M"] = reported.params_m, memory.parameters(model) / 1e6
    if reported.tokens is not None:
        with torch.no_grad():
            counted["tokens at the end"] = reported.tokens, model.run(images).tokens.count
    if reported.gmacs is not None or reported.saved is not None:
        macs = _dense(reported.backbone) if method.name == "dense" else flops.gmacs(model, images)
        counted["GMAC"] = reported.gmacs, macs
        if reported.saved is not None:
            counted["GMAC saved %"] = reported.saved, 100 - 100 * macs / _dense(reported.backbone)
    for what, (published, now) in counted.items():
        if published is not None:
            yield Check(
                method.label, reported.backbone, what, published, now, reported.reason if "GMAC" in what else ""
            )


@cache
def _dense(name: str) -> float:
    backbone = _meta(name)
    return flops.gmacs(backbone.vit, torch.empty(1, *backbone.shape, device="meta"))


@cache
def _meta(name: str) -> backbones.Backbone:
    """A backbone without memory: counting needs shapes only."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return backbones.create(name)
