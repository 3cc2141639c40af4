"""Rows as CSV: every field in full, a column for whatever lies inside, and no cell that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokenbench.runs.row import Row

_FORMULA = re.compile(r"\s*[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?( %)?( \[[+-]?\d+(\.\d+)?, [+-]?\d+(\.\d+)?\])?")


def text(rows: Iterable[Row]) -> str:
    """A line a row under a line of names: `top1`, `setting.r`, `env.torch`; lists are written as JSON has them."""
    lines = [dict(_flat({"id": row.id, **row.model_dump(mode="json")})) for row in rows]
    lines = [{name.removeprefix("metrics."): value for name, value in line.items()} for line in lines]
    names = dict.fromkeys(name for line in lines for name in line)
    outer = {name[:i] for name in names for i, sign in enumerate(name) if sign == "."}  # null in some rows only
    order = sorted(names.keys() - outer, key=lambda name: (_place(name.split(".")[0]), list(names).index(name)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_safe, order))
    writer.writerows([_safe(line.get(name)) for name in order] for line in lines)
    return out.getvalue()


def is_formula(cell: str) -> bool:
    """Whether a spreadsheet would work a text out; a number is none, nor is one with its interval."""
    return bool(_FORMULA.match(cell)) and not _NUMBER.fullmatch(cell)


def _place(field: str) -> int:
    known = ["id", *Row.model_fields]
    return known.index(field if field in known else "metrics")


def _flat(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield f"{under}{key}", json.dumps(value) if isinstance(value, list) else value


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and is_formula(value) else value
