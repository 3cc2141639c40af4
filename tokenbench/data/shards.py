"""WebDataset: tar files in which the files of one image stand together, `0001.jpg` and `0001.cls`.

Where each image is in its file is found once, from the headers, so that any image can be asked for.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenbench.data import columns, labelfiles
from tokenbench.data.opening import suffixes
from tokenbench.data.pack import Pack
from tokenbench.data.packed import Found, Label
from tokenbench.errors import BadData, DataError, first_sentence

SUFFIXES = (".tar",)
LONGEST = 2**20  # bytes of a label
_WHOLE = re.compile(r"-?[0-9]{1,9}")


def read(files: Sequence[Path], name: str, split: str, field: str | None) -> Found:
    """The images in some tar files.

    A label is what `.cls` holds, a whole number or a name, or a field of `.json`: the one asked for, or one called so.

    Raises:
        BadData: a file that is no plain tar, is cut short or has no images; labels that are neither.
    """
    pack, labels, alone = Shards(), list[Label](), 0
    several: set[str] = set()  # kinds of images, where a sample has more than one
    for file in files:
        before = len(labels)
        try:
            with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:") as tar:
                for members in _samples(tar):
                    kinds = sorted(filter(_is_image, members), key=_likely)
                    if not kinds:
                        alone += 1
                        continue
                    several |= {*kinds} if len(kinds) > 1 else set()
                    image = members[kinds[0]]
                    pack.places.append((file, image.offset_data, image.size, image.name))
                    labels.append(_label(tar, members, field, file))
        except (tarfile.TarError, OSError) as error:
            raise BadData(
                f"Tar file '{file}' cannot be read ({first_sentence(error)}); give one that is whole and not "
                "compressed."
            ) from None
        if len(labels) == before:
            raise BadData(f"Tar file '{file}' has no images in it; give one that has, as 0001.jpg beside 0001.cls.")
    if all(label is None for label in labels):
        what = f"a field '{field}' in .json" if field else "a .cls, or a .json with a label"
        raise BadData(f"Tar file '{files[0]}' has images without labels: none has {what} beside it; give some.")
    notes = [f"{name}: {alone} left out: samples without an image ({alone})."] if alone else []
    if several:
        first, *others = sorted(several, key=_likely)
        notes.append(f"{name}: samples have several images, of which .{first} is taken and not .{', .'.join(others)}.")
    return Found(name, split, pack, labels, column=field, notes=tuple(notes))


class Shards(Pack):
    """Images in tar files, by where they begin there."""

    def __init__(self) -> None:
        self.places: list[tuple[Path, int, int, str]] = []  # file, first byte, bytes, name in it

    def __len__(self) -> int:
        """Number of images."""
        return len(self.places)

    def name(self, index: int) -> str:
        """The file and the name in it."""
        file, _, _, name = self.places[index]
        return f"{file.name}/{name}"

    def size(self, index: int) -> str:
        """In bytes."""
        return str(self.places[index][2])

    def read(self, index: int) -> bytes:
        """The file of one image."""
        file, start, size, _ = self.places[index]
        with file.open("rb") as raw:
            raw.seek(start)
            found = raw.read(size)
        if len(found) < size:
            raise DataError(f"{file.name} has become shorter")
        return found


def _samples(tar: tarfile.TarFile) -> Iterator[dict[str, tarfile.TarInfo]]:
    """The members that belong to one image, by what their names end with."""
    files = (one for one in _members(tar) if one.isreg() and one.name.rpartition("/")[2][:1] != ".")
    for _, together in groupby(files, lambda member: _parts(member.name)[0]):
        yield {_parts(member.name)[1].lower(): member for member in together}


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """One after the other; tarfile would keep them all."""
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]
        yield member


def _parts(name: str) -> tuple[str, str]:
    """What a member's name has before and after its first dot, which folders may have too."""
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return f"{folder}{slash}{stem}", kind


def _is_image(kind: str) -> bool:
    return f".{kind.rpartition('.')[2]}" in suffixes()


def _likely(kind: str) -> tuple[int, int, str]:
    """To put the image before what is made of it, as its depth.png or seg.png is."""
    return kind.count("."), columns.IMAGES.index(kind) if kind in columns.IMAGES else len(columns.IMAGES), kind


def _label(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], field: str | None, file: Path) -> Label:
    if field is None and "cls" in members:
        text = _text(tar, members["cls"]).strip()
        return int(text) if _WHOLE.fullmatch(text) else text or None
    if "json" not in members:
        return None
    where = f"Tar file '{file}' has '{members['json'].name}'"
    try:
        said: Any = json.loads(_text(tar, members["json"]))
    except (ValueError, RecursionError):
        raise BadData(f"{where}, which is no JSON; mend it.") from None
    if not isinstance(said, dict):
        raise BadData(f"{where}, which is no mapping; mend it.")
    found = said.get(field) if field else next((said[name] for name in labelfiles.LABELS if name in said), None)
    if found is not None and (isinstance(found, bool) or not isinstance(found, int | str)):
        raise BadData(
            f"{where}, whose label {str(found)[:40]} is neither a whole number nor a name; give another field."
        )
    return found


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    taken = tar.extractfile(member)
    assert taken is not None, "it is a regular file"
    return taken.read(LONGEST).decode("utf-8", "replace")
