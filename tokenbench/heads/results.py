"""What a detector found, as plain arrays on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor


def plain(found: Mapping[str, Tensor]) -> tuple[Any, Any, Any, tuple[bytes, ...]]:
    """Boxes (N, 4) as x, y, width, height, labels (N,) from 0 on, scores (N,), and masks as COCO's encoded counts.

    Masks are encoded as they come, for as pixels they would fill the memory.
    """
    boxes = found["boxes"].double().cpu().numpy()
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    masks: tuple[bytes, ...] = (b"",) * len(boxes)
    if "masks" in found and len(boxes):
        from faster_coco_eval.core import mask as api

        columns = found["masks"].transpose(1, 2).contiguous().cpu().numpy().view(np.uint8)  # (N, W, H), as encoded
        masks = tuple(one["counts"] for one in api.encode(columns.transpose(2, 1, 0)))
    return boxes, found["labels"].cpu().numpy() - 1, found["scores"].double().cpu().numpy(), masks
