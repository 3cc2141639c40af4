"""Any two rows of the page beside each other: what changes from one to the other is said here, the script picks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from tokenbench.errors import UsageError
from tokenbench.measure.verdicts import MARGIN
from tokenbench.reports import changes
from tokenbench.reports.groups import Group
from tokenbench.runs import compare
from tokenbench.runs.matching import Found
from tokenbench.runs.row import Row
from tokenbench.tasks.base import Task

MOST = 50  # settings of one group, of which every two are told; of more, those on a front and then the first
ALL = 2000  # pairs of one page

UNPAIRED = "not paired, for their predictions are not beside the results file, or of other images"

Of = Callable[[Row], Path]


def of(groups: Sequence[Group], places: dict[int, int], file: Of | None, margin: float = MARGIN) -> dict[str, Any]:
    """By `i j`, the places of two rows in the page, the lines that tell what changes from the first to the second.

    Args:
        groups: only rows of one group are told beside each other.
        places: by `id(row)`, the row's place in the page.
        file: the results file of a row, beside which its predictions lie; None: accuracies are not paired.
        margin: see `verdicts.judge`.
    """
    told: list[list[str]] = []
    index: dict[tuple[str, ...], int] = {}
    found: dict[str, list[int]] = {}
    kept: dict[str, Any] = {}

    def read(task: Task, one: Found) -> Any:
        if one.row.id not in kept:
            try:
                kept[one.row.id] = compare.kept(task, one)
            except UsageError as error:
                kept[one.row.id] = error
        mine = kept[one.row.id]
        if isinstance(mine, UsageError):
            raise mine
        return mine

    def place(line: tuple[str, ...]) -> int:
        if line not in index:
            index[line] = len(told)
            told.append(list(line))
        return index[line]

    for group in groups:
        good = [point for point in group.points if point.row.status == "ok"]
        rows = [point.row for point in sorted(good, key=lambda point: not point.fronts)[:MOST]]
        if len(found) + len(rows) * (len(rows) - 1) // 2 > ALL:
            break
        both = [Found(row, file(row) if file else Path()) for row in sorted(rows, key=lambda row: places[id(row)])]
        for first, second in combinations(both, 2):
            lines = _lines(first, second, read if file else None, margin)
            found[f"{places[id(first.row)]} {places[id(second.row)]}"] = [place(line) for line in lines]
    return {"pairs": found, "lines": told}


def _lines(first: Found, second: Found, read: compare.Reader | None, margin: float) -> list[tuple[str, ...]]:
    """Name, change and verdict of each field that both have, accuracy first."""
    try:
        pair = compare.beside(first, second, read)
    except UsageError:
        pair = compare.beside(first, second)
    pair = compare.alone(pair, margin)
    lines = [changes.line(pair, field, change) for field, change in pair.changes.items()]
    main = pair.metrics[0] if pair.metrics else None
    scored = [found.row for found in (first, second) if main and found.row.metrics.get(main.name) is not None]
    if main and main.name not in pair.changes and len(scored) == 2:
        lines.insert(0, (main.heading, "", "", "", UNPAIRED))
    return [(name, shown, words) for name, _, _, shown, words in lines]
