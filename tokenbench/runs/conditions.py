"""Rows that were measured under the same conditions, and how they differ from the dense model beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from tokenbench.measure.verdicts import MARGIN, Difference, Verdict, judge
from tokenbench.runs.row import Identity, Row, WeightsId
from tokenbench.tasks import metrics_of
from tokenbench.tasks.base import PAIRED

MODEL = ("backbone", "weights")
ROUNDED = 1e-3  # of a score and a difference, which rows keep to more digits


def grouped(rows: Iterable[Row], *without: str) -> dict[str, list[Row]]:
    """Rows by the conditions they were measured under: their identity but for the setting, and the versions."""
    groups: dict[str, list[Row]] = {}
    fields = set(Identity.model_fields) - {"method", "setting", "label", "trained", "conditions", *without}
    for row in rows:
        same = row.model_dump(mode="json", include=fields)
        shared = [same, row.shared, row.env.get("torch"), row.env.get("timm")]
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(row)
    return groups


def across(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of the same data on the same machine, whatever the backbone and its weights."""
    return grouped(rows, *MODEL)


def same_model(first: Row, second: Row) -> bool:
    """Whether two rows are of one dense model."""
    return all(getattr(first, name) == getattr(second, name) for name in MODEL)


def score(row: Row) -> float | None:
    """The task's main metric."""
    return row.metrics.get(metrics_of(row.task, list(row.metrics))[0].name)


def sign(row: Row) -> int:
    """1 where more of the main metric is better, -1 where less is."""
    return metrics_of(row.task, list(row.metrics))[0].sign


def difference(row: Row) -> Difference | None:
    """The row's main metric minus its dense model's on the same items, so that more is better; None if not paired."""
    value, low, high, p = (row.metrics.get(name) for name in PAIRED)
    if row.status != "ok" or value is None or p is None:
        return None
    found = Difference(value, low, high, p)
    return found if sign(row) > 0 else found.turned()


def is_against(row: Row, dense: Row) -> bool:
    """Whether a row's difference is from this dense row of its model, and not from one of another training."""
    if dense.trained is None:
        return True
    value, mine, theirs = row.metrics.get(PAIRED[0]), score(row), score(dense)
    return None not in (value, mine, theirs) and abs(mine - value - theirs) < ROUNDED  # type: ignore[operator]


def dense_first(rows: Iterable[Row]) -> list[Row]:
    """Rows as they are shown: those of the dense model first, and of them the one that was not trained apart."""
    return sorted(rows, key=lambda row: (row.method != "dense", row.method == "dense" and row.trained is not None))


def setting(row: Row) -> tuple[str, WeightsId | None, str]:
    """What is measured at several batch sizes: label, weights of its own and further conditions."""
    return row.label, row.trained, str(row.conditions)


def judged(rows: Sequence[Row], margin: float = MARGIN) -> dict[int, Verdict]:
    """By `id(row)`, the verdicts on those of some rows, shown together, that were compared with dense."""
    told = {id(row): change for row in rows if (change := difference(row)) is not None}
    return dict(zip(told, judge(list(told.values()), margin), strict=True))
