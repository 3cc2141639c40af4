"""Data sets that are no folder of classes: of which kind one is, and which part of it to measure or to train on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbench.data import hfds, packfiles, parquet, shards
from tokenbench.data.images import Images
from tokenbench.data.opening import is_picture
from tokenbench.data.packed import Found, labelled
from tokenbench.data.splits import kind
from tokenbench.errors import BadData

HUB, TAR = "hfds", "wds"  # what timm puts before the names of such data sets


@dataclass(frozen=True)
class Store:
    """A data set in packs, and how to read a part of it."""

    where: str
    parts: tuple[str, ...]  # what they are called
    read: Callable[[str, str | None, bool], Found]  # a part, the column of labels, whether images come in any order
    hint: str  # how the user names one part
    named: bool = False  # whether the user did, so that it is taken whatever it is


def find(path: Path) -> Store | None:
    """The data set that `--data-dir` names; None where it is a folder of classes, or nothing.

    Raises:
        BadData: nothing is there, or which part a file belongs to is not clear.
    """
    before = prefix(path)
    if before == HUB:
        return _of_hub(path)
    root = path if before is None else _rest(path)
    if before == TAR or root.suffix in shards.SUFFIXES or _holds(root, shards.SUFFIXES):
        return _of_files(path, root, shards.SUFFIXES)
    if root.suffix.lower() in parquet.SUFFIXES or _holds(root, parquet.SUFFIXES):
        return _of_files(path, root, parquet.SUFFIXES)
    return None


def prefix(path: Path) -> str | None:
    """timm's word before the name of a data set; None for a path of this machine."""
    return path.parts[0] if len(path.parts) > 1 and path.parts[0] in (HUB, TAR) and not path.exists() else None


def absolute(path: Path) -> Path:
    """The same data from any folder."""
    before = prefix(path)
    if before is None:
        return path.absolute()
    rest = _rest(path)
    return Path(before, *rest.absolute().parts[1:]) if _is_here(rest) else path


def needed(path: Path) -> Path | None:
    """A file or folder without which the data cannot be read; None where they are on the hub."""
    if prefix(path) is None:
        return path
    rest = _rest(path)
    return packfiles.expanded(_split(rest)[0])[0] if prefix(path) == TAR or _is_here(rest) else None


def evaluated(store: Store, split: str | None, order: str, labels: Path | None) -> Images:
    """The part to measure on: the one asked for, or of validation, else of test, or the only one."""
    part = split if split in store.parts else None
    if split is None:
        part = _one(store, "val") or _one(store, "test")
        if len(store.parts) == 1 and (store.named or kind(store.parts[0]) != "train"):
            part = store.parts[0]
    if part is None:
        raise BadData(
            f"'{store.where}' has {'no split ' + repr(split) if split else 'no part called val or test'}; it has "
            f"{', '.join(store.parts[:5])}: name the one to measure on ({store.hint.format(store.parts[0])})."
        )
    (images,) = labelled([store.read(part, labels and str(labels), False)], order)
    return images


def trained(store: Store, order: str, labels: Path | None) -> list[Images]:
    """The part to train on and the one held out."""
    train, other = _one(store, "train"), _one(store, "val") or _one(store, "test")
    if train is None or other is None:
        raise BadData(
            f"'{store.where}' has {', '.join(store.parts[:5])}, and training needs a part called train and one called "
            "val or test; give a data set that has both."
        )
    column = labels and str(labels)
    return labelled([store.read(train, column, True), store.read(other, column, False)], order)


def _of_hub(path: Path) -> Store:
    source, asked = _split(_rest(path))
    where, name = source.as_posix(), source.resolve().name if source.exists() else source.name
    parts = hfds.splits(where)
    if asked is not None and asked not in parts:
        raise BadData(f"'{where}' has no split '{asked}'; it has {', '.join(parts[:5])}.")

    def read(part: str, column: str | None, shuffled: bool) -> Found:
        return hfds.read(where, name, part, column)

    return Store(str(path), tuple(parts) if asked is None else (asked,), read, f"{path}:{{}}", asked is not None)


def _of_files(path: Path, root: Path, suffixes: Sequence[str]) -> Store:
    by_part = packfiles.by_part(root, suffixes)
    files = next(iter(by_part.values()))
    alone = root if root.is_dir() else files[0].resolve().parent if len(files) > 1 else files[0].with_suffix("")

    def read(part: str, column: str | None, shuffled: bool) -> Found:
        if suffixes is shards.SUFFIXES:
            return shards.read(by_part[part], alone.resolve().name, part, column)
        return parquet.read(by_part[part], alone.resolve().name, part, column, shuffled)

    return Store(str(path), tuple(by_part), read, f"its files, as {files[0]}", not root.is_dir())


def _holds(root: Path, suffixes: Sequence[str]) -> bool:
    """Whether a folder has such files, and no pictures below it, beside which one may lie."""
    if not root.is_dir() or not packfiles.inside(root, suffixes):
        return False
    return not any(is_picture(name) for _, _, names in os.walk(root) for name in names)


def _rest(path: Path) -> Path:
    """What stands behind timm's word: `wds//data/set` has become `wds/data/set` on the way here."""
    relative, top = Path(*path.parts[1:]), Path("/", *path.parts[1:])
    if _is_here(relative) and _is_here(top) and relative.absolute() != top:
        raise BadData(
            f"'{path}' may be '{relative}' in this folder or '{top}'; give the one that is meant by ../ or ./.."
        )
    return relative if _is_here(relative) or not _is_here(top) else top


def _is_here(path: Path) -> bool:
    return packfiles.expanded(_split(path)[0])[0].exists()


def _split(path: Path) -> tuple[Path, str | None]:
    """A data set and the split behind its colon."""
    name, colon, split = path.name.rpartition(":")
    return (path.with_name(name), split) if colon and name and split and not path.exists() else (path, None)


def _one(store: Store, wanted: str) -> str | None:
    found = [part for part in store.parts if kind(part) == wanted]
    if len(found) > 1:
        raise BadData(
            f"'{store.where}' has {' and '.join(found)}, and which of them is meant is not clear; name one "
            f"({store.hint.format(found[0])})."
        )
    return found[0] if found else None
