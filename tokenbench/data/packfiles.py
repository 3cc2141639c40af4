"""Which files a data set in packs has, and which of them belong to a split."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenbench.data.splits import WORDS, kind
from tokenbench.errors import BadData

PLACES = ("data", *(word for words in WORDS.values() for word in words))  # folders in a data set that hold its files
MOST = 10**6  # files that a pattern may stand for


def by_part(root: Path, suffixes: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each split, by what it is called; of none, as "all".

    Args:
        root: a folder; or a file, or several as train-{000..012}.tar.
        suffixes: of the files.

    Raises:
        BadData: there are none, one is missing, or which split one belongs to is not clear.
    """
    files = inside(root, suffixes) if root.is_dir() else expanded(root)
    absent = next((file for file in files if not file.is_file()), None)
    if absent is not None or not files:
        what = f"'{absent}' does not exist" if absent else f"'{root}' has no {suffixes[0]} files in it"
        raise BadData(f"{what}; give a {suffixes[0]} file, or a folder of them.")
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(_part(file, root), []).append(file)
    if len(found) > 1 and "all" in found:
        part = next(part for part in found if part != "all")
        raise BadData(
            f"'{root}' has files of a split, such as '{found[part][0].name}', and others, such as "
            f"'{found['all'][0].name}'; give a folder of those that are meant."
        )
    return found


def inside(root: Path, suffixes: Sequence[str]) -> list[Path]:
    """The files of a folder, and of those in it that are called like a split, or data; in order."""
    folders = [root, *(each for each in root.iterdir() if each.name.lower() in PLACES and each.is_dir())]
    return sorted(
        file
        for folder in folders
        for file in folder.iterdir()
        if file.suffix.lower() in suffixes and file.name[0] != "."
    )


def expanded(path: Path) -> list[Path]:
    """The files of a name such as train-{000..012}.tar, as WebDataset has them; of any other, itself.

    Raises:
        BadData: it stands for none, or for too many.
    """
    found = re.search(r"\{(\d+)\.\.(\d+)\}", str(path))
    if found is None:
        return [path]
    first, last = found.groups()
    if not int(first) <= int(last) < int(first) + MOST:
        raise BadData(f"'{path}' stands for no files or too many; count up in it, as {{000..012}}.")
    before, after = str(path)[: found.start()], str(path)[found.end() :]
    numbers = (f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1))
    return [file for number in numbers for file in expanded(Path(f"{before}{number}{after}"))]


def _part(file: Path, root: Path) -> str:
    """The word for a split that the folder or the name of a file has: "validation" of validation-00000-of-00004."""
    folders = file.relative_to(root).parts[:-1] if root.is_dir() else ()
    words = [word for word in folders if kind(word)] or re.split(r"[^A-Za-z]+", file.stem)
    found = list(dict.fromkeys(word.lower() for word in words if kind(word)))
    if len({kind(word) for word in found}) > 1:
        raise BadData(f"'{file}' may be of {' or '.join(found)}; give it a name that says one of them.")
    return found[0] if found else "all"
