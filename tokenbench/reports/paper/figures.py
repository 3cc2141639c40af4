"""The charts as figures for a paper: matplotlib, one column wide, the same colours and markers as everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tokenbench.reports import published, style
from tokenbench.reports.groups import Group, Point, grouped
from tokenbench.runs.axes import AXES, Axis
from tokenbench.runs.conditions import grouped as grouped_by
from tokenbench.runs.row import Row

WIDTH = 3.5  # inches: one column of two
HEIGHT = 2.6
BAND = 0.2  # inches a setting, where each has a line of its own
MOST_GROUPS = 2  # of more, only the first is drawn
MOST_BANDS = 40
MOST_POINTS = 1000
KINDS = ("svg", "png", "pdf")
PALE = 0.3
GREY = "#8a8a8a"


@dataclass(frozen=True)
class Drawn:
    """The files of a report's figures, and what was left out, in words."""

    files: list[Path]
    left_out: str | None


def write(rows: Sequence[Row], folder: Path, kinds: Sequence[str] = KINDS) -> Drawn:
    """Write the figures of each group of rows to `folder`/figures, `folder` being there: `accuracy_gmac.svg` and so on.

    Of groups that differ in batch only, the one with most accuracies is drawn, or of these the largest batch; figures
    of the second group end in its number, and of three or more only the first is drawn. Of more than forty settings,
    figures with a line for each have those on a front and then the first.
    """
    groups = sorted(
        (max(grouped(members), key=_rank) for members in grouped_by(rows, "batch").values()),
        key=lambda group: -_rank(group)[0],
    )
    shown = groups if len(groups) <= MOST_GROUPS else groups[:1]
    out = folder / "figures"
    files: list[Path] = []
    out.mkdir(exist_ok=True)
    with matplotlib.rc_context(style.PAPER | {"svg.hashsalt": "tokenbench"}):  # type: ignore[arg-type]
        for stem, figure in _named(rows, shown):
            whole = figure.get_tightbbox().padded(0.03)
            for kind in kinds:
                files.append(out / f"{stem}.{kind}")
                figure.savefig(files[-1], dpi=200, bbox_inches=whole, metadata=_undated(kind))
    more = len(groups) - len(shown)
    return Drawn(files, f"figures of {more} more sets of conditions were left out" if more else None)


def _rank(group: Group) -> tuple[int, int]:
    return sum(p.score is not None for p in group.points), group.first.batch


def _named(rows: Sequence[Row], groups: Sequence[Group]) -> Iterator[tuple[str, Figure]]:
    for number, group in enumerate(groups, 1):
        for name, figure in figures(group):
            yield name if number == 1 else f"{name}-{number}", figure
    for number, figure in enumerate(islice(sweeps(rows), MOST_GROUPS), 1):
        yield "speedup_batch" if number == 1 else f"speedup_batch-{number}", figure


def figures(group: Group) -> Iterator[tuple[str, Figure]]:
    """The figures of a group by name, where there is something to draw."""
    kinds: list[tuple[str, Callable[[Group], Figure | None]]] = [
        ("accuracy_gmac", accuracy),
        ("accuracy_images_per_s", partial(accuracy, axis=AXES[2])),  # of latency it would be the mirror image
        ("differences", differences),
        ("gmac_time", saved),
        ("tokens", tokens),
    ]
    for name, draw in kinds:
        figure = draw(group)
        if figure is not None:
            yield name, figure


