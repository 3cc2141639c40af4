"""True objects beside found ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tokenbench.data.coco import Scenes, Thing, encoded
from tokenbench.data.scening import Batch
from tokenbench.measure.detections import Detections, Objects


def beside(found: Sequence[tuple[Any, Any, Any, tuple[bytes, ...]]], batches: Sequence[Batch]) -> Detections:
    """What was found in each image, in the order of the batches, with what is there."""
    data: Scenes = batches[0].data
    indices = [index for batch in batches for index in batch.indices]
    rows = [
        (i, boxes[j], labels[j], scores[j], 0.0, False, masks[j])
        for i, (boxes, labels, scores, masks) in enumerate(found)
        for j in range(len(boxes))
    ]
    truth = [_row(i, thing, data.sizes[index]) for i, index in enumerate(indices) for thing in data.things[index]]
    return Detections(
        np.array([data.ids[index] for index in indices], np.int64),
        np.array([data.sizes[index] for index in indices], np.int64).reshape(-1, 2),
        np.array(data.categories, np.int64),
        data.classes,
        Objects.of(rows),
        Objects.of(truth),
    )


def _row(image: int, thing: Thing, size: tuple[int, int]) -> tuple[Any, ...]:
    counts = b"" if thing.outline is None else encoded(thing.outline, size)["counts"]
    area = thing.box[2] * thing.box[3] if thing.area is None else thing.area
    return image, thing.box, thing.label, 1.0, area, thing.crowd, counts.encode() if isinstance(counts, str) else counts
