"""Data sets as `datasets` opens them: of the hub, or in a folder; images stay on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenbench.core.extras import needed
from tokenbench.data import columns
from tokenbench.data.pack import Pack, content
from tokenbench.data.packed import Found
from tokenbench.errors import BadData, first_sentence

SAVED, SPLIT = "state.json", "dataset_dict.json"  # what `save_to_disk` leaves in a folder of one split, and of several
AT_ONCE = 1000  # rows whose sizes are looked at


def splits(source: str) -> list[str]:
    """What the splits of a data set are called; "all" for one that was saved without.

    Raises:
        UsageError: `datasets` is not installed.
        BadData: there is no such data set.
    """
    datasets = needed("datasets", "datasets", "--data-dir hfds/…")
    if (Path(source) / SAVED).is_file():
        return ["all"]
    try:
        if (Path(source) / SPLIT).is_file():
            return list(datasets.load_from_disk(source))
        return list(datasets.get_dataset_split_names(source))
    except Exception as error:  # of the hub, of the network, of whatever file there is
        raise _unusable(source, error) from None


def read(source: str, name: str, split: str, column: str | None) -> Found:
    """One split.

    Args:
        source: a folder that `save_to_disk` wrote or that `datasets` reads, or a name on the hub.
        name: what to call it.
        split: as `splits` has it.
        column: that labels are in, if not one that is called so.

    Raises:
        UsageError: `datasets` is not installed.
        BadData: it cannot be opened, or has no images or labels.
    """
    datasets = needed("datasets", "datasets", "--data-dir hfds/…")
    datasets.disable_progress_bars()
    try:
        if (Path(source) / SAVED).is_file():
            rows = datasets.load_from_disk(source)
        elif (Path(source) / SPLIT).is_file():
            rows = datasets.load_from_disk(source)[split]
        else:
            rows = datasets.load_dataset(source, split=split)
    except Exception as error:  # of the hub, of the network, of whatever file there is
        raise _unusable(source, error) from None
    kinds = {name: _kind(feature) for name, feature in rows.features.items()}
    image = columns.of_images(kinds, [name for name, one in rows.features.items() if _holds(one)], source)
    label = columns.of_labels(kinds, _label(kinds, column), source)
    if not len(rows):
        raise BadData(f"'{source}' has no rows in its split '{split}'; give one that has.")
    names = tuple(getattr(rows.features[label], "names", None) or ())
    found = columns.labels(rows.select_columns([label]).with_format("arrow")[:].column(0), label, source)
    encoded = rows.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    folder = Path(source) if Path(source).is_dir() else Path()
    return Found(name, split, Rows(encoded, image, folder), found, names, column)


class Rows(Pack):
    """Images of a data set."""

    def __init__(self, rows: Any, column: str, folder: Path) -> None:
        self.rows, self.column, self.folder = rows, column, folder
        self.told = [one for table in rows.with_format("arrow").iter(AT_ONCE) for one in _told(table.column(0))]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """The path that the data set has, or the row."""
        path = self.told[index][0]
        return (
            path.removeprefix(f"{self.folder}/").removeprefix(f"{self.folder.absolute()}/") if path else f"row {index}"
        )

    def size(self, index: int) -> str:
        """In bytes, or of the file that is only named."""
        path, size = self.told[index]
        if size is None and path and (self.folder / path).is_file():
            size = (self.folder / path).stat().st_size
        return str(size)

    def read(self, index: int) -> bytes:
        """The file of one image."""
        return content(self.rows[index][self.column], self.folder)


def _told(column: Any) -> Sequence[tuple[str | None, int | None]]:
    """The path of each image, and its size where its bytes are there."""
    import pyarrow.compute as compute

    paths = compute.struct_field(column, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
    return list(zip(paths, sizes, strict=True))


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None)) if type(feature).__name__ == "Value" else type(feature).__name__


def _holds(feature: Any) -> bool:
    """Whether a column can hold images: as such, as bytes, or as what `Image` is kept as."""
    return _kind(feature) in ("Image", "binary", "large_binary") or (isinstance(feature, dict) and "bytes" in feature)


def _label(kinds: Mapping[str, str], column: str | None) -> str | None:
    """The column asked for, or the only one that says which class it is."""
    sure = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    return sure[0] if column is None and len(sure) == 1 else column


def _unusable(source: str, error: Exception) -> BadData:
    return BadData(
        f"'{source}' cannot be opened as a data set ({first_sentence(error)}); give a name on the hub, or a folder "
        "that `datasets` reads."
    )