def sweeps(rows: Sequence[Row]) -> Iterator[Figure]:
    """Speed-up over dense by batch size, a figure for each set of conditions in which several sizes were timed."""
    for members in grouped_by(rows, "batch").values():
        timed = [row for row in members if row.status == "ok" and row.speedup is not None and row.method != "dense"]
        sizes = sorted({row.batch for row in timed})
        labels = list(dict.fromkeys(row.label for row in timed))[:MOST_BANDS]
        if len(sizes) < 2:
            continue
        figure, axes = _figure("batch", "speed-up over dense")
        axes.axhline(1, color=GREY, linewidth=0.6, dashes=(4, 3))
        for label in labels:
            line = sorted((row for row in timed if row.label == label), key=lambda row: row.batch)
            look = _mark(line[0].method) | {"linestyle": "-", "linewidth": 0.9}
            axes.plot([sizes.index(row.batch) for row in line], [row.speedup or 0.0 for row in line], **look)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        _legend(axes, [row.method for row in timed])
        yield figure


def accuracy(group: Group, axis: Axis = AXES[0]) -> Figure | None:
    """Top-1 against a cost: the front, lines through settings, published values hollow."""

    def at(point: Point) -> tuple[float, float]:
        return float(getattr(point.row, axis.field)), point.score or 0.0

    points = [p for p in _ok(group) if p.score is not None and getattr(p.row, axis.field)]
    points = _fewer(points, MOST_POINTS)
    if not points:
        return None
    figure, axes = _figure(axis.title, group.metrics[0].axis)
    front = sorted(at(p) for p in points if axis.field in p.fronts)
    steps: Any = "steps-pre" if axis.more_is_better else "steps-post"
    axes.plot(*zip(*front, strict=True), color="#d9d9d9", linewidth=3, drawstyle=steps, zorder=1)
    _lines(axes, group, points, at)
    for method, members in _by_method(points).items():
        ahead = [p for p in members if axis.field in p.fronts]
        behind = [p for p in members if axis.field not in p.fronts]
        _bars(axes, method, [(at(p)[0], *_ends(p.row, group.metrics[0].name)) for p in ahead])
        _marks(axes, method, [at(p) for p in ahead])
        _marks(axes, method, [at(p) for p in behind], alpha=1 if method == "dense" else PALE)
        printed = [(at(p)[0], top1) for p in members for top1 in _printed(p)]
        _marks(axes, method, printed, fillstyle="none", markeredgewidth=0.8)
    _legend(axes, _by_method(points), any(_printed(p) for p in points))
    return figure


def differences(group: Group) -> Figure | None:
    """Top-1 minus dense with its paired 95 % interval; hollow and grey where no difference is shown."""
    main = group.metrics[0]
    points = [p for p in _ok(group) if p.verdict is not None and None not in _ends(p.row, "diff_dense")]
    points = sorted(_fewer(points, MOST_BANDS), key=lambda p: p.row.diff_dense or 0.0)
    if not points:
        return None
    figure, axes = _figure(
        f"{main.short} minus dense, {main.points} (paired 95 % interval)", "", 0.6 + BAND * len(points)
    )
    axes.axvline(0, color=GREY, linewidth=0.6)
    for place, point in enumerate(points):
        shown = point.verdict is not None and point.verdict.differs
        look = _mark(point.row.method) | ({} if shown else {"color": GREY, "markerfacecolor": "white"})
        axes.hlines(place, *_ends(point.row, "diff_dense"), linewidth=0.9, colors=look["color"])  # type: ignore[arg-type]
        axes.plot([point.row.diff_dense or 0.0], [place], **look)
    axes.set_yticks(range(len(points)), [p.row.label for p in points])
    axes.tick_params(axis="y", length=0)
    return figure


def saved(group: Group) -> Figure | None:
    """Time saved against GMACs saved; on the dashed line all of it came true."""

    def at(point: Point) -> tuple[float, float]:
        return 100 * (point.saved or 0.0), 100 * (point.time_saved or 0.0)

    points = _fewer([p for p in _ok(group) if p.saved is not None and p.time_saved is not None], MOST_POINTS)
    if not points:
        return None
    figure, axes = _figure("GMAC saved, %", "time saved, %")
    most = max(at(p)[0] for p in points)
    axes.plot([0, most], [0, most], color=GREY, linewidth=0.6, dashes=(4, 3))
    _lines(axes, group, points, at)
    for method, members in _by_method(points).items():
        timed = [(at(p)[0], p.row.speedup_low, p.row.speedup_high) for p in members]
        _bars(axes, method, [(x, 100 - 100 / low, 100 - 100 / high) for x, low, high in timed if low and high])
        _marks(axes, method, [at(p) for p in members])
    _legend(axes, _by_method(points))
    return figure


