"""What goes where in a model, as the page draws it: by part of a block, or by the parts that a task's models have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenbench.reports.cells import number
from tokenbench.runs.row import Row

BLOCK = ("attention", "mlp", "embed", "head", "selection")  # of models that are blocks and a head
SELECTING, REST = "selecting", "rest"
COLOURS = {**{name: i for i, name in enumerate(BLOCK)}, REST: 0, SELECTING: 4}
MOST = 6  # colours that the page has

Spent = dict[str, float]


def gmacs(row: Row) -> Spent:
    """GMACs by part, those of blocks in the order of `BLOCK`."""
    by_part = row.gmacs_by_part or {}
    names = [*(name for name in BLOCK if name in by_part), *(name for name in by_part if name not in BLOCK)]
    return {name: value for name in names if (value := by_part[name]) is not None}


def milliseconds(row: Row) -> Spent:
    """Time of a batch by part, or of selecting tokens and the rest."""
    if row.ms_by_part:
        return {name: value for name, value in row.ms_by_part.items() if value is not None}
    share = 0.0 if row.method == "dense" else row.reduction_share
    if row.latency_p50 is None or share is None:
        return {}
    return {REST: row.latency_p50 * (1 - share), SELECTING: row.latency_p50 * share}


def colours(rows: Iterable[Row]) -> dict[str, int]:
    """A colour for each part of some rows; parts that a task names take them in their order."""
    found = dict(COLOURS)
    for row in rows:
        for spent in (gmacs(row), milliseconds(row)):
            for place, name in enumerate(spent):
                found.setdefault(name, place % MOST)
    return found


def keys(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """What the legends of some rows' charts say: a colour for each part on which any of them spends something."""
    rows = list(rows)
    own = colours(rows)

    def of(each: Iterable[Spent]) -> dict[str, int]:
        return {name: own[name] for spent in each for name, value in spent.items() if value}

    return {"parts": of(map(gmacs, rows)), "time": of(map(milliseconds, rows))}


def columns(row: Row) -> dict[str, Any]:
    """The names and values of both, and as text."""
    found: dict[str, Any] = {}
    for name, form, spent in (("parts", "{:.3f}", gmacs(row)), ("times", "{:.1f}", milliseconds(row))):
        found[name] = list(spent) or None
        found[f"{name}_of"] = list(spent.values()) or None
        found[f"t_{name}"] = ", ".join(f"{part} {number(value, form)}" for part, value in spent.items())
    return found
