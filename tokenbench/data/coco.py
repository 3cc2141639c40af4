"""Images with objects in COCO's layout: a JSON file of images, categories and annotations, and a folder of pictures."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenbench.core import atomic
from tokenbench.data import cocochecks, opening
from tokenbench.errors import BadData, UsageError, first_line

FOLDERS = ("{split}", "{split}2017", "images/{split}", "images/{split}2017", "images", "")
FILES = (
    *("annotations/instances_{split}.json", "annotations/instances_{split}2017.json", "annotations/{split}.json"),
    *("{split}/_annotations.coco.json", "{split}.json"),
)


@dataclass(frozen=True)
class Thing:
    """An object in an image: its box as x, y, width, height in pixels, its class from 0 on, and what outlines it."""

    box: tuple[float, float, float, float]
    label: int
    outline: Any = None  # polygons, or a run-length encoding as COCO has them
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with their objects, opened one at a time."""

    name: str
    split: str
    root: Path
    files: tuple[str, ...]  # below the root
    ids: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]  # height and width
    things: tuple[tuple[Thing, ...], ...]  # of each image
    classes: tuple[str, ...]
    categories: tuple[int, ...]  # the number that each class has in the file
    labelled: bool = True  # False: a test set, of which nothing says what is in it
    notes: tuple[str, ...] = ()  # sentences for the user
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def open(self, index: int, mode: str = "RGB") -> Image.Image:
        """One image; raises whatever Pillow raises for one it cannot read."""
        return opening.read(self.root / self.files[index], mode)

    def label(self, index: int) -> str:
        """What to call one image."""
        return self.files[index]

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over names, sizes and objects with their outlines."""
        sha = hashlib.sha256()
        for i in indices:
            sha.update(repr((self.files[i], self.sizes[i], self.things[i])).encode())
        return sha.hexdigest()[:16]

    @property
    def names(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.classes

    @cached_property
    def with_masks(self) -> bool:
        """Whether every object has an outline."""
        return all(thing.outline is not None for things in self.things for thing in things)


def masks_api() -> Any:
    """COCO's encodings of masks, by faster-coco-eval; raises `UsageError` where that is not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise UsageError(
            "Detection needs faster-coco-eval, which is not installed; pip install tokenbench[dense]."
        ) from None
    return mask


def encoded(outline: Any, size: tuple[int, int]) -> Any:
    """An outline as one compressed run-length encoding."""
    api = masks_api()
    if isinstance(outline, Mapping):
        return dict(outline) if not isinstance(outline["counts"], list) else api.frPyObjects(dict(outline), *size)
    return api.merge(api.frPyObjects([list(map(float, polygon)) for polygon in outline if len(polygon) >= 6], *size))


def decoded(outline: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An outline as a mask (H, W) of 0 and 1."""
    mask: NDArray[np.uint8] = masks_api().decode(encoded(outline, size))
    return mask


def open_coco(
    folder: Path | None, split: str, images: Path | None = None, annotations: Path | None = None, strict: bool = False
) -> Scenes:
    """The images of a split, in a folder as COCO lays it out, or of a file of annotations and a folder of images.

    Of a file that is given, its own name is the split's: it may be any.

    Raises:
        BadData: there is none; the file is not COCO's; or, where `strict`, anything in it is odd.
    """
    named = split if annotations is None else annotations.stem
    annotations = annotations or _annotations(folder, split)
    images = images or _images(folder, annotations, split)
    content = _content(annotations)
    root = _root(images, content)
    found = cocochecks.sift(content, root, annotations)
    if strict and found.faults:
        raise BadData(f"{annotations}: {found.faults[0]}.")
    notes = [f"{annotations.name}: {fault}; {what}. --strict makes this an error." for fault, what in found.told]
    categories = found.categories
    places = {number: index for index, number in enumerate(categories)}
    things: dict[int, list[Thing]] = {image["id"]: [] for image in found.images}
    for one in found.annotations:
        thing = Thing(
            tuple(map(float, one["bbox"])),  # type: ignore[arg-type]
            places[one["category_id"]],
            one.get("segmentation") or None,
            bool(one.get("iscrowd", 0)),
            None if one.get("area") is None else float(one["area"]),
        )
        things[one["image_id"]].append(thing)
    return Scenes(
        name=(folder or annotations.parent).resolve().name,
        split=named,
        root=root,
        files=tuple(image["file_name"] for image in found.images),
        ids=tuple(image["id"] for image in found.images),
        sizes=tuple((image["height"], image["width"]) for image in found.images),
        things=tuple(tuple(things[image["id"]]) for image in found.images),
        classes=tuple(categories.values()),
        categories=tuple(categories),
        labelled="annotations" in content,
        notes=tuple(notes),
    )


def has_coco(folder: Path, split: str) -> bool:
    """Whether a folder is laid out as COCO's, with this split or others."""
    files = (folder / name.format(split=split) for name in FILES)
    return any((folder / "annotations").glob("*.json")) or any(file.is_file() for file in files)


def open_scored(
    folder: Path | None, split: str, images: Path | None = None, annotations: Path | None = None, strict: bool = False
) -> Scenes:
    """As `open_coco`, of which something can be scored; raises `BadData` where nothing says what is in the images."""
    found = open_coco(folder, split, images, annotations, strict)
    if not found.labelled:
        raise BadData(f"{found.name} has no annotations of split '{found.split}', so nothing can be scored on it.")
    if not found.classes:
        raise BadData(f"{found.name} has no categories in split '{found.split}'; give annotations that have.")
    return found


def of_folder_only(**given: str | None) -> None:
    """Raise `UsageError` where training is given one file of annotations, or one folder of images."""
    name = next((name for name, value in given.items() if value is not None), None)
    if name is not None:
        raise UsageError(
            f"{name}={given[name]} is of one split, and training needs train and another; lay both out in --data-dir, "
            "as COCO does."
        )


def _annotations(folder: Path | None, split: str) -> Path:
    if folder is None:
        raise BadData("No data was given; give --data-dir, or --images and --annotations.")
    if not folder.is_dir():
        raise BadData(f"Data folder '{folder}' does not exist; give one as COCO lays it out.")
    tried = [folder / name.format(split=split) for name in FILES]
    for path in tried:
        if path.is_file():
            return path
    raise BadData(
        f"{folder} has no annotations of split '{split}' (looked for {tried[0].relative_to(folder)} and others); "
        "give a folder as COCO lays it out, or --images and --annotations."
    )


def _images(folder: Path | None, annotations: Path, split: str) -> Path:
    base = folder or annotations.parent
    for name in FOLDERS[:4]:
        if (base / name.format(split=split)).is_dir():
            return base / name.format(split=split)
    return base


def _root(images: Path, content: Mapping[str, Any]) -> Path:
    """The folder that names in the file start from: some start with that of the split."""
    if not images.is_dir():
        raise BadData(f"Image folder '{images}' does not exist; give --images FOLDER.")
    first = next((str(image.get("file_name")) for image in content["images"] if isinstance(image, Mapping)), "")
    there, above = (os.path.exists(folder / first) for folder in (images, images.parent))
    return images.parent if above and not there else images


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(atomic.regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(
            f"Annotations '{path}' cannot be read ({first_line(error)}); give a JSON file as COCO's."
        ) from None
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise BadData(f"Annotations '{path}' are not COCO's: they have no list of images; give a file that has.")
    for key in ("annotations", "categories"):
        if not isinstance(content.get(key, []), list):
            raise BadData(f"Annotations '{path}' are not COCO's: {key} is no list; give a file that has one.")
    return content
