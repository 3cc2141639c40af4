"""Counts in sentences."""

from __future__ import annotations

from tokenbench.core.words import counted


def test_one_is_no_plural() -> None:
    assert [counted(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
    assert [counted(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]
