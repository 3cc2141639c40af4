"""Files that say the label of each image, where folders do not: text, CSV, TSV or JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from tokenbench.data.opening import is_picture
from tokenbench.errors import BadData

# What columns are called, in small letters.
NAMES = (
    *("image", "filename", "file", "file_name", "path", "filepath", "file_path", "image_path", "imageid", "image_id"),
    *("image_name", "img", "id", "name"),
)
LABELS = (
    *("label", "class", "target", "category", "labels", "class_name", "classname", "label_name", "wnid", "synset"),
    *("truelabel", "class_id", "label_id", "category_id", "class_idx", "target_label", "predictionstring", "breed"),
)
BOXES = "predictionstring"  # ImageNet's own: a wnid and its box, again and again; all of an image are of one class
LIMIT = 512 * 2**20  # bytes of JSON, which is read at once

Pairs = Iterator[tuple[str, str]]


def read(path: Path) -> Pairs:
    """Names of images and their labels, line by line.

    Text has a name and, after blanks, a label in each line. CSV and TSV (told by their suffix, or a comma or tab in the
    first line) have two columns, or a header with the names of an image column and a label column. JSON has a mapping
    from names to labels.

    Raises:
        BadData: no such file, or none of these.
    """
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise BadData(f"Labels file '{path}' {what}; give text or CSV with the name and label of each image.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".json":
                yield from _of_json(file, path)
            else:
                first = next((line for line in file if line.strip()), "")
                lines, kind = chain([first], file), path.suffix.lower()
                comma = "\t" if kind == ".tsv" or "\t" in first else "," if kind == ".csv" or "," in first else None
                yield from _of_columns(csv.reader(lines, delimiter=comma)) if comma else _of_lines(lines)
    except OSError as error:
        raise BadData(f"Labels file '{path}' cannot be read ({error.strerror}); give another.") from None
    except (ValueError, csv.Error, RecursionError) as error:
        raise BadData(
            f"Labels file '{path}' cannot be used ({str(error).splitlines()[0]}); give text, CSV or JSON with the name "
            "and label of each image."
        ) from None


def lookup(names: Iterable[str]) -> Mapping[str, int | None]:
    """The position of each image by its path, its name, and its name without suffix; None where two have the same."""
    found: dict[str, int | None] = {}
    listed = list(names)
    for position, path in enumerate(listed):
        found[path] = position
    for position, path in enumerate(listed):
        name = path.rpartition("/")[2]
        for short in {path.rpartition(".")[0], name, name.rpartition(".")[0]} - {path, ""}:
            found[short] = None if found.get(short, position) != position else position
    return found


def _of_lines(lines: Iterable[str]) -> Pairs:
    for line in lines:
        parts = line.rsplit(None, 1)
        if len(parts) == 1:
            raise ValueError(f"its line '{_short(line)}' has no label after a name")
        if parts:
            yield parts[0].strip(), parts[1]


def _of_columns(rows: Iterator[list[str]]) -> Pairs:
    head = next(rows, [])
    called = [name.strip().lower() for name in head]
    image = next((called.index(name) for name in NAMES if name in called), None)
    label = next((called.index(name) for name in LABELS if name in called), None)
    if image is None or label is None:
        if len(head) != 2:
            raise ValueError(
                f"which of its columns '{_short(', '.join(head))}' are names and labels is not clear: call them "
                "image and label"
            )
        image, label, others = 0, 1, [*rows]
        first = is_picture(head[0].rpartition("/")[2]) or head[1].strip().isdigit()
        first = first or any(row[1].strip() == head[1].strip() for row in others if len(row) > 1)
        rows = chain([head], others) if first else iter(others)  # else it is a header
    boxes = called[label] == BOXES
    for row in rows:
        if not any(row):
            continue
        if len(row) <= max(image, label) or not row[label].strip():
            raise ValueError(f"its line '{_short(','.join(row))}' has no label")
        yield row[image].strip(), row[label].split()[0] if boxes else row[label].strip()


def _of_json(file: TextIO, path: Path) -> Pairs:
    if path.stat().st_size > LIMIT:
        raise ValueError(f"it has more than {LIMIT >> 20} MiB; make it CSV")
    content = json.load(file)
    if not isinstance(content, dict) or not all(
        isinstance(value, str | int) and not isinstance(value, bool) for value in content.values()
    ):
        raise ValueError("it is no mapping from names to labels")
    yield from ((name, str(label)) for name, label in content.items())


def _short(text: str) -> str:
    return "".join(islice(" ".join(text.split()), 60))
