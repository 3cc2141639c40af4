"""The file that lists every image that could not be read, for the screen names only the first few."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tokenbench.core import atomic
from tokenbench.errors import DataError

NAMED = 5  # images that a sentence names; the others are counted


def beside(path: Path) -> Path:
    """Where the list of a results file is."""
    return path.with_name(f"{path.stem}.unreadable.txt")


def write(path: Path, of: str, skipped: Mapping[str, str], keep: bool = False) -> None:
    """Put the unreadable images of a data set in place of those listed for it before; the file goes when none is left.

    A line is the data set, the image and the reason, with tabs between.

    Args:
        path: the file; it need not exist.
        of: names the data set.
        skipped: its images with the reasons.
        keep: add to those listed before, for a pass that has not seen all images.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        before = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    except OSError:
        before = []
    lines = [line for line in before if keep or line.partition("\t")[0] != of]
    new = ("\t".join(map(_plain, (of, name, why))) for name, why in skipped.items())
    lines = list(dict.fromkeys((*lines, *new)))
    if lines and lines != before:
        atomic.write(path, "".join(f"{line}\n" for line in lines), DataError)
    elif before and not lines:
        path.unlink(missing_ok=True)


def told(skipped: Mapping[str, str], total: int, path: Path, items: str = "images") -> str:
    """How many could not be read, the first of them, and where all are listed; a sentence."""
    first = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:NAMED])
    more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
    return (
        f"{len(skipped)} of {total} {items} cannot be read and are left out: {first}{more}; all are listed in {path}."
    )


def _plain(text: str) -> str:
    """Without tabs, ends of lines and what UTF-8 cannot hold."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
