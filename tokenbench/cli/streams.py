"""What a process has of its terminal: text of any encoding, signals, and how much is wanted on stderr."""

from __future__ import annotations

import codecs
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from types import FrameType

import click

from tokenbench.errors import Stopped

VERBOSE = "tokenbench.verbose"  # in a context's meta
PLAIN = {"×": "x", "Δ": "d", "–": "-", "−": "-", "·": "*", "…": "...", "✓": "y", "≥": ">=", "≤": "<=", "µ": "u"}


def lenient() -> None:
    """Make stdout and stderr write every text: a sign that their encoding lacks is spelled in ones that it has."""
    codecs.register_error("tokenbench", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="tokenbench")


def printable(text: str) -> str:
    """Text on one line in which nothing steers a terminal: other signs are escaped as in Python."""
    return "".join(s if s.isprintable() else s.encode("unicode_escape").decode() for s in text)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is inside as Ctrl-C does, by an exception, so that what is done is kept.

    A signal that is ignored, as under nohup, stays so.
    """
    owner = os.getpid()

    def stop(number: int, _: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker was forked from here, and is to die as if nothing were set
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Stopped(number)

    set_here: list[int] = []
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, stop)
                set_here.append(number)
    except ValueError:  # in another thread than the first, where signals are somebody else's
        pass
    try:
        yield
    finally:
        for number in set_here:
            signal.signal(number, signal.SIG_DFL)


def verbosely(ctx: click.Context, _: click.Parameter, given: bool) -> None:
    """Show tracebacks of errors, and what we and libraries log, while a command runs."""
    if not given:
        return
    ctx.meta[VERBOSE] = True
    handler, root, own = logging.StreamHandler(), logging.getLogger(), logging.getLogger("tokenbench")
    levels = root.level, own.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    own.setLevel(logging.DEBUG)

    def undo() -> None:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        own.setLevel(levels[1])

    ctx.call_on_close(undo)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(s) or s.encode("ascii", "backslashreplace").decode() for s in signs), error.end
