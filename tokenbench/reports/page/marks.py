"""Vega-Lite as plain dictionaries: which data, what becomes of them, the mark that is drawn, and its encoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

Encoding = dict[str, Any]
Mark = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One layer of a chart before it is encoded; each verb gives another."""

    source: dict[str, Any]
    transform: tuple[dict[str, Any], ...] = ()
    look: dict[str, Any] | None = None

    def where(self, test: str) -> Layer:
        """Only the rows for which an expression holds."""
        return self.then(filter=test)

    def then(self, **step: Any) -> Layer:
        """After one more transform."""
        return replace(self, transform=(*self.transform, step))

    def mark(self, kind: str, **look: Any) -> Layer:
        """Drawn as points, lines, rules, bars, areas or text."""
        return replace(self, look={"type": kind, **look})

    def encode(self, **channels: Encoding | list[Encoding]) -> Mark:
        """The layer as it stands in a specification."""
        made: Mark = {"data": self.source, "mark": self.look, "encoding": channels}
        return made | ({"transform": [*self.transform]} if self.transform else {})


def data(named: str = "", values: Sequence[dict[str, Any]] = ()) -> Layer:
    """A layer of the rows that the page gives under a name, or of these values."""
    return Layer({"name": named} if named else {"values": [*values]})


def number(field: str, **how: Any) -> Encoding:
    """A channel that a number decides."""
    return {"field": field, "type": "quantitative", **how}


def name(field: str, **how: Any) -> Encoding:
    """A channel that a name decides."""
    return {"field": field, "type": "nominal", **how}


def layered(*layers: Mark, height: int) -> dict[str, Any]:
    """A chart of several layers, the first at the back, as wide as its place."""
    return {"$schema": SCHEMA, "width": "container", "height": height, "layer": [*layers]}
