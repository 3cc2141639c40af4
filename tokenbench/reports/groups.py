"""Rows that may be compared with each other, and what follows from comparing them. Needs no torch.

A group shares hardware, precision, batch, image size, weights, data and versions. A front, a saving or a line through
a method's settings never leaves its group.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from tokenbench.measure.verdicts import MARGIN, Verdict
from tokenbench.reports import cells, pareto
from tokenbench.reports.paper import tables
from tokenbench.reports.published import is_trained
from tokenbench.runs import conditions
from tokenbench.runs.axes import AXES, SLACK
from tokenbench.runs.row import Row
from tokenbench.tasks import known, metrics_of
from tokenbench.tasks.base import Metric


@dataclass(frozen=True)
class Point:
    """A row among the rows of its group."""

    row: Row
    series: str  # settings that differ in one knob only are of one series, and a line joins them
    knob: float | None  # that knob
    fronts: frozenset[str]  # the axes on whose front it is
    saved: float | None  # share of the dense model's GMACs
    time_saved: float | None  # share of the dense model's time
    score: float | None  # the task's main metric
    verdict: Verdict | None  # on the difference from dense, among all of the group


@dataclass(frozen=True)
class Group:
    """Points under one set of conditions, dense first."""

    points: tuple[Point, ...]
    members: tuple[int, ...] = ()  # of several backbones: their places among the groups

    @property
    def first(self) -> Row:
        """A row that has the conditions of all."""
        return self.points[0].row

    @property
    def dense(self) -> Row | None:
        """The row of the dense model, if it is here and the only one."""
        return self.first if self.first.method == "dense" and not self.members else None

    @property
    def notes(self) -> list[str]:
        """What must be known to read the cells of these rows."""
        judged = {id(p.row): p.verdict for p in self.points if p.verdict}
        return cells.notes([p.row for p in self.points], judged, self.dense)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What their task measures, the main metric first."""
        return metrics_of(self.first.task, list(self.first.metrics))

    @property
    def images(self) -> int:
        """How many images were evaluated; 0 where accuracy was not."""
        return max((p.row.images or 0 for p in self.points), default=0)

    @property
    def subset(self) -> str | None:
        """That accuracy is of a part of the split only, in words; None where it is not, or no row says."""
        rows = [p.row for p in self.points]
        total = max(row.images_total or 0 for row in rows)
        items = known(self.first.task).items
        return f"a subset: {self.images:,} of {total:,} {items}" if tables.is_subset(rows) else None

    @property
    def conditions(self) -> dict[str, str]:
        """Everything all these rows share, by its name."""
        row, env = self.first, self.first.env
        backbones = ", ".join(dict.fromkeys(p.row.backbone for p in self.points))
        weights = "random" if row.weights.kind == "random" else f"{row.weights.name} ({row.weights.kind})"
        if cells.all_trained([p.row for p in self.points]):
            weights = "of their own"
        height, width = row.image_size
        data = f"{cells.items(self.images, row.task)} of {row.dataset} ({row.split})"
        return {
            "task": row.task,
            "backbone": backbones,
            "weights": "of each backbone" if self.members else weights,
            "weights hash": "of each" if self.members else row.weights.hash or "none",
            "image size": f"{height}×{width}",
            "data": data if self.images else "no accuracy",
            "sample": row.sample_hash or "none",
            "hardware": row.hardware,
            "device": row.device,
            "precision": row.precision,
            "batch": str(row.batch),
            "mode": row.mode,
            **{key.replace("_", " "): str(value) for key, value in row.shared.items()},
            "seed": str(row.seed),
            "versions": f"tokenbench {row.version}, torch {env.get('torch')}, timm {env.get('timm')}",
        }

    @property
    def environment(self) -> dict[str, str]:
        """How the rows came about: machines, commits, timed rounds and when; each may have several values."""
        rows = [p.row for p in self.points]
        found: dict[str, Iterable[object]] = {
            "processor": (r.env.get("cpu") for r in rows),
            "GPU": (r.env.get("gpu") for r in rows),
            "threads": (r.env.get("threads") for r in rows),
            "system": (r.env.get("os") for r in rows),
            "Python": (r.env.get("python") for r in rows),
            "commit": (_commit(r) for r in rows),
            "timed rounds": (r.runs for r in rows),
            "unreadable images": (r.skipped or None for r in rows),
            "measured": _days(r.time for r in rows),
        }
        texts = {name: list(dict.fromkeys(str(v) for v in values if v is not None)) for name, values in found.items()}
        return {name: ", ".join(values) for name, values in texts.items() if values}

    def joined(self) -> list[list[Point]]:
        """The points of each series in order of their knob, where there are two or more."""
        lines: dict[str, list[Point]] = defaultdict(list)
        for point in self.points:
            if point.knob is not None and point.row.status == "ok":
                lines[point.series].append(point)
        return [sorted(line, key=lambda p: p.knob or 0.0) for line in lines.values() if len(line) > 1]


