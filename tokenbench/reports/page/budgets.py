"""The answers of the page: for each budget that a reader can set, which setting to use. The script only picks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tokenbench.reports import answers
from tokenbench.reports.groups import Group
from tokenbench.runs.axes import AXES, Axis
from tokenbench.runs.choose import Choice, Field, Limit, Wanted
from tokenbench.runs.row import Row

DROPS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0)
STEPS = 40  # of a slider of costs, about
FEWER, MANY = 10, 200  # of a page of more rows
LIMITED = ("gmacs", "latency_p50", "peak_memory_mb")  # images/s is latency turned round


def of(group: Group, margin: float, places: dict[int, int]) -> dict[str, Any]:
    """Sliders by name, each with its steps, and the answers that they point to.

    Args:
        group: rows that may stand to choose together.
        margin: points of the main metric that may be lost where nothing else is asked for.
        places: by `id(row)`, the row's place in the page.
    """
    rows = [point.row for point in group.points]
    if not any(point.score is not None and point.row.status == "ok" for point in group.points):
        return {"sliders": {}, "said": [_unscored(group)], "axis": answers.usual(rows).field}
    field, said = Field(rows), _Said(places)
    axes = [axis for axis in AXES if sum(axis.of(row) is not None for row in rows) > 1]
    many = len(places) > MANY
    drops = sorted({*(DROPS[1::3] if many else DROPS), margin})
    sliders: dict[str, Any] = {}
    for axis in axes or AXES[:1]:
        choices = [field.choice(Wanted(drop, by=axis)) for drop in drops]
        sliders[f"drop {axis.field}"] = {
            "values": drops,
            "start": drops.index(margin),
            "texts": [f"at most {answers.points(choice, choice.wanted.drop or 0.0)} lost" for choice in choices],
            "at": [said.place(choice) for choice in choices],
        }
    for axis in axes:
        values = _values(axis, rows, FEWER if many else STEPS)
        if axis.field in LIMITED and len(values) > 1 and field.reference is not None:
            choices = [field.choice(Wanted(None, (Limit(axis, value),))) for value in values]
            sliders[axis.field] = {
                "values": values,
                "start": len(values) // 2,
                "texts": [answers.limits(choice.wanted) for choice in choices],
                "at": [said.place(choice) for choice in choices],
            }
    return {"sliders": sliders, "said": said.all, "axis": answers.usual(rows).field}


def _unscored(group: Group) -> dict[str, Any]:
    """What is said where there is nothing to choose by, and why."""
    why = dict.fromkeys(p.row.reason for p in group.points if p.row.status == "ok" and p.row.reason)
    lead = [f"Why: {'; '.join(map(str, why))}. " if why else "", "GMACs, speed, memory and tokens were."]
    what = f"{group.first.backbone}: no {group.metrics[0].noun} was measured here"
    return {"headline": what, "lead": lead, "use": None}


class _Said:
    """Answers, each once; what differs only in the limit itself is one, with a place for it."""

    def __init__(self, places: dict[int, int]) -> None:
        self._places, self._index, self.all = places, dict[str, int](), list[dict[str, Any]]()

    def place(self, choice: Choice) -> int:
        """Where the answer of a choice stands."""
        told = answers.headline(choice)
        if choice.wanted.limits:
            words = answers.limits(choice.wanted)
            told = told.replace(words, "{limit}").replace(words[0].upper() + words[1:], "{Limit}")
        lead = answers.lead(choice)
        best = self._places[id(choice.best.row)] if choice.best else None
        key = f"{told}\n{lead}\n{best}"
        if key not in self._index:
            self._index[key] = len(self.all)
            self.all.append({"headline": told, "lead": lead, "use": best})
        return self._index[key]


def _values(axis: Axis, rows: Sequence[Row], steps: int) -> list[float]:
    """Round values from the least that a row needs to the most, about so many."""
    found = [value for row in rows if row.status == "ok" and (value := axis.of(row)) is not None]
    low, high = min(found, default=0.0), max(found, default=0.0)
    if not 0 < low < high:
        return []
    rough = (high - low) / steps
    unit: float = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first, last = math.floor(low / step), math.ceil(high / step) + 1
    return [float(f"{step * i:.10g}") for i in range(max(1, first), last + 1)]
