"""Texts that take seconds to make and come out the same each time, kept in the user's folder for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tokenbench.core import atomic
from tokenbench.errors import TokenbenchError


def text(name: str, make: Callable[[], str | None]) -> str | None:
    """What is kept under a name, or else what is made now; None, where nothing can be made, is not kept."""
    with suppress(OSError, RuntimeError, UnicodeDecodeError):
        return (folder() / name).read_text(encoding="utf-8")
    made = make()
    if made is not None:
        with suppress(TokenbenchError, RuntimeError):  # it is made again next time
            atomic.write(folder() / name, made, TokenbenchError)
    return made


def folder() -> Path:
    """`tokenbench` in XDG_CACHE_HOME, or in ~/.cache; raises `RuntimeError` where there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenbench"
