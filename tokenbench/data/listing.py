"""Which picture files are in a folder and below it, fast for a million of them; and what is left out there, counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenbench.data.opening import is_picture
from tokenbench.errors import BadData

CLUTTER = ("__MACOSX", "@eaDir", "lost+found")  # folders that archives and disks leave behind
SHOWN = 5  # kinds of files left out that are named


def folders(root: Path) -> list[str]:
    """Names of the folders in a folder; without hidden ones, and links back to it or to one above it."""
    above = _above(root)
    return sorted(
        entry.name
        for entry in _entries(root)
        if entry.name[0] != "." and entry.name not in CLUTTER and _is_dir(entry) and _place(entry.path) not in above
    )


def pictures(root: Path, left_out: Counter[str]) -> Iterator[tuple[str, list[str]]]:
    """Each folder from `root` down that has picture files, with their names in order; folders in order of their paths.

    Links are followed, but into each folder once and never upwards. A link that leads nowhere counts as a picture, for
    it is one that cannot be read. What else there is, is counted in `left_out` by its kind.
    """
    seen, waiting, links = _above(root), [str(root)], list[str]()
    found: dict[str, list[str]] = {}
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop()
        if folder != str(root):
            place = _place(folder)
            if place in seen:
                left_out["link to a folder that is there already"] += 1
                continue
            seen.add(place)
        names = found[folder] = []
        for entry in sorted(_entries(folder, left_out), key=lambda entry: entry.name, reverse=True):
            if _is_dir(entry):
                if entry.name[0] == "." or entry.name in CLUTTER:
                    left_out[f"folder {entry.name}"] += 1
                else:
                    (links if entry.is_symlink() else waiting).append(entry.path)
            elif not is_picture(entry.name):
                suffix = os.path.splitext(entry.name)[1].lower() or "without suffix"
                left_out["hidden" if entry.name[0] == "." else suffix] += 1
            elif _is_other(entry):
                left_out["pipe or device"] += 1
            else:
                names.append(entry.name)
    for folder in sorted(found):
        if found[folder]:
            yield folder, found[folder][::-1]


def pictures_in(folder: Path) -> int:
    """How many picture files there are right in a folder."""
    return sum(is_picture(entry.name) and not _is_dir(entry) for entry in _entries(folder))


def told(left_out: Counter[str]) -> str | None:
    """What was left out, as a clause; None if nothing was."""
    if not left_out:
        return None
    most = left_out.most_common(SHOWN)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in most)
    rest = left_out.total() - sum(count for _, count in most)
    return f"{left_out.total()} left out: {kinds}{f' and {rest} more' if rest else ''}"


def _entries(folder: str | Path, left_out: Counter[str] | None = None) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        if left_out is None:
            raise BadData(f"Data folder '{folder}' cannot be listed ({error.strerror}); give one that can.") from None
        left_out["folder that cannot be listed"] += 1
        return []


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_other(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is there but is no regular file."""
    try:
        return not entry.is_file() and os.path.exists(entry.path)
    except OSError:
        return False


def _above(root: Path) -> set[tuple[int, int] | None]:
    """A folder and all above it."""
    real = Path(os.path.realpath(root))
    return {_place(folder) for folder in (real, *real.parents)}


def _place(path: str | Path) -> tuple[int, int] | None:
    """What tells a folder from others, whatever links lead to it."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
