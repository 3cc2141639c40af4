"""What a detector found in a set of images, beside what is there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, UsageError, first_line


@dataclass(frozen=True, eq=False)
class Objects:
    """Objects of several images in a row: found ones, best first in each image, or true ones.

    Boxes are x, y, width, height in pixels; masks are the counts of COCO's compressed encodings, empty where there is
    none.
    """

    image: NDArray[np.int64]  # (N,) place of the image
    boxes: NDArray[np.float64]  # (N, 4)
    labels: NDArray[np.int64]  # (N,) from 0 on
    scores: NDArray[np.float64]  # (N,) 1 for true ones
    areas: NDArray[np.float64]  # (N,) as annotated, in pixels; 0 for found ones
    crowds: NDArray[np.bool_]  # (N,)
    masks: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.image)

    @classmethod
    def of(cls, rows: Sequence[Sequence[Any]]) -> Objects:
        """Of (image, box, label, score, area, crowd, mask) each."""
        image, boxes, labels, scores, areas, crowds, masks = zip(*rows, strict=True) if rows else ((),) * 7
        return cls(
            np.array(image, np.int64),
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(scores, np.float64),
            np.array(areas, np.float64),
            np.array(crowds, np.bool_),
            tuple(masks),
        )

    def arrays(self, prefix: str) -> dict[str, NDArray[Any]]:
        """All of it as plain arrays, the masks as bytes and their lengths."""
        plain = {f"{prefix}{f.name}": getattr(self, f.name) for f in fields(self) if f.name != "masks"}
        ends = np.array([len(mask) for mask in self.masks], np.int64)
        return plain | {f"{prefix}masks": np.frombuffer(b"".join(self.masks), np.uint8), f"{prefix}ends": ends}

    @classmethod
    def from_arrays(cls, arrays: Any, prefix: str) -> Objects:
        """What `arrays` gave."""
        data, lengths = arrays[f"{prefix}masks"].tobytes(), arrays[f"{prefix}ends"].tolist()
        masks = tuple(data[a:b] for a, b in pairwise(accumulate(lengths, initial=0)))
        plain = {f.name: arrays[f"{prefix}{f.name}"] for f in fields(cls) if f.name != "masks"}
        return cls(**plain, masks=masks)


@dataclass(frozen=True, eq=False)
class Detections:
    """Found and true objects of the same images."""

    ids: NDArray[np.int64]  # (I,) of the images in their file
    sizes: NDArray[np.int64]  # (I, 2) heights and widths
    categories: NDArray[np.int64]  # (K,) the number that each class has in the file
    names: tuple[str, ...]  # of the classes
    found: Objects
    truth: Objects

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        """Write all of it as compressed `.npz`; raises `ResultsError` if that cannot be."""
        plain: dict[str, Any] = self.found.arrays("found_") | self.truth.arrays("truth_")
        plain |= {"ids": self.ids, "sizes": self.sizes, "categories": self.categories, "names": np.array(self.names)}
        with atomic.replacing(Path(path), ResultsError) as part, part.open("wb") as file:
            np.savez_compressed(file, **plain)

    @classmethod
    def load(cls, path: str | Path) -> Detections:
        """What `save` wrote; raises `ResultsError` if it cannot be read."""
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = tuple(map(str, arrays["names"]))
                both = [Objects.from_arrays(arrays, prefix) for prefix in ("found_", "truth_")]
                return cls(arrays["ids"], arrays["sizes"], arrays["categories"], names, *both)
        except Exception as error:  # a damaged archive makes numpy and zlib raise nearly anything
            raise ResultsError(
                f"Detections '{path}' cannot be read ({first_line(error)}); run the job again."
            ) from None

    def same_images(self, other: Detections) -> None:
        """Raise `UsageError` where the other is of other images, or held to other objects."""
        if not (np.array_equal(self.ids, other.ids) and np.array_equal(self.sizes, other.sizes)):
            raise UsageError(
                f"Detections in {len(self)} and {len(other)} images cannot be paired; run both on the same images."
            )
        mine, theirs = (one.truth.arrays("") for one in (self, other))
        if not all(np.array_equal(mine[name], theirs[name]) for name in mine):
            raise UsageError(
                "Detections that are held to other annotations cannot be paired; run both on the same annotations."
            )

    def write_coco(self, path: Path) -> None:
        """The found objects as COCO's `results.json`, with the file's own numbers of images and categories."""
        rows = []
        for i in range(len(self.found)):
            image = int(self.found.image[i])
            row: dict[str, Any] = {
                "image_id": int(self.ids[image]),
                "category_id": int(self.categories[self.found.labels[i]]),
                "bbox": [round(float(v), 3) for v in self.found.boxes[i]],
                "score": float(self.found.scores[i]),
            }
            if self.found.masks[i]:
                size = [int(v) for v in self.sizes[image]]
                row["segmentation"] = {"size": size, "counts": self.found.masks[i].decode("ascii")}
            rows.append(row)
        atomic.write(path, json.dumps(rows), ResultsError)


def joined(parts: Sequence[Detections]) -> Detections:
    """Those of several sets of images as one."""
    first, starts = parts[0], list(accumulate((len(part) for part in parts), initial=0))

    def both(name: str) -> Objects:
        each = [getattr(part, name) for part in parts]
        arrays = {
            f.name: np.concatenate([getattr(one, f.name) for one in each])
            for f in fields(Objects)
            if f.name not in ("image", "masks")
        }
        image = np.concatenate([one.image + start for one, start in zip(each, starts, strict=False)])
        return Objects(image=image, masks=tuple(mask for one in each for mask in one.masks), **arrays)

    return Detections(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        first.categories,
        first.names,
        both("found"),
        both("truth"),
    )
