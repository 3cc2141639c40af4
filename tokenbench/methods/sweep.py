"""From what the user wrote to the settings to measure: `"tome[r=4,8,13],evit"` is four of them."""

from __future__ import annotations

from tokenbench.core.settings import make, written
from tokenbench.errors import BadSetting, UsageError, first_line
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method


def parse(text: str) -> list[Method]:
    """The settings of a sweep, in the order written, each once; `all` is every method at its defaults.

    Raises:
        UsageError: the text does not parse, or a method, knob or value is wrong.
    """
    if text.strip() == "all":
        return _told_apart([make(cls, {}) for cls in all_methods().values()])
    settings = [make(get(name), knobs) for name, knobs in written(text, "Methods")]
    if not settings:
        raise UsageError("No method was given; write them like tome[r=4,8,13],evit, or `all`.")
    return _told_apart(settings)


def _told_apart(settings: list[Method]) -> list[Method]:
    """Each setting once; raises `BadSetting` where rows could not tell them apart."""
    found: dict[str, Method] = {}
    labels: dict[str, str] = {}
    for method in settings:
        try:
            key = f"{method.name} {method.model_dump_json()}"
        except ValueError as error:  # pydantic's, of a plug-in's types
            raise BadSetting(f"{method.name}: its knobs cannot be written as JSON ({first_line(error)}).") from None
        label = method.label
        if not isinstance(label, str) or not label.isprintable() or labels.setdefault(label, key) != key:
            raise BadSetting(f"{method.name}: its label is {label!r}, it must be a line that no other setting has.")
        found.setdefault(key, method)
    return list(found.values())
