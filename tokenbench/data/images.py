"""Labelled images, opened one at a time, and the shipped sample."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tokenbench.data import opening, splits
from tokenbench.data.ordering import natural, wnids
from tokenbench.data.pack import Pack
from tokenbench.errors import DataError

SAMPLE = Path(__file__).parents[1] / "sample" / "fashion_mnist_test2000.npz"
IMAGENET, EACH = 1000, 50  # classes of ImageNet-1k, and images of each in its validation set
OF_VALIDATION, OF_TRAINING = re.compile(r"ILSVRC2012_val_\d{8}"), re.compile(r"n\d{8}_\d+")  # names of its files
PEEKED = 16  # files whose size in pixels is looked at
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

    `items` are files, a pack of them, or arrays (H, W) or (H, W, 3) of uint8; `targets` index `classes`, one for each.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    items: Sequence[Path] | Pack | np.ndarray
    targets: Sequence[int]
    root: Path = field(default=Path())
    ids: tuple[str, ...] = ()  # what folders or labels call each class, where that is not what `classes` does
    here: tuple[int, ...] | None = None  # classes that have a folder or label; all if None
    order: str | None = (
        None  # how classes were put in order, a value of `ordering.ORDERS`, "file", "index", "names" or "data"
    )
    labels: str | None = None  # the file or column that labels are from, where the user said it
    logits: tuple[int, ...] | None = None  # of a model, those that are scored, one a class; all if None
    relabelled: bool = False  # whether targets are others than those that `open_folder` gives by itself
    notes: tuple[str, ...] = ()  # sentences for the user
    doubt: str | None = None  # a sentence for the user, unless the weights know their classes by name

    @property
    def names(self) -> tuple[str, ...]:
        """What folders or labels call each class."""
        return self.ids or self.classes

    @property
    def present(self) -> tuple[int, ...]:
        """The classes that have a folder or label."""
        return tuple(range(len(self.classes))) if self.here is None else self.here

    @property
    def conditions(self) -> Mapping[str, Any]:
        """What else was decided about labels, as JSON values for a row; empty where there was nothing to decide."""
        scored = None if self.logits is None else f"{len(self.logits)} of the model's"
        one_way = self.order in ("imagenet", "data") or (
            self.order in ("natural", "lexical") and natural(self.names) == tuple(sorted(self.names))
        )
        told = {"class_order": None if one_way else self.order, "labels": self.labels, "scored_classes": scored}
        return {key: value for key, value in told.items() if value is not None}

    @cached_property
    def imagenet_val(self) -> bool:
        """Whether these are ImageNet-1k's validation images, by what they are and not by what their folder is called.

        There are 50 of each of 1000 classes, which are its wnids, unless the files have its names. Images to train on
        have other names, and sets made of these, such as ImageNet-C, are all of one size.
        """
        if isinstance(self.items, np.ndarray) or len(self.items) != IMAGENET * EACH:
            return False
        counts = Counter(map(int, self.targets))
        if len(counts) != IMAGENET or set(counts.values()) != {EACH} or splits.kind(self.split) == "train":
            return False
        files = [self.label(i).rpartition("/")[2] for i in range(len(self))]
        if any(map(OF_TRAINING.match, files)):
            return False
        if set(self.names) != wnids(IMAGENET).keys() and not all(map(OF_VALIDATION.match, files)):
            return False
        sizes = set()
        for index in range(0, len(self), len(self) // PEEKED):
            with suppress(Exception):
                sizes.add(self.open(index, "RGB").size)
        return len(sizes) > 1

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def open(self, index: int, mode: str) -> Image.Image:
        """One image in PIL mode "RGB" or "L", as `opening.plain` makes it; raises whatever PIL raises."""
        if isinstance(self.items, Pack):
            return opening.decoded(BytesIO(self.items.read(index)), mode)
        item = self.items[index]
        return opening.read(item, mode) if isinstance(item, Path) else opening.plain(Image.fromarray(item), mode)

    def label(self, index: int) -> str:
        """What to call one image: its path below the root, as its pack does, or its position."""
        if isinstance(self.items, Pack):
            return self.items.name(index)
        item = self.items[index]
        return opening.below(self.root, item) if isinstance(item, Path) else f"image {index}"

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over the names and sizes in bytes of these files, or over pixels and labels.

        Labels are in it too where the names of the folders do not decide them.
        """
        sha = hashlib.sha256()
        for index in indices:
            if isinstance(self.items, Pack):
                told = (self.label(index), self.items.size(index), self.names[int(self.targets[index])])
                sha.update(("\0".join(told) + "\n").encode("utf-8", "surrogateescape"))
                continue
            item = self.items[index]
            if isinstance(item, Path):
                sha.update(f"{self.label(index)}\0{_size(item)}\n".encode("utf-8", "surrogateescape"))
            else:
                sha.update(item.tobytes() + bytes([int(self.targets[index])]))
        if self.relabelled:
            sha.update(repr(([int(self.targets[index]) for index in indices], self.logits)).encode())
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
