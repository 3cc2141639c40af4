"""Average precision as COCO has it, by faster-coco-eval, and how sure it is, by a bootstrap over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenbench.errors import UsageError
from tokenbench.measure.detections import Detections, Objects

NAMES = (
    *("ap", "ap50", "ap75", "ap_s", "ap_m", "ap_l"),
    *("ar1", "ar10", "ar", "ar_s", "ar_m", "ar_l"),
)
RECALLS = np.linspace(0, 1, 101)
RESAMPLED = 1000  # times; fewer where there is much to resample
WORK = 2e9  # detections and thresholds that a bootstrap goes through at most

Kind = Literal["bbox", "segm"]


@dataclass(frozen=True)
class Matches:
    """Detections of one class in order of their scores: which were right, at each of ten thresholds."""

    image: NDArray[np.int64]  # (D,)
    right: NDArray[np.bool_]  # (10, D)
    wrong: NDArray[np.bool_]  # (10, D) neither where it does not count
    true: NDArray[np.int64]  # (I,) objects that count, of each image

    @cached_property
    def hits(self) -> list[tuple[NDArray[np.bool_], list[NDArray[np.intp]]]]:
        """Which detections count (D,), and where the right ones are at each threshold at which just those count."""
        found: dict[bytes, tuple[NDArray[np.bool_], list[NDArray[np.intp]]]] = {}
        for right, wrong in zip(self.right, self.wrong, strict=True):
            counts = right | wrong
            found.setdefault(counts.tobytes(), (counts, []))[1].append(np.flatnonzero(right))
        return list(found.values())


@dataclass(frozen=True)
class Precision:
    """COCO's twelve numbers in percent, by `NAMES`; None where there is nothing of that kind to find."""

    numbers: dict[str, float | None]
    by_class: tuple[float | None, ...]
    matches: tuple[Matches, ...]
    images: int


def evaluate(detections: Detections, kind: Kind, cap: int = 100) -> Precision:
    """COCO's average precision and recall.

    Args:
        detections: of a whole set.
        kind: of boxes or of masks.
        cap: detections an image that count, 100 in COCO.

    Raises:
        UsageError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise UsageError(
            "Detection needs faster-coco-eval, which is not installed; pip install tokenbench[dense]."
        ) from None
    sizes = detections.sizes.tolist()
    truth: Any = COCO(
        {
            "images": [{"id": i + 1, "height": h, "width": w} for i, (h, w) in enumerate(sizes)],
            "categories": [{"id": k + 1, "name": name} for k, name in enumerate(detections.names)],
            "annotations": list(_rows(detections.truth, sizes, kind, True)),
        }
    )
    found = truth.loadRes(list(_rows(detections.found, sizes, kind, False)))
    judge = COCOeval_faster(truth, found, kind, print_function=lambda *_: None, separate_eval=True)
    judge.params.maxDets = [1, min(10, cap), cap]
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    each = np.asarray(judge.eval["precision"])[:, :, :, 0, -1]  # (10, 101, K)
    means = [
        float(each[:, :, k][each[:, :, k] > -1].mean()) if (each[:, :, k] > -1).any() else None
        for k in range(each.shape[2])
    ]
    return Precision(
        {name: None if value < 0 else 100 * float(value) for name, value in zip(NAMES, judge.stats, strict=False)},
        tuple(None if mean is None else 100 * mean for mean in means),
        _matches(judge._evalImgs_cpp, len(detections), len(detections.names)),
        len(detections),
    )


def _rows(objects: Objects, sizes: Sequence[Sequence[int]], kind: Kind, true: bool) -> Any:
    for i in range(len(objects)):
        image = int(objects.image[i])
        row: dict[str, Any] = {"image_id": image + 1, "category_id": int(objects.labels[i]) + 1, "id": i + 1}
        if kind == "bbox" or true:
            row["bbox"] = objects.boxes[i].tolist()
        if kind == "segm":
            row["segmentation"] = {"size": list(sizes[image]), "counts": objects.masks[i]}
        if true:
            row |= {"area": float(objects.areas[i]), "iscrowd": int(objects.crowds[i])}
        else:
            row["score"] = float(objects.scores[i])
        yield row


def _matches(evaluated: Sequence[Any], images: int, classes: int) -> tuple[Matches, ...]:
    """What matched what, over all sizes of objects, out of the evaluator's own states, in order of class and image."""
    found = []
    for k in range(classes):
        states = [
            evaluated[k * 4 * images + i].__getstate__() for i in range(images)
        ]  # of 4 ranges of sizes, the first
        scores = [np.asarray(state[2], np.float64) for state in states]
        matched = [np.asarray(s[0], bool).reshape(10, -1) if len(s[2]) else np.zeros((10, 0), bool) for s in states]
        ignored = [np.asarray(s[4], bool).reshape(10, -1) if len(s[2]) else np.zeros((10, 0), bool) for s in states]
        image = np.repeat(np.arange(images), [len(s) for s in scores])
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        right, aside = np.concatenate(matched, axis=1)[:, order], np.concatenate(ignored, axis=1)[:, order]
        true = np.array([len(s[3]) - int(np.sum(s[3])) for s in states], np.int64)
        found.append(Matches(image[order], right & ~aside, ~right & ~aside, true))
    return tuple(found)


def weighted(matches: Sequence[Matches], weights: NDArray[np.int64]) -> float | None:
    """Average precision in percent where image i is there `weights[i]` times (I,); None where nothing is to find.

    Recall grows and precision is highest where a detection is right, so nothing else is looked at.
    """
    means = []
    for one in matches:
        total = int(one.true @ weights)
        if not total:
            continue
        each, curves = weights[one.image], []
        for counts, places in one.hits:
            seen = np.cumsum(each * counts)
            for place in places:
                right = np.cumsum(each[place])
                precision = right / np.maximum(seen[place], np.spacing(1))
                best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
                curves.append(best[np.searchsorted(right / total, RECALLS, side="left")])
        means.append(float(np.mean(curves)))
    return 100 * float(np.mean(means)) if means else None


@dataclass(frozen=True)
class Sure:
    """The 95 % interval of an average precision, and of its difference from another on the same images."""

    low: float
    high: float
    change_low: float | None = None
    change_high: float | None = None
    p: float | None = None  # two-sided, that there is no difference


def bootstrap(own: Precision, other: Precision | None, seed: int) -> Sure | None:
    """Images drawn anew, with the same draws for both; None where there is nothing to find.

    Intervals are percentiles (Efron and Tibshirani, 1993, chapter 13).
    """
    work = 10 * sum(len(one.image) for one in own.matches) * (1 if other is None else 2)
    times = int(min(RESAMPLED, max(100, WORK // max(work, 1))))
    draw, images = np.random.default_rng(seed), own.images
    values, changes = [], []
    for _ in range(times):
        weights = np.bincount(draw.integers(0, images, images), minlength=images)
        mine = weighted(own.matches, weights)
        if mine is None:
            continue
        values.append(mine)
        theirs = None if other is None else weighted(other.matches, weights)
        if theirs is not None:
            changes.append(mine - theirs)
    if not values:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    if not changes:
        return Sure(float(low), float(high))
    less, more = np.percentile(changes, (2.5, 97.5))
    below, above = np.mean(np.array(changes) <= 0), np.mean(np.array(changes) >= 0)
    p = min(1.0, 2 * max(1 / len(changes), float(min(below, above))))
    return Sure(float(low), float(high), float(less), float(more), p)
