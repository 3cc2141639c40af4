"""Lines of a results file become rows: a quick look at what is surely good, a careful one at everything else.

A file may hold a hundred thousand rows of which a command needs twenty. So a line is looked at only as far as says that
it makes a row, which one, and when it was written; the row itself is made when it is asked for.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import re
from datetime import datetime
from operator import itemgetter
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

import orjson
from pydantic import ValidationError

from tokenbench.runs.row import FIRST_TASK, SCHEMA, Identity, Row, WeightsId

DEEPEST = 16  # levels of a row's values
LONGEST = 100_000  # characters of a text
LARGEST, SMALLEST = 1e100, 1e-100  # so that ratios stay numbers
FEW = 1000  # kinds of lines that are remembered
ODD = re.compile(rb"\d[eE][+-]?\d{3}|\d{100}")

NUMBERS = frozenset((float, int, type(None)))
KEYS = {"schema", "id", *Row.model_fields}
WITHOUT: dict[str, Any] = {  # what a field holds in a row that lacks it, as earlier ones of this schema do
    name: {} if field.default_factory else field.default
    for name, field in Row.model_fields.items()
    if not field.is_required() and name != "time"
}
IDENTITY = tuple(sorted(Identity.model_fields))
SCALARS = {  # the types of JSON's values that surely make a field
    name: NUMBERS if float in kinds else kinds
    for name, field in Row.model_fields.items()
    if get_origin(field.annotation) in (None, UnionType)
    and (kinds := frozenset(get_args(field.annotation) or [field.annotation])) <= {str, int, float, bool, type(None)}
}
_FLOATS = itemgetter(*(name for name, kinds in SCALARS.items() if kinds is NUMBERS))
_IDENTITY = itemgetter(*IDENTITY)
LISTS, DICTS = (
    ("gmacs_by_block", "tokens_mean", "tokens_std"),
    ("metrics", "gmacs_by_part", "params_by_part", "ms_by_part"),
)
STATUSES, FILES = (set(get_args(m.model_fields[n].annotation)) for m, n in ((Row, "status"), (WeightsId, "kind")))


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


class Glance:
    """A quick look at lines as this version writes them. What most lines share is looked at once."""

    def __init__(self) -> None:
        self._shapes: set[tuple[Any, ...]] = set()  # names and types of fields
        self._envs: set[bytes] = set()
        self._weights: set[tuple[Any, ...]] = set()

    def told(self, line: bytes) -> Told | None:
        """What a line says if it surely makes a row; None if that takes a closer look."""
        if len(line) > LONGEST or not line.isascii():
            return None
        start, stop = line.rfind(b', "env": {'), line.rfind(b', "time": "')
        env = line[start:stop]
        known = env in self._envs
        try:
            data = orjson.loads(line[:start] + b', "env": {}' + line[stop:] if known else line)
            if type(data) is not dict or not self._good(data) or not (known or _plain(data["env"])):
                return None
            when = data["time"]
            if len(when) not in (20, 27) or when[4::3][:2] != "--" or when[10] != "T" or when[-1] != "Z":
                return None
            if len(self._envs) < FEW and 0 < start < stop:
                self._envs.add(env)
            return Told(data["id"], data["status"] == "ok", datetime.fromisoformat(when))
        except (ValueError, TypeError, KeyError):
            return None

    def _good(self, data: dict[str, Any]) -> bool:
        """Whether the careful look would find nothing, the env left out."""
        shape = *data, *map(type, data.values())
        if shape not in self._shapes:
            if not _shaped({**WITHOUT, **data}):
                return False
            if len(self._shapes) < FEW:
                self._shapes.add(shape)
        numbers = [*_FLOATS(data)]
        for name in LISTS:
            numbers += data[name] or ()
        for name in DICTS:
            numbers += (data.get(name) or {}).values()
        return (
            data["schema"] == SCHEMA
            and NUMBERS.issuperset(map(type, numbers))
            and _near([*map(abs, filter(None, numbers))])
            and data["status"] in STATUSES
            and (data["status"] == "ok" or bool(data["reason"]))
            and self._weights_are(data["weights"])
            and (data["trained"] is None or self._weights_are(data["trained"]))
            and [*map(type, data["image_size"])] == [int, int]
            and {str}.issuperset(map(type, data.get("intervals", {}).values()))
            and _plain(data["setting"])
            and _plain(data["conditions"])
            and _id(data) == data["id"]
        )

    def _weights_are(self, value: Any) -> bool:
        told = tuple(value.items()) if type(value) is dict else ()
        if told in self._weights:
            return True
        names = [name for name, _ in told]
        if sorted(names) != ["hash", "kind", "name"] or value["kind"] not in FILES:
            return False
        if type(value["name"]) is not str or type(value["hash"]) not in (str, type(None)):
            return False
        if len(self._weights) < FEW:
            self._weights.add(told)
        return True


def _shaped(data: dict[str, Any]) -> bool:
    """Whether a line has the fields of a row, each of a type that surely makes it."""
    return (
        data.keys() == KEYS
        and data["budget"] is None
        and all(type(data[name]) in kinds for name, kinds in SCALARS.items())
        and all(type(data[name]) in (dict, type(None)) for name in DICTS)
        and all(type(data[name]) in (list, type(None)) for name in LISTS)
        and all(
            type(data[name]) is dict for name in ("setting", "conditions", "env", "intervals", "weights", "metrics")
        )
        and type(data["image_size"]) is list
        and type(data["schema"]) is int
        and type(data["id"]) is str
        and type(data["time"]) is str
    )


def _id(data: dict[str, Any]) -> str:
    """As `Identity.id`, of values as JSON has them; another where the two ways to write JSON differ."""
    values = dict(zip(IDENTITY, _IDENTITY(data), strict=True))
    for name, before in (("task", FIRST_TASK), ("trained", None), ("conditions", {})):
        if values[name] == before:
            del values[name]
    return hashlib.sha256(orjson.dumps(values, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _near(sizes: list[float]) -> bool:
    """Whether numbers without their sign, none of them 0, are of a size that can be measured."""
    return not sizes or (min(sizes) > SMALLEST and max(sizes) < LARGEST)


def _plain(value: Any, depth: int = 4) -> bool:
    """Whether a value of any kind is neither nested deeply nor of odd numbers."""
    kind = type(value)
    if kind is dict or kind is list:
        return depth > 0 and all(_plain(inner, depth - 1) for inner in (value.values() if kind is dict else value))
    return kind is str or kind is bool or (kind in NUMBERS and (not value or _near([abs(value)])))


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