def grouped(rows: Iterable[Row], margin: float = MARGIN) -> list[Group]:
    """Rows by their conditions, in the order these first appear; for `margin` see `verdicts.judge`."""
    return [_group(members, margin) for members in conditions.grouped(rows).values()]


def combined(groups: Sequence[Group]) -> list[Group]:
    """Groups of one machine and one set of data whose backbones may be weighed against each other, as one each."""
    shared: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        if any(point.score is not None for point in group.points):
            shared.setdefault(next(iter(conditions.across([group.first]))), []).append(i)
    found = []
    for members in (members for members in shared.values() if len(members) > 1):
        points = [point for i in members for point in groups[i].points]
        fronts = _fronts([point.row for point in points])
        points = [replace(point, fronts=frozenset(fronts[i])) for i, point in enumerate(points)]
        found.append(Group(tuple(points), tuple(members)))
    return found


def names(groups: Sequence[Group]) -> list[str]:
    """A short name a group: its backbone, and of the other conditions those in which groups differ."""
    told = [group.conditions for group in groups]
    keys = list(dict.fromkeys(key for c in told for key in c))
    differ = [key for key in keys if len({c.get(key) for c in told}) > 1]
    twins = Counter((c["backbone"], c["weights"], c["weights hash"]) for c in told)
    one = len(twins) == len({c["backbone"] for c in told})  # each backbone has its weights, and no others
    shown = ["backbone", *(key for key in differ if key != "backbone" and not (one and key.startswith("weights")))]
    found = [" · ".join(f"batch {c[key]}" if key == "batch" else c[key] for key in shown if key in c) for c in told]
    twice = Counter(found)  # sample hashes and the like are in "data" only where accuracy was measured
    return [f"{name} · {i}" if twice[name] > 1 else name for i, name in enumerate(found, 1)]


def _group(rows: Sequence[Row], margin: float) -> Group:
    rows = conditions.dense_first(rows)
    fronts, main = _fronts(rows), metrics_of(rows[0].task, list(rows[0].metrics))[0]
    lines, judged = _lines(rows), conditions.judged(rows, margin)
    dense = rows[0].gmacs if rows[0].method == "dense" else None
    points = []
    for i, row in enumerate(rows):
        saved = 1 - row.gmacs / dense if dense and row.gmacs is not None and row.method != "dense" else None
        time = 1 - 1 / row.speedup if row.speedup and row.method != "dense" else None
        score, verdict = row.metrics.get(main.name), judged.get(id(row))
        points.append(Point(row, *lines[i], frozenset(fronts[i]), saved, time, score, verdict))
    return Group(tuple(points))


def _fronts(rows: Sequence[Row]) -> dict[int, set[str]]:
    """By the place of each row, the axes on whose front it is."""
    fronts: dict[int, set[str]] = defaultdict(set)
    main = metrics_of(rows[0].task, list(rows[0].metrics))[0]
    worth = [None if (value := row.metrics.get(main.name)) is None else main.sign * value for row in rows]
    for axis in AXES:
        able = [i for i, r in enumerate(rows) if r.status == "ok" and worth[i] is not None and getattr(r, axis.field)]
        costs = [axis.cost(getattr(rows[i], axis.field)) for i in able]
        flags = pareto.front(costs, [worth[i] or 0.0 for i in able], SLACK)
        for i, best in zip(able, flags, strict=True):
            if best:
                fronts[i].add(axis.field)
    return fronts


def _lines(rows: Sequence[Row]) -> list[tuple[str, float | None]]:
    """The series of each row, and its place on it.

    Of a method's knobs, the numeric one with the most values in the group is the one a line follows.
    """
    values: dict[str, dict[str, set[float]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        for knob, value in row.setting.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                values[row.method][knob].add(value)
    follow = {method: max(knobs, key=lambda k: len(knobs[k])) for method, knobs in values.items()}
    found = []
    for row in rows:
        line = follow.get(row.method, "")
        others = {name: value for name, value in row.setting.items() if name != line}
        place = row.setting.get(line)
        known = float(place) if isinstance(place, int | float) and not isinstance(place, bool) else None
        found.append((f"{row.method} {others} {is_trained(row)}", known))
    return found


def _commit(row: Row) -> str | None:
    commit = row.env.get("commit")
    return f"{str(commit)[:12]}{' with changes' if row.env.get('dirty') else ''}" if commit else None


def _days(times: Iterable[datetime]) -> list[str]:
    days = sorted({time.date().isoformat() for time in times})
    return [days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"] if days else []
