"""From what the user wrote to the settings to measure: `"tome[r=4,8,13],evit"` is four of them."""

from __future__ import annotations

from tokenbench.core.settings import make, written
from tokenbench.errors import UsageError
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method


def parse(text: str) -> list[Method]:
    """The settings of a sweep, in the order written, each once; `all` is every method at its defaults.

    Raises:
        UsageError: the text does not parse, or a method, knob or value is wrong.
    """
    if text.strip() == "all":
        return [cls() for cls in all_methods().values()]
    settings = [make(get(name), knobs) for name, knobs in written(text, "Methods")]
    if not settings:
        raise UsageError("No method was given; write them like tome[r=4,8,13],evit, or `all`.")
    return list(dict.fromkeys(settings))
