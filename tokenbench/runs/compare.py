"""Any two rows side by side, paired image by image where both have predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure import verdicts
from tokenbench.measure.predictions import Predictions, paired
from tokenbench.measure.verdicts import MARGIN, Difference
from tokenbench.runs.matching import Found, differ, matched, named
from tokenbench.runs.results import load, predictions_path
from tokenbench.runs.row import FIRST_TASK, Row

RATIOS = ("gmacs", "params_m", "images_per_s", "speedup", "latency_p50", "peak_memory_mb")
TIMED = ("images_per_s", "speedup")


@dataclass(frozen=True)
class Change:
    """One number of two rows: second minus first for percentages (points), second over first for all others."""

    first: float | None
    second: float | None
    value: float
    low: float | None = None  # the 95 % interval of the value
    high: float | None = None
    p: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Pair:
    """Two rows and what changes from the first to the second."""

    first: Found
    second: Found
    changes: dict[str, Change]  # by field, those that both have
    differ: dict[str, tuple[str, str]]  # conditions that are not the same, with both values


def compare(files: Sequence[Path], settings: Sequence[str] = (), margin: float = MARGIN) -> list[Pair]:
    """What changes from one row to another, wherever backbone, batch and image size are the same.

    Args:
        files: one results file, or two of which the second is compared with the first.
        settings: none compares every setting that two files have in common; one is compared between two files, or
            with dense in one; of two, the second is compared with the first. A label, or the id of a row.
        margin: see `verdicts.judge`; all pairs are judged at once.

    Raises:
        UsageError: nothing matches, or too much does; predictions are missing or of other images.
        ResultsError: a file cannot be read.
    """
    if not 1 <= len(files) <= 2 or len(settings) > 2 or (len(files) == 1 and not settings):
        raise UsageError(
            f"{len(files)} files and {len(settings)} settings cannot be compared; give two results files, or one "
            'and a setting or two, as: tokenbench compare results.jsonl "tome[r=13]" evit.'
        )
    names = ("dense", *settings) if len(files) == 1 and len(settings) == 1 else settings
    wanted = (names[0], names[-1]) if names else (None, None)
    first, second = (named(_rows(f), name, f) for f, name in zip((files[0], files[-1]), wanted, strict=True))
    return _judged([beside(a, b, predictions) for a, b in matched(first, second, by_setting=not names)], margin)


def _rows(file: Path) -> list[Found]:
    return [Found(row, file) for row in load(file)[0]]


def beside(first: Found, second: Found, read: Callable[[Found], Predictions] | None = None) -> Pair:
    """What changes from one row to another, without a verdict on accuracy.

    Args:
        first: a row.
        second: another.
        read: gives the predictions of a row; None: accuracy is left out.

    Raises:
        UsageError: accuracies cannot be paired, for predictions are missing or of other images.
    """
    changes: dict[str, Change] = {}
    scored = None not in (first.row.metrics.get("top1"), second.row.metrics.get("top1"))
    if read is not None and first.row.task == FIRST_TASK and scored:
        changes |= _accuracy(first, second, read)
    for name in RATIOS:
        a, b = getattr(first.row, name), getattr(second.row, name)
        if a and b is not None:
            low, high = _ends(first.row, second.row, name) if b else (None, None)
            words = verdicts.speed(low, high) if name in TIMED else ""
            changes[name] = Change(a, b, b / a, low, high, words=words)
    return Pair(first, second, changes, differ(first.row, second.row))


def _accuracy(first: Found, second: Found, read: Callable[[Found], Predictions]) -> dict[str, Change]:
    """Accuracies of the same images; the verdict comes later, when all pairs are known."""
    if first.row.sample_hash != second.row.sample_hash:
        raise UsageError(
            f"{first} and {second} are of other images ({first.row.dataset}, sample {first.row.sample_hash}; "
            f"{second.row.dataset}, sample {second.row.sample_hash}); run both with the same --data-dir and --limit."
        )
    one, other = read(first), read(second)
    try:
        change, agreement = paired(other, one).told, other.agreement(one)
    except UsageError:
        raise UsageError(
            f"The predictions of {first} and {second} are of other images (some could be read in one run only); "
            f"run both again with --force."
        ) from None
    found = {"top1": Change(one.top1, other.top1, change.value, change.low, change.high, change.p)}
    if one.top5 is not None and other.top5 is not None:
        found["top5"] = Change(one.top5, other.top5, round(other.top5 - one.top5, 6))
    return found | {"agreement": Change(None, None, agreement)}


def predictions(found: Found) -> Predictions:
    """What a row's model said of each image; raises `UsageError` where that was not kept."""
    path = predictions_path(found.file, found.row.id)
    try:
        return Predictions.load(path)
    except ResultsError as error:  # exit code 1 is for a condition that holds
        raise UsageError(f"{found} cannot be paired image by image: {error}") from None


def _ends(first: Row, second: Row, name: str) -> tuple[float, float] | tuple[None, None]:
    """The interval of a ratio of speeds, from what each row says of its own."""
    sides = [_own_ends(row, name) for row in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None, None
    return verdicts.quotient(getattr(second, name), sides[1], getattr(first, name), sides[0])


def _own_ends(row: Row, name: str) -> tuple[float, float] | None:
    if name == "images_per_s" and row.images_per_s and row.spread is not None and row.runs:
        return verdicts.median_ends(row.images_per_s, row.spread, row.runs)
    sure = row.noisy is not None  # rows of earlier versions have percentiles in their place
    if name == "speedup" and sure and row.speedup_low and row.speedup_high:
        return row.speedup_low, row.speedup_high
    return None


def alone(pair: Pair, margin: float = MARGIN) -> Pair:
    """With the verdict on its accuracy, looked at by itself."""
    return _judged([pair], margin)[0]


def _judged(pairs: Sequence[Pair], margin: float) -> list[Pair]:
    """With the verdict on each difference in accuracy; what is the same at several batch sizes is judged once."""

    def key(pair: Pair) -> tuple[Any, ...]:
        return pair.first.row.backbone, pair.first.row.label, pair.second.row.label, pair.changes["top1"]

    scored = {key(pair): pair.changes["top1"] for pair in pairs if "top1" in pair.changes}
    told = verdicts.judge([Difference(c.value, c.low, c.high, c.p or 0.0) for c in scored.values()], margin)
    words = {of: verdict.words for of, verdict in zip(scored, told, strict=True)}
    return [_with(pair, words[key(pair)]) if "top1" in pair.changes else pair for pair in pairs]


def _with(pair: Pair, words: str) -> Pair:
    return replace(pair, changes=pair.changes | {"top1": replace(pair.changes["top1"], words=words)})