def tokens(group: Group) -> Figure | None:
    """Tokens after each block, the mean over images."""
    points = _fewer([p for p in _ok(group) if p.row.tokens_mean], MOST_BANDS)
    if not points:
        return None
    figure, axes = _figure("block", "tokens after it")
    for point in points:
        left = [float("nan") if n is None else n for n in point.row.tokens_mean or ()]
        axes.step(range(len(left)), left, where="post", linewidth=0.9, alpha=0.8, color=style.colour(point.row.method))
        axes.plot([len(left) - 1], left[-1:], **_mark(point.row.method))
    axes.set_ylim(bottom=0)
    _legend(axes, _by_method(points))
    return figure


def _printed(point: Point) -> list[float]:
    """The published accuracies that may stand beside a measured one."""
    found = [made.reported.top1 for made in published.compared(point.row) if not made.hinders]
    return [top1 for top1 in found if top1 is not None]


def _ok(group: Group) -> list[Point]:
    return [p for p in group.points if p.row.status == "ok"]


def _fewer(points: list[Point], most: int) -> list[Point]:
    return sorted(points, key=lambda p: not p.fronts)[:most] if len(points) > most else points


def _by_method(points: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.row.method, []).append(point)
    return found


def _figure(x: str, y: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y" if y else "x", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _lines(axes: Axes, group: Group, points: Sequence[Point], at: Callable[[Point], tuple[float, float]]) -> None:
    """A line through the settings of each series."""
    drawn = {id(point) for point in points}
    for line in group.joined():
        places = [at(p) for p in line if id(p) in drawn]
        if places:
            colour = style.colour(line[0].row.method)
            axes.plot(*zip(*places, strict=True), linewidth=0.8, alpha=0.5, zorder=2, color=colour)


def _ends(row: Row, name: str) -> tuple[float | None, float | None]:
    """The interval of a metric."""
    return row.metrics.get(f"{name}_low"), row.metrics.get(f"{name}_high")


def _bars(axes: Axes, method: str, bars: Sequence[tuple[float, float | None, float | None]]) -> None:
    known = [bar for bar in bars if None not in bar]
    if known:
        x, low, high = zip(*known, strict=True)
        axes.vlines(x, low, high, linewidth=0.6, alpha=0.5, colors=style.colour(method))  # type: ignore[arg-type]


def _marks(axes: Axes, method: str, places: Sequence[tuple[float, float]], **look: Any) -> None:
    if places:
        axes.plot(*zip(*places, strict=True), zorder=4, **_mark(method) | look)


def _mark(method: str) -> dict[str, Any]:
    marker, size = style.SHAPES[style.marker(method)][0], 8 if method == "dense" else 4.5
    look = {"marker": marker, "markersize": size, "markeredgewidth": 0.5, "linestyle": "none"}
    return {"color": style.colour(method), **look}


def _legend(axes: Axes, methods: Iterable[str], hollow: bool = False) -> None:
    handles = [Line2D([], [], label=name, **_mark(name)) for name in dict.fromkeys(methods)]
    if hollow:
        look: dict[str, Any] = _mark("") | {"marker": "o", "color": GREY, "fillstyle": "none"}
        handles.append(Line2D([], [], label="published", **look))
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 4, "frameon": False}
    axes.legend(handles=handles, fontsize=7, handletextpad=0.1, **place)


def _undated(kind: str) -> dict[str, Any]:
    """Metadata that makes the same rows the same file."""
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
