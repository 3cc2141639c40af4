"""Settings of methods and tasks as users write them: `tome[r=4,8,13]` is three settings of one method."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tokenbench.core.registry import NAME
from tokenbench.errors import BadSetting, UsageError

_ITEM = re.compile(rf"({NAME.pattern})(?:\[([^\[\]]*)\])?")
Chosen = TypeVar("Chosen", bound=BaseModel)


def written(text: str, what: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Names and knobs in the order written, every combination of several values; `what` names them in messages.

    Items are separated by commas; knobs stand in brackets, their values separated by commas, a list written 3/6/9.

    Raises:
        UsageError: the text does not parse.
    """
    for item in _split(text):
        match = _ITEM.fullmatch(item)
        if not match:
            raise UsageError(f"{what} '{text}' do not parse at '{item}'; write them like tome[r=4,8,13],evit.")
        name, knobs = match.groups()
        for chosen in _combinations(name, knobs or ""):
            yield name, chosen


def make(cls: type[Chosen], settings: Mapping[str, Any]) -> Chosen:
    """A setting of `cls`; raises `BadSetting` in one sentence where pydantic would print a page."""
    name = getattr(cls, "name", cls.__name__)
    try:
        return cls(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        knob = str(first["loc"][0]) if first["loc"] else name
        if first["type"] == "extra_forbidden":
            raise BadSetting(
                f"{name} has no knob '{knob}'; it has {', '.join(cls.model_fields) or 'none'}. "
                f"See `tokenbench show {name}`."
            ) from None
        what = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
        raise BadSetting(f"{name}: {knob}={first['input']} is not allowed, it {what}.") from None


def _split(text: str) -> list[str]:
    """Parts between commas that stand outside brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [part.strip() for part in parts if part.strip()]


def _combinations(name: str, knobs: str) -> list[dict[str, str]]:
    values: dict[str, list[str]] = {}
    knob = ""
    for part in filter(None, (p.strip() for p in knobs.split(","))):
        if "=" in part:
            knob, _, part = (p.strip() for p in part.partition("="))
            values.setdefault(knob, [])
        if not knob or not part:
            raise UsageError(f"'{name}[{knobs}]' names no knob or value at '{part}'; write it like tome[r=4,8,13].")
        values[knob].append(part)
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]
