"""Labelled images, opened one at a time, and the shipped sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tokenbench.errors import DataError

SAMPLE = Path(__file__).parents[1] / "sample" / "fashion_mnist_test2000.npz"
SAMPLE_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, opened one at a time.

    `items` are files, or arrays (H, W) or (H, W, 3) of uint8; `targets` index `classes`, one for each item.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    items: Sequence[Path] | np.ndarray
    targets: Sequence[int]
    root: Path = field(default=Path())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def open(self, index: int, mode: str) -> Image.Image:
        """One image, decoded, in PIL mode "RGB" or "L"; raises whatever PIL raises for one it cannot read."""
        item = self.items[index]
        if isinstance(item, Path):
            with Image.open(item) as image:
                return image.convert(mode)
        return Image.fromarray(item).convert(mode)

    def label(self, index: int) -> str:
        """What to call one image: its path below the root, or its position."""
        item = self.items[index]
        return item.relative_to(self.root).as_posix() if isinstance(item, Path) else f"image {index}"

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over the names and sizes in bytes of these files, or over pixels and labels."""
        sha = hashlib.sha256()
        for index in indices:
            item = self.items[index]
            if isinstance(item, Path):
                sha.update(f"{self.label(index)}\0{_size(item)}\n".encode("utf-8", "surrogateescape"))
            else:
                sha.update(item.tobytes() + bytes([int(self.targets[index])]))
        return sha.hexdigest()[:16]


def sample() -> Images:
    """The shipped sample: 2,000 Fashion-MNIST test images of 28x28, 200 of each of 10 classes, grouped by class."""
    try:
        with np.load(SAMPLE, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The shipped sample {SAMPLE.name} cannot be read ({error}); reinstall tokenbench.") from None
    return Images("fashion_mnist_test2000", "test", SAMPLE_CLASSES, images, tuple(labels.tolist()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # it will be counted as unreadable when its turn comes
