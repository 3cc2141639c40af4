"""Who looks on while something is measured."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Who looks on: told of each stretch of work and what is worth saying."""

    def stretch(self, what: str, total: int) -> None:
        """A stretch of `total` steps begins."""

    def step(self, done: int) -> None:
        """So many steps of it are done."""

    def say(self, text: str) -> None:
        """A sentence for the user."""
