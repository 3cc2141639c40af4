"""Which column of a table has images, which labels, and what labels they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenbench.data import labelfiles
from tokenbench.errors import BadData

IMAGES = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "pixels")


def of_images(columns: Mapping[str, str], holds: Sequence[str], where: str) -> str:
    """The column that images are in.

    Args:
        columns: names of all columns, with what each holds, for a sentence.
        holds: those that can hold images.
        where: what the table is called.

    Raises:
        BadData: there is none, or several and none is called so.
    """
    named = [name for name in IMAGES for column in holds if column.lower() == name]
    if len(holds) != 1 and not named:
        what = (
            f"{_listed(holds)}, and which of them has images is not clear: call it image" if holds else _told(columns)
        )
        raise BadData(
            f"'{where}' has {what}; give a table that has images as bytes, or as `datasets` has them (bytes and path)."
        )
    lower = {column.lower(): column for column in holds}
    return lower[named[0]] if named else holds[0]


def of_labels(columns: Mapping[str, str], asked: str | None, where: str) -> str:
    """The column that labels are in: the one asked for, or one that is called so.

    Raises:
        BadData: there is none.
    """
    if asked is not None:
        if asked not in columns:
            raise BadData(f"'{where}' has no column '{asked}' of labels; it has {_told(columns)}.")
        return asked
    lower = {column.lower(): column for column in columns}
    found = next((lower[name] for name in labelfiles.LABELS if name in lower), None)
    if found is None:
        raise BadData(
            f"'{where}' has no column that is called label; it has {_told(columns)}: say which has the labels "
            "(--labels NAME)."
        )
    return found


def labels(column: Any, name: str, where: str) -> list[int | str | None]:
    """The labels in a column of Arrow's: whole numbers or names; None where there is none.

    Raises:
        BadData: they are of another type.
    """
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    whole = pa.types.is_integer(kind)
    if not whole and not pa.types.is_string(kind) and not pa.types.is_large_string(kind):
        raise BadData(
            f"'{where}' has labels of type {kind} in column '{name}', which must be whole numbers or names; give "
            "another column (--labels NAME), or write them so."
        )
    found: list[int | str | None] = column.to_pylist()
    return found if whole else [None if label is None or not label.strip() else label for label in found]  # type: ignore[union-attr]


def _told(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in list(columns.items())[:8]) or "no columns"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
