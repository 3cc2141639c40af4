"""What is said of methods: what becomes of tokens, where a method comes from, and what its paper printed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["prunes", "merges", "condenses", "skips", "recovers"]
KINDS: Mapping[Kind, str] = {
    "prunes": "tokens are dropped",
    "merges": "tokens become one with others like them",
    "condenses": "fewer new tokens are made of all",
    "skips": "tokens stay, and pass by blocks or parts of them",
    "recovers": "tokens that were condensed or dropped come back",
}


@dataclass(frozen=True)
class Paper:
    """Where a method comes from."""

    title: str
    arxiv: str
    venue: str


@dataclass(frozen=True)
class Reported:
    """A number its paper printed, to stand beside the measured one.

    `trained` tells whether with weights trained for the method or off the shelf; `note` gives further conditions, and
    `reason` why the GMACs counted here differ from those printed, where they do.
    """

    backbone: str
    settings: Mapping[str, Any]
    top1: float | None = None  # percent
    gmacs: float | None = None  # 1e9 multiply-adds; papers say FLOPs
    trained: bool = False
    note: str = ""
    params_m: float | None = None  # 1e6
    saved: float | None = None  # percent of the dense model's GMACs
    tokens: int | None = None  # after the last block
    reason: str = ""
