"""From what the user wrote to the settings to measure: `"tome[r=4,8,13],evit"` is four of them."""

from __future__ import annotations

import itertools
import re

from tokenbench.errors import UsageError
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method, make

_ITEM = re.compile(r"([\w-]+)(?:\[([^\[\]]*)\])?")


def parse(text: str) -> list[Method]:
    """The settings of a sweep, in the order written, each once.

    Methods are separated by commas; knobs stand in brackets, their values separated by commas, a list written 3/6/9.
    Several knobs give every combination. `all` is every method at its defaults.

    Raises:
        UsageError: the text does not parse, or a method, knob or value is wrong.
    """
    if text.strip() == "all":
        return [cls() for cls in all_methods().values()]
    settings: list[Method] = []
    for item in _split(text):
        match = _ITEM.fullmatch(item)
        if not match:
            raise UsageError(f"Methods '{text}' do not parse at '{item}'; write them like tome[r=4,8,13],evit.")
        name, knobs = match.groups()
        settings += [make(get(name), chosen) for chosen in _combinations(name, knobs or "")]
    if not settings:
        raise UsageError("No method was given; write them like tome[r=4,8,13],evit, or `all`.")
    return list(dict.fromkeys(settings))


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
