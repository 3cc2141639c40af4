"""How alike settings are, as a part of a page: small panels by block, and a table, beside a setting that is chosen.

Drawn here as SVG, and chosen by radio buttons and style sheets alone: it has no script. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from tokenbench.maps.similarity import Alike
from tokenbench.reports import style

PANELS = (
    ("cka_class", "Class token", "CKA"),
    ("cka_others", "Mean of the other tokens", "CKA"),
    ("kept_iou", "Kept patches", "IoU"),
    ("cluster_nmi", "Clusters", "NMI"),
)
WIDE, HIGH = 320, 170  # of a panel's drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 28, 312, 8, 146  # of its axes
DASHES = ("none", "6 3", "2 3", "8 3 2 3")  # of settings of one method, one after the other
ROUGH = 100  # images, below which CKA is


def fragment(found: Sequence[Alike]) -> str:
    """A part to be put into a page, which follows that page's `color-scheme`; empty where nothing was compared."""
    if not found:
        return ""
    environment = Environment(loader=PackageLoader("tokenbench.reports.maps"), autoescape=True, trim_blocks=True)
    return environment.get_template("alike.html").render(
        backbone=found[0].backbone,
        images=found[0].images,
        rough=found[0].images < ROUGH,
        views=_views(found),
        ticks=_ticks(max(alike.block for alike in found) + 1),
        levels=[{"label": f"{level:g}", "y": _y(level)} for level in (0, 0.5, 1)],
        **{"wide": WIDE, "high": HIGH, "left": LEFT, "right": RIGHT, "bottom": BOTTOM},
    )


def _views(found: Sequence[Alike]) -> list[dict[str, Any]]:
    """For each setting, all others beside it: dense comes first, if it is there."""
    methods: dict[str, str] = {}
    pairs: dict[tuple[str, str], list[Alike]] = {}
    for alike in found:
        methods |= {alike.setting: alike.method, alike.other: alike.other_method}
        for pair in ((alike.setting, alike.other), (alike.other, alike.setting)):
            pairs.setdefault(pair, []).append(alike)
    order = sorted(methods, key=lambda label: methods[label] != "dense")
    looks = _looks(methods)
    views = []
    for reference in order:
        others = [(label, pairs[reference, label]) for label in methods if (reference, label) in pairs]
        panels = [
            {"title": title, "unit": unit, "lines": lines}
            for field, title, unit in PANELS
            if (lines := [line for label, by_block in others if (line := _line(label, by_block, field, looks[label]))])
        ]
        rows = [
            {"label": label, **looks[label], "cells": [_cell(b, field) for field, *_ in PANELS]} for label, b in others
        ]
        views.append({"label": reference, "panels": panels, "rows": rows})
    return views


def _looks(methods: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """A colour a method, and a dash for each of its settings."""
    seen: dict[str, int] = {}
    found = {}
    for label, method in methods.items():
        seen[method] = seen.get(method, -1) + 1
        found[label] = {"colour": style.colour(method), "dash": DASHES[seen[method] % len(DASHES)]}
    return found


def _line(label: str, by_block: Sequence[Alike], field: str, look: Mapping[str, str]) -> dict[str, str] | None:
    """A line of a panel, broken where there is no value; None where there is none at all."""
    values = {alike.block: getattr(alike, field) for alike in by_block if getattr(alike, field) is not None}
    if not values:
        return None
    steps = [f"{'L' if b - 1 in values else 'M'}{_x(b, len(by_block)):.1f},{_y(v):.1f}" for b, v in values.items()]
    told = ", ".join(f"{value:.2f}" for value in values.values())
    blocks = f"blocks {min(values)} to {max(values)}" if len(values) > 1 else f"block {min(values)}"
    return {**look, "path": "".join(steps), "told": f"{label}: {told} after {blocks}"}


def _cell(by_block: Sequence[Alike], field: str) -> str:
    """The value after the last block, and the lowest with its block where that is another."""
    values = {alike.block: value for alike in by_block if (value := getattr(alike, field)) is not None}
    if not values:
        return "–"
    lowest = min(values, key=lambda block: values[block])
    last, least = f"{values[max(values)]:.2f}", f"{values[lowest]:.2f}"
    return last if least == last else f"{last}, lowest {least} after {lowest}"


def _ticks(depth: int) -> list[dict[str, Any]]:
    every = -(-depth // 6)
    return [{"label": block, "x": _x(block, depth)} for block in range(0, depth, every)]


def _x(block: int, depth: int) -> float:
    return LEFT + 6 + (RIGHT - LEFT - 12) * block / max(1, depth - 1)


def _y(value: float) -> float:
    """CKA may come out a little below 0; it is drawn there."""
    return TOP + (BOTTOM - TOP) * (1 - max(value, -0.05))
