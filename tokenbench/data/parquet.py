"""Parquet: tables with a column of images and one of labels, as the hub has data sets.

Of labels and names all are read, of images a few rows at a time, however large a row group is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tokenbench.core.extras import needed
from tokenbench.data import columns
from tokenbench.data.pack import Pack, content
from tokenbench.data.packed import Found, Label
from tokenbench.errors import BadData, first_sentence

SUFFIXES = (".parquet", ".pq")
ROWS = 16  # that are read at once
BUFFER = 2**20  # bytes of a file that are read at once
SHUFFLED = 64 * 2**20  # bytes of a row group at the most, where images are asked for in any order


def read(files: Sequence[Path], name: str, split: str, column: str | None, shuffled: bool = False) -> Found:
    """The images in some files of one table.

    Args:
        files: in their order; all have the same columns.
        name: of the data set.
        split: of these files.
        column: that labels are in, if not one that is called so.
        shuffled: images will be asked for in any order, and not only from the first to the last.

    Raises:
        UsageError: pyarrow is not installed.
        BadData: a file that is none, columns that are missing or of other types, no rows, or row groups too large.
    """
    parquet = needed("pyarrow.parquet", "parquet", "Parquet")
    pack, labels, names = Parquet(), list[Label](), tuple[str, ...]()
    starts = [0]
    for place, file in enumerate(files):
        try:
            with parquet.ParquetFile(file) as opened:
                schema, said = opened.schema_arrow, opened.metadata
                kinds = {field.name: str(field.type) for field in schema}
                image = columns.of_images(kinds, [field.name for field in schema if _holds(field.type)], file.name)
                label = columns.of_labels(kinds, column, file.name)
                found = columns.labels(opened.read([label]).column(0), label, file.name)
                pack.paths += _paths(opened, schema.field(image), image)
        except (OSError, ValueError, KeyError, NotImplementedError) as error:  # what errors of Arrow are kinds of
            raise BadData(f"Parquet file '{file}' cannot be read ({first_sentence(error)}); give another.") from None
        called = _names(schema.metadata, label)
        if names and called and called != names:
            raise BadData(
                f"'{files[0]}' and '{file}' call their classes otherwise, or in another order; write both alike."
            )
        names = names or called
        _check_types(labels, found, files[0], file, label)
        labels += found
        pack.files.append((file, image, file.stat().st_size))
        for group in range(said.num_row_groups):
            pack.groups.append((place, group))
            starts.append(starts[-1] + said.row_group(group).num_rows)
            if shuffled and said.row_group(group).total_byte_size > SHUFFLED:
                raise BadData(
                    f"Parquet file '{file}' has row groups of {said.row_group(group).total_byte_size >> 20} MiB, which "
                    f"would be read for each image to train on; write it with groups of {SHUFFLED >> 20} MiB at most "
                    "(100 rows, say), or give the same files as hfds/FOLDER, which unpacks them once."
                )
    if not labels:
        raise BadData(f"Parquet file '{files[0]}'{' and others have' if len(files) > 1 else ' has'} no rows; give one.")
    pack.starts = np.asarray(starts)
    return Found(name, split, pack, labels, names, column)


class Parquet(Pack):
    """Images of a table: row groups of files one after the other. Rows that follow each other are read once."""

    def __init__(self) -> None:
        self.files: list[tuple[Path, str, int]] = []  # with the column of images, and the size in bytes
        self.groups: list[tuple[int, int]] = []  # place of the file, and the group in it
        self.starts = np.zeros(1, np.int64)  # the first row of each group, and the number of all rows
        self.paths: list[str | None] = []  # as the table has them
        self._open: tuple[int, int, _Group] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open."""
        return {**self.__dict__, "_open": None}

    def __len__(self) -> int:
        """Number of images."""
        return int(self.starts[-1])

    def name(self, index: int) -> str:
        """The path that the table has, or file and row."""
        return self.paths[index] or f"{self._file(index)[0].name} row {index - self._first(index)}"

    def size(self, index: int) -> str:
        """Of the file that it is in, and its place there: the image's own would have to be read."""
        return f"{self._file(index)[2]} {index}"

    def read(self, index: int) -> bytes:
        """The file of one image: a few rows are read where the last one read came before it, else its row group."""
        group = int(np.searchsorted(self.starts, index, "right")) - 1
        row, file, own = index - int(self.starts[group]), self._file(index), os.getpid()
        at, self._open = self._open, None  # what breaks is not gone on with
        if at is None or at[:2] != (own, group) or at[2].first > row:
            at = own, group, _Group(file[0], file[1], self.groups[group][1])  # a handle that was forked is shared
        cell = at[2].row(row)
        self._open = at
        return content(cell, file[0].parent)

    def _file(self, index: int) -> tuple[Path, str, int]:
        return self.files[self.groups[int(np.searchsorted(self.starts, index, "right")) - 1][0]]

    def _first(self, index: int) -> int:
        """The row at which the file of an image begins."""
        group = int(np.searchsorted(self.starts, index, "right")) - 1
        return int(self.starts[group - self.groups[group][1]])


class _Group:
    """A row group, from its first row on."""

    def __init__(self, file: Path, column: str, group: int) -> None:
        import pyarrow.parquet as parquet

        opened = parquet.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False)
        self.batches = opened.iter_batches(ROWS, row_groups=[group], columns=[column], use_threads=False)
        self.first = 0
        self.rows: Any = []

    def row(self, which: int) -> object:
        """One cell, not before the last one."""
        while which >= self.first + len(self.rows):
            self.first += len(self.rows)
            self.rows = next(self.batches).column(0)
        return self.rows[which - self.first].as_py()


def _holds(kind: Any) -> bool:
    """Whether a column of a type can hold images: bytes, or a structure that has them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds(kind.field(i).type) for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _paths(opened: Any, field: Any, image: str) -> list[str | None]:
    """What images are called, where the table says it."""
    import pyarrow as pa

    inside = [field.type.field(i).name for i in range(field.type.num_fields)] if pa.types.is_struct(field.type) else []
    if "path" not in inside:
        return [None] * int(opened.metadata.num_rows)
    found = opened.read([f"{image}.path"]).column(0)
    return [cell and cell["path"] for cell in found.to_pylist()]


def _names(metadata: Any, label: str) -> tuple[str, ...]:
    """What `datasets` wrote that classes are called."""
    try:
        said = json.loads((metadata or {})[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    good = isinstance(said, list) and all(isinstance(name, str) for name in said) and len(set(said)) == len(said)
    return tuple(said) if good else ()


def _check_types(before: Sequence[Label], found: Sequence[Label], first: Path, file: Path, label: str) -> None:
    kinds = [{type(one) for one in some if one is not None} for some in (before, found)]
    if kinds[0] and kinds[1] and kinds[0] != kinds[1]:
        raise BadData(
            f"Column '{label}' has numbers in one of '{first}' and '{file}' and names in the other; write all alike."
        )
