"""Encoded images by their places in files that hold many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbench.errors import DataError


class Pack:
    """Images as files of pictures would hold them, read one at a time; none of them is kept."""

    def __len__(self) -> int:
        """Number of images."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """What to call one image."""
        raise NotImplementedError

    def size(self, index: int) -> str:
        """What tells an image from another of its name that stands in its place: bytes, where they are known."""
        raise NotImplementedError

    def read(self, index: int) -> bytes:
        """The file of one image.

        Raises:
            DataError: there is none.
        """
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class Part(Pack):
    """Some images of a pack."""

    pack: Pack
    rows: Sequence[int]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """As in the whole."""
        return self.pack.name(self.rows[index])

    def size(self, index: int) -> str:
        """As in the whole."""
        return self.pack.size(self.rows[index])

    def read(self, index: int) -> bytes:
        """As in the whole."""
        return self.pack.read(self.rows[index])


def content(cell: object, folder: Path) -> bytes:
    """The file in a cell of a table: bytes, or as `datasets` has it, bytes or the path of a file.

    Raises:
        DataError: the cell is empty.
        OSError: the file that it names cannot be read.
    """
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(data, bytes) and data:
        return data
    if path:
        return (folder / str(path)).read_bytes()
    raise DataError("there is no image in its place")
