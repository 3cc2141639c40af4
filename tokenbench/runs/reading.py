"""Lines of a results file become rows, or a clause on why they cannot."""

from __future__ import annotations

import codecs
import json
import math
import re
from datetime import datetime
from typing import NamedTuple

from pydantic import ValidationError

from tokenbench.runs.row import SCHEMA, Row

DEEPEST = 16  # levels of a row's values
LONGEST = 100_000  # characters of a text
LARGEST, SMALLEST = 1e100, 1e-100  # so that ratios stay numbers
ODD = re.compile(rb"\d[eE][+-]?\d{3}|\d{100}")


class Told(NamedTuple):
    """What a line says of its row without the row being made."""

    id: str
    ok: bool
    time: datetime


def told(line: bytes) -> Told:
    """What a line says, by a careful look; raises `ValueError` as `parse` does."""
    row = parse(line)
    return Told(row.id, row.status == "ok", row.time)


def parse(line: bytes) -> Row:
    """A row of this schema or an earlier one; raises `ValueError` with a clause on what is wrong with the line."""
    try:
        data = json.loads(line.removeprefix(codecs.BOM_UTF8).decode(), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise ValueError("the line is cut or damaged") from None
    if len(line) > LONGEST or line.count(b"[") + line.count(b"{") > 64 or ODD.search(line):  # else nothing can be wrong
        _check(data)
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ValueError("the line is not a row of results")
    if schema > SCHEMA:
        raise ValueError(f"the row has schema {schema} and this version reads {SCHEMA}, so update tokenbench")
    id = data.pop("id", None)
    try:
        row = Row.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100] or "row"
        raise ValueError(f"the row is damaged: {where}: {first['msg']}") from None
    except OverflowError:  # Python's, of the year before 1 or after 9999
        raise ValueError("the row is damaged: time: there is no such year") from None
    if row.id != id:
        raise ValueError("the row was altered: its id is not that of its identity")
    return row


def _check(value: object, name: str = "row", depth: int = 0) -> None:
    """Raise `ValueError` for what no run writes and no report could hold."""
    if isinstance(value, dict | list):
        if depth == DEEPEST:
            raise ValueError("the row is damaged: it is nested too deeply")
        for key, inner in value.items() if isinstance(value, dict) else ((name, inner) for inner in value):
            _check(key, name, depth)
            _check(inner, key, depth + 1)
    elif isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"the row is damaged: a text of it has {len(value)} characters")
    elif isinstance(value, int | float) and value and value not in (math.inf, -math.inf):  # which mean null
        small = abs(value) < SMALLEST and name != "p_value"
        if small or abs(value) > LARGEST:
            raise ValueError(f"the row is damaged: {name[:100]}: no such number is measured")
