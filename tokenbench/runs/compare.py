"""Any two rows side by side, paired item by item as their task does it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenbench.core.settings import make
from tokenbench.core.words import counted
from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure import verdicts
from tokenbench.measure.verdicts import MARGIN, Difference
from tokenbench.runs.differing import differ
from tokenbench.runs.matching import Found, matched, named
from tokenbench.runs.results import load, predictions_path
from tokenbench.runs.row import Row
from tokenbench.tasks import all_tasks, metrics_of
from tokenbench.tasks.base import Metric, Task

RATIOS = ("gmacs", "params_m", "images_per_s", "speedup", "latency_p50", "peak_memory_mb", "joules")
TIMED = ("images_per_s", "speedup")

Reader = Callable[[Task, Found], Any]


@dataclass(frozen=True)
class Change:
    """One number of two rows: second minus first for what the task measures, second over first for all others."""

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

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What their task measures, the main metric first."""
        return metrics_of(self.first.row.task, list(self.first.row.metrics))

    @property
    def main(self) -> Change | None:
        """That of the main metric."""
        return self.changes.get(self.metrics[0].name) if self.metrics else None


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
            f"{counted(len(files), 'file')} and {counted(len(settings), 'setting')} cannot be compared; give two "
            'results files, or one and a setting or two, as: tokenbench compare results.jsonl "tome[r=13]" evit.'
        )
    names = ("dense", *settings) if len(files) == 1 and len(settings) == 1 else settings
    wanted = (names[0], names[-1]) if names else (None, None)
    first, second = (named(_rows(f), name, f) for f, name in zip((files[0], files[-1]), wanted, strict=True))
    return _judged([beside(a, b, kept) for a, b in matched(first, second, by_setting=not names)], margin)


def is_file(text: str) -> bool:
    """Whether a text means a results file, and not a setting, as which a folder may be called, too."""
    return text.endswith(".jsonl") or (os.path.exists(text) and not os.path.isdir(text))


def _rows(file: Path) -> list[Found]:
    return [Found(row, file) for row in load(file)[0]]


def beside(first: Found, second: Found, read: Reader | None = None) -> Pair:
    """What changes from one row to another, without a verdict on the main metric.

    Args:
        first: a row.
        second: another.
        read: gives what is kept of a row's model, as `kept` does; None: the task's metrics are left out.

    Raises:
        UsageError: metrics cannot be paired, for predictions are missing or of other images.
    """
    pair = Pair(first, second, {}, differ(first.row, second.row))
    changes = {} if read is None else _scores(pair, read)
    for name in RATIOS:
        a, b = getattr(first.row, name), getattr(second.row, name)
        if a and b is not None:
            low, high = _ends(first.row, second.row, name) if b else (None, None)
            words = verdicts.speed(low, high) if name in TIMED else ""
            changes[name] = Change(a, b, b / a, low, high, words=words)
    return replace(pair, changes=changes)


def _scores(pair: Pair, read: Reader) -> dict[str, Change]:
    """Metrics of the same items; the verdict comes later, when all pairs are known."""
    first, second = pair.first, pair.second
    both = {m.name: (first.row.metrics.get(m.name), second.row.metrics.get(m.name)) for m in pair.metrics}
    if not pair.metrics or None in both[pair.metrics[0].name]:
        return {}
    if first.row.sample_hash != second.row.sample_hash:
        raise UsageError(
            f"{first} and {second} are of other images ({first.row.dataset}, sample {first.row.sample_hash}; "
            f"{second.row.dataset}, sample {second.row.sample_hash}); run both with the same --data-dir and --limit."
        )
    told = _paired(first, second, read)
    found: dict[str, Change] = {}
    for name, (a, b) in both.items():
        change = told.get(name)
        if isinstance(change, float):
            found[name] = Change(None, None, change)
        elif a is not None and b is not None and change is None:
            found[name] = Change(a, b, round(b - a, 6))
        elif isinstance(change, Difference):
            found[name] = Change(a, b, round(change.value, 6), change.low, change.high, change.p)
    return found


def _paired(first: Found, second: Found, read: Reader) -> Mapping[str, Difference | float]:
    """What the task says of both on the same items; nothing for a task that keeps no items, or is not loaded."""
    task = _task(second.row)
    if task is None or not task.keeps_parts:
        return {}
    one, other = read(task, first), read(task, second)
    try:
        return task.changes(other, one, second.row.seed)
    except UsageError:
        raise UsageError(
            f"The predictions of {first} and {second} are of other {task.items} (some could be read in one run only); "
            f"run both again with --force."
        ) from None


def _task(row: Row) -> Task | None:
    """The task as a row was measured with it; None where it is of a plug-in that is not loaded."""
    found = all_tasks().get(row.task)
    if found is None:
        return None
    return make(found, {name: value for name, value in row.conditions.items() if name in found.model_fields})


def kept(task: Task, found: Found) -> Any:
    """What a row's model said of each item; raises `UsageError` where that was not kept."""
    try:
        return task.load(predictions_path(found.file, found.row.id))
    except ResultsError as error:  # exit code 1 is for a condition that holds
        raise UsageError(f"{found} cannot be paired {task.items[:-1]} by {task.items[:-1]}: {error}") from None


def _ends(first: Row, second: Row, name: str) -> tuple[float, float] | tuple[None, None]:
    """The interval of a ratio of speeds or joules, from what each row says of its own."""
    sides = [_own_ends(row, name) for row in (first, second)]
    if sides[0] is None or sides[1] is None:
        return None, None
    return verdicts.quotient(getattr(second, name), sides[1], getattr(first, name), sides[0])


def _own_ends(row: Row, name: str) -> tuple[float, float] | None:
    if name == "images_per_s" and row.images_per_s and row.spread is not None and row.runs:
        return verdicts.median_ends(row.images_per_s, row.spread, row.runs)
    if name == "joules" and row.joules and row.joules_spread is not None and row.joules_readings:
        return verdicts.median_ends(row.joules, row.joules_spread, row.joules_readings)
    sure = row.noisy is not None  # rows of earlier versions have percentiles in their place
    if name == "speedup" and sure and row.speedup_low and row.speedup_high:
        return row.speedup_low, row.speedup_high
    return None


def alone(pair: Pair, margin: float = MARGIN) -> Pair:
    """With the verdict on its main metric, looked at by itself."""
    return _judged([pair], margin)[0]


def _judged(pairs: Sequence[Pair], margin: float) -> list[Pair]:
    """With the verdict on each main difference; what is the same at several batch sizes is judged once."""

    def key(pair: Pair) -> tuple[Any, ...]:
        return pair.first.row.backbone, pair.first.row.label, pair.second.row.label, pair.main

    scored = {key(pair): pair for pair in pairs if pair.main is not None and pair.main.p is not None}
    told = verdicts.judge([_difference(pair) for pair in scored.values()], margin)
    words = {of: verdict.words for of, verdict in zip(scored, told, strict=True)}
    return [_with(pair, words[key(pair)]) if key(pair) in words else pair for pair in pairs]


def _difference(pair: Pair) -> Difference:
    """Of the main metric, so that more is better."""
    change: Any = pair.main
    found = Difference(change.value, change.low, change.high, change.p)
    return found if pair.metrics[0].sign > 0 else found.turned()


def _with(pair: Pair, words: str) -> Pair:
    main: Any = pair.main
    return replace(pair, changes=pair.changes | {pair.metrics[0].name: replace(main, words=words)})
