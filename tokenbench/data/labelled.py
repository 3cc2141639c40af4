"""Images with a class a pixel: masks as PNG of class indices with a list of names, or made from COCO's objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenbench.data import opening
from tokenbench.data.coco import Scenes, decoded
from tokenbench.errors import BadData, DataError

IGNORED = 255
NAMES = ("classes.txt", "labels.txt", "class_names.txt")
LAYOUTS = (
    ("images/{split}", "masks/{split}"),
    ("{split}/images", "{split}/masks"),
    ("images/{split}", "annotations/{split}"),
)
LONG = {"train": "training", "val": "validation"}  # as ADE20K calls splits


@dataclass(frozen=True, eq=False)
class Pictures:
    """Images with masks, opened one at a time."""

    name: str
    split: str
    root: Path
    files: tuple[str, ...]  # of the images, below the root
    masks: tuple[Path, ...] | Scenes  # files of the same images, or the objects to make masks of
    classes: tuple[str, ...]
    shift: bool = False  # labels are one less than masks say, and 0 is ignored
    notes: tuple[str, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.classes

    def open(self, index: int, mode: str = "RGB") -> Image.Image:
        """One image; raises whatever Pillow raises for one it cannot read."""
        return opening.read(self.root / self.files[index], mode)

    def label(self, index: int) -> str:
        """What to call one image."""
        return self.files[index]

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over names and the bytes of masks."""
        sha = hashlib.sha256(repr(self.shift).encode())
        for i in indices:
            sha.update(self.files[i].encode("utf-8", "surrogateescape"))
            sha.update(repr(self.masks.things[i]).encode() if isinstance(self.masks, Scenes) else _bytes(self.masks[i]))
        return sha.hexdigest()[:16]

    def mask(self, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Labels (H, W) of an image of that height and width.

        Raises:
            DataError: the mask is missing, of another size, or has values that are no class.
        """
        if isinstance(self.masks, Scenes):
            return _made(self.masks, index, size)
        path = self.masks[index]
        try:
            with Image.open(path) as opened:
                found = np.array(opened)
        except Exception as error:  # a damaged file makes PIL raise nearly anything
            raise DataError(f"mask {path.name}: {opening.reason(error)}") from None
        if found.ndim != 2 or found.dtype.kind not in "bui":
            raise DataError(f"mask {path.name} is no picture of class indices, one number a pixel")
        if found.shape != size:
            raise DataError(f"mask {path.name} is {found.shape[1]}x{found.shape[0]} and its image {size[1]}x{size[0]}")
        labels: NDArray[np.uint8] = found.astype(np.int64)
        if self.shift:
            labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
        odd = labels[(labels != IGNORED) & ((labels < 0) | (labels >= len(self.classes)))]
        if odd.size:
            raise DataError(
                f"mask {path.name} has class {int(odd[0]) + self.shift}, and there are {len(self.classes)} classes"
            )
        return labels.astype(np.uint8)


def open_masks(folder: Path, split: str, shift: bool = False, strict: bool = False) -> Pictures:
    """The images of a split and their masks, in a folder that has them by split, with a list of class names.

    Raises:
        BadData: no such folder, no images, an image without a mask, or no list of names; where `strict`, a mask that
            does not fit its image, or has values that are no class.
    """
    if not folder.is_dir():
        raise BadData(f"Data folder '{folder}' does not exist; give one with images, masks and classes.txt.")
    names = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if names is None:
        raise BadData(
            f"{folder} has no {NAMES[0]} with the name of each class on a line, in the order of their indices."
        )
    try:
        lines = names.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise BadData(f"{names} cannot be read ({why}); give the name of each class on a line.") from None
    classes = tuple(map(str.strip, lines))
    if not classes or len(classes) > IGNORED:
        raise BadData(f"{names} has {len(classes)} classes; give 1 to {IGNORED}, a name on each line.")
    if "" in classes:
        raise BadData(
            f"{names} has nothing on line {classes.index('') + 1}, so which indices the names below have is not clear; "
            "give each line a name."
        )
    pairs = [
        (folder / a.format(split=s), folder / b.format(split=s))
        for a, b in LAYOUTS
        for s in (split, LONG.get(split, split))
    ]
    found = next(((a, b) for a, b in pairs if a.is_dir() and b.is_dir()), None)
    if found is None:
        raise BadData(f"{folder} has no images/{split} with masks/{split} beside it; lay it out so.")
    images, masks = found
    files = sorted(path for path in images.rglob("*") if path.is_file() and opening.is_picture(path.name))
    if not files:
        raise BadData(f"{images} has no pictures; give a folder that has.")
    beside = [masks / path.relative_to(images).with_suffix(".png") for path in files]
    lost = [path for path, mask in zip(files, beside, strict=True) if not mask.is_file()]
    if lost:
        raise BadData(f"{len(lost)} of {len(files)} images have no mask in {masks} (first: {lost[0].name}); add them.")
    root = folder.resolve()
    made = Pictures(
        root.name, split, images, tuple(str(path.relative_to(images)) for path in files), tuple(beside), classes, shift
    )
    for index in range(len(made)) if strict else ():
        try:
            with Image.open(files[index]) as image:
                made.mask(index, (image.height, image.width))
        except Exception as error:  # a damaged file makes PIL raise nearly anything
            raise BadData(f"{files[index]}: {opening.reason(error)}.") from None
    return made


def from_objects(scenes: Scenes) -> Pictures:
    """Masks made of objects, the smaller before the larger: class 0 is what no object is on."""
    if not scenes.with_masks:
        raise BadData(f"{scenes.name} has objects without outlines, of which no masks can be made.")
    if len(scenes.classes) >= IGNORED:
        raise BadData(
            f"{scenes.name} has {len(scenes.classes)} categories, and masks have room for {IGNORED - 1}; give "
            "annotations of fewer."
        )
    classes = ("background", *scenes.classes)
    return Pictures(scenes.name, scenes.split, scenes.root, scenes.files, scenes, classes, notes=scenes.notes)


def _made(scenes: Scenes, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    labels = np.zeros(size, np.uint8)
    each = [(decoded(thing.outline, size), thing) for thing in scenes.things[index]]
    for mask, thing in sorted(each, key=lambda pair: -int(pair[0].sum())):
        labels[mask > 0] = IGNORED if thing.crowd else thing.label + 1
    return labels


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it will be told when its turn comes
