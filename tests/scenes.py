"""Small data for dense tasks: bright disks on noise, as COCO has objects and as masks of class indices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def disks(count: int, seed: int, sides: tuple[int, int] = (96, 112)) -> list[tuple[np.ndarray, list[np.ndarray]]]:
    """Images (H, W, 3) with the masks of three to six disks each; every third image has none."""
    draw, found = np.random.default_rng(seed), []
    rows, cols = np.mgrid[: sides[0], : sides[1]]
    for i in range(count):
        image, masks = draw.integers(0, 60, (*sides, 3)), []
        for _ in range(0 if i % 3 == 2 else draw.integers(3, 7)):
            y, x, radius = draw.integers(10, sides[0] - 10), draw.integers(10, sides[1] - 10), draw.integers(5, 9)
            mask = (rows - y) ** 2 + (cols - x) ** 2 <= radius**2
            image[mask] = draw.integers(180, 255, 3)
            masks.append(mask)
        found.append((image.astype(np.uint8), masks))
    return found


def content(images: list[tuple[np.ndarray, list[np.ndarray]]], first: int = 1) -> dict[str, Any]:
    """COCO's annotations of them, with run lengths for masks; the one category has number 7."""
    listed, annotations = [], []
    for i, (image, masks) in enumerate(images):
        listed.append({"id": first + i, "file_name": f"{i}.png", "height": image.shape[0], "width": image.shape[1]})
        for mask in masks:
            rows, cols = np.nonzero(mask)
            box = [cols.min(), rows.min(), cols.max() + 1 - cols.min(), rows.max() + 1 - rows.min()]
            flat = np.concatenate([[0], mask.T.ravel().astype(np.int8), [1 - mask.T.ravel()[-1]]])
            ends = np.flatnonzero(np.diff(flat)).tolist()
            counts = np.diff([0, *ends, *([mask.size] if ends[-1] != mask.size else [])]).tolist()
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": first + i, "category_id": 7, "iscrowd": 0},
                    "bbox": [float(v) for v in box],
                    "area": float(mask.sum()),
                    "segmentation": {"size": list(mask.shape), "counts": counts},
                }
            )
    return {"images": listed, "annotations": annotations, "categories": [{"id": 7, "name": "disk"}]}


def coco(folder: Path, **splits: int) -> Path:
    """A folder in COCO's layout with so many images in each split."""
    (folder / "annotations").mkdir(parents=True)
    for seed, (split, count) in enumerate(splits.items()):
        images = disks(count, seed)
        (folder / split).mkdir()
        for i, (image, _) in enumerate(images):
            Image.fromarray(image).save(folder / split / f"{i}.png")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content(images, 10 * seed + 1)))
    return folder


def masked(folder: Path, **splits: int) -> Path:
    """A folder of images and masks: 0 is background, 1 a disk, and the first column is ignored."""
    folder.mkdir(parents=True)
    (folder / "classes.txt").write_text("background\ndisk\n")
    for seed, (split, count) in enumerate(splits.items()):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i, (image, masks) in enumerate(disks(count, seed)):
            labels = np.any(masks, axis=0).astype(np.uint8) if masks else np.zeros(image.shape[:2], np.uint8)
            labels[:, 0] = 255
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(labels).save(folder / "masks" / split / f"{i}.png")
    return folder


class Quiet:
    """Looks on, and stops the run after so many updates."""

    def __init__(self, until: int | None = None) -> None:
        self.until, self.said = until, list[str]()

    def stretch(self, what: str, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, done: int) -> None:
        if done == self.until:
            raise KeyboardInterrupt
