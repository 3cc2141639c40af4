"""Fashion-MNIST as its authors publish it: idx files, which may be gzipped."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from tokenbench.data.images import SAMPLE_CLASSES, Images
from tokenbench.errors import DataError


def fashion(folder: Path, split: str) -> Images | None:
    """A split of Fashion-MNIST in its published form, idx files that may be gzipped; None if they are not there."""
    part = {"train": "train", "test": "t10k"}.get(split)
    stems = [f"{part}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    files = [next((folder / n for n in (f"{s}.gz", s) if (folder / n).is_file()), None) for s in stems]
    if files[0] is None or files[1] is None:
        return None
    pixels, labels = _idx(files[0], 16), _idx(files[1], 8)
    if not len(labels) or len(pixels) != len(labels) * 28 * 28:
        raise DataError(f"{files[0]} and {files[1].name} do not fit each other; fetch Fashion-MNIST again.")
    return Images("fashion_mnist", split, SAMPLE_CLASSES, pixels.reshape(-1, 28, 28), tuple(labels.tolist()), folder)


def _idx(path: Path, head: int) -> np.ndarray:
    try:
        raw = path.read_bytes()
        return np.frombuffer(gzip.decompress(raw) if path.suffix == ".gz" else raw, np.uint8, offset=head)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch Fashion-MNIST again.") from None
