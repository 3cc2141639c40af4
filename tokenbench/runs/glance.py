"""A quick look at lines of a results file, for what is surely good; everything else takes the careful one.

A file may hold a hundred thousand rows of which a command needs twenty. So a line is looked at only as far as says that
it makes a row, which one, and when it was written; the row itself is made when it is asked for.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from pydantic import AwareDatetime, BaseModel

from tokenbench.runs.reading import LARGEST, LONGEST, Told
from tokenbench.runs.row import FIRST_TASK, SCHEMA, Identity, Row

FEW = 1000  # environments that are remembered
TINY, ZEROS = re.compile(rb"e-\d{3}"), b"0" * 90
MOST = 10**15  # of whole numbers

Number = Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Whole = Annotated[int, msgspec.Meta(ge=-MOST, le=MOST)]
Value: Any = str | bool | Whole | Number | None
for _ in range(3):  # levels
    Value = Union[str, bool, Whole, Number, None, list[Value], dict[str, Value]]  # noqa: UP007
KINDS = {float: Number, int: Whole, Any: Value, AwareDatetime: Annotated[datetime, msgspec.Meta(tz=True)]}


def _kind(annotation: Any) -> Any:
    """What surely makes a field of this annotation."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in KINDS:
        return KINDS[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _struct(annotation)
    if origin in (None, Literal) or annotation is NoneType:
        return annotation
    kinds = tuple(map(_kind, inner))
    return Union[kinds] if origin in (Union, UnionType) else origin[kinds]  # noqa: UP007


def _struct(model: type[BaseModel], **first: Any) -> type[msgspec.Struct]:
    """A struct with the fields of a model."""
    hints = get_type_hints(model, include_extras=True)
    fields: list[Any] = [*first.items()]
    for name, field in model.model_fields.items():
        kind = msgspec.Raw if name == "env" else _kind(hints[name])
        fields.append((name, kind) if field.is_required() or name == "time" else (name, kind, None))
    return msgspec.defstruct(model.__name__, fields, kw_only=True, forbid_unknown_fields=True, gc=False)


LINE = msgspec.json.Decoder(_struct(Row, schema=Literal[SCHEMA], id=str))
ENV = msgspec.json.Decoder(dict[str, Value])
CANONICAL = msgspec.json.Encoder(order="sorted")
NAMES = tuple(Identity.model_fields)
BEFORE: dict[str, Any] = {"task": FIRST_TASK, "trained": None, "conditions": {}}  # left out of an identity


class Glance:
    """A quick look at lines as this version writes them. Environments, which most lines share, are looked at once."""

    def __init__(self) -> None:
        self._envs: set[bytes] = set()

    def told(self, line: bytes) -> Told | None:
        """What a line says if it surely makes a row; None if that takes a closer look."""
        if len(line) > LONGEST or not line.isascii() or _tiny(line):
            return None
        try:
            row: Any = LINE.decode(line)
            if row.env is not None:
                self._look(bytes(row.env))
        except (msgspec.MsgspecError, RecursionError):
            return None
        if row.time.tzinfo is not UTC or (row.status != "ok" and not row.reason) or _id(row) != row.id:
            return None
        return Told(row.id, row.status == "ok", row.time)

    def _look(self, env: bytes) -> None:
        if env not in self._envs:
            ENV.decode(env)
            if len(self._envs) < FEW:
                self._envs.add(env)


def _tiny(line: bytes) -> bool:
    """Whether there may be a number too near 0 to be measured; a text that looks like one costs a closer look."""
    return (
        ZEROS in line or TINY.search(line) is not None or (b"E" in line and b"E-" in line)
    )  # a letter is found faster


def _id(row: Any) -> str:
    """As `Identity.id`; another where the two ways to write JSON differ."""
    values = {name: getattr(row, name) for name in NAMES}
    for name, before in BEFORE.items():
        if values[name] in (None, before):  # None where a line lacks it
            del values[name]
    return hashlib.sha256(CANONICAL.encode(values)).hexdigest()[:16]
