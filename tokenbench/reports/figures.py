"""The charts as figures for a paper: matplotlib, one column wide, the same colours and markers as everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tokenbench.errors import ResultsError
from tokenbench.reports import published, style
from tokenbench.reports.groups import Group, Point, grouped
from tokenbench.reports.pareto import AXES, Axis
from tokenbench.results import Row

WIDTH = 3.5  # inches: one column of two
HEIGHT = 2.6
BAND = 0.2  # inches a setting, where each has a line of its own
MOST_GROUPS = 6
MOST_BANDS = 40
KINDS = ("svg", "png", "pdf")
PALE = 0.3
GREY = "#8a8a8a"


@dataclass(frozen=True)
class Drawn:
    """The files of a report's figures, and what was left out, in words."""

    files: list[Path]
    left_out: str | None


def write(rows: Sequence[Row], folder: Path, kinds: Sequence[str] = KINDS) -> Drawn:
    """Write the figures of each group of rows to `folder`/figures: `accuracy_gmac.svg` and so on.

    Figures of the second group and those after it end in its number. Only the six largest groups are drawn, and of
    more than forty settings, in figures with a line for each, those on a front and then the first.

    Raises:
        ResultsError: the folder cannot be written.
    """
    groups = sorted(grouped(rows), key=lambda group: -sum(p.row.top1 is not None for p in group.points))
    out = folder / "figures"
    files: list[Path] = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(style.PAPER | {"svg.hashsalt": "tokenbench"}):  # type: ignore[arg-type]
            for number, group in enumerate(groups[:MOST_GROUPS], 1):
                for name, figure in figures(group):
                    whole = figure.get_tightbbox().padded(0.03)
                    stem = name if number == 1 else f"{name}-{number}"
                    for kind in kinds:
                        path = out / f"{stem}.{kind}"
                        figure.savefig(path, dpi=300, bbox_inches=whole, metadata=_undated(kind))
                        files.append(path)
    except OSError as error:
        raise ResultsError(
            f"The figures cannot be written to {out} ({error.strerror}); give another --output."
        ) from None
    more = len(groups) - MOST_GROUPS
    return Drawn(files, f"figures of {more} more sets of conditions were left out" if more > 0 else None)


def figures(group: Group) -> Iterator[tuple[str, Figure]]:
    """The figures of a group by name, where there is something to draw."""
    kinds: list[tuple[str, Callable[[Group], Figure | None]]] = [
        *((f"accuracy_{axis.short.replace('/', '_per_').lower()}", partial(accuracy, axis=axis)) for axis in AXES),
        ("differences", differences),
        ("gmac_time", saved),
        ("tokens", tokens),
    ]
    for name, draw in kinds:
        figure = draw(group)
        if figure is not None:
            yield name, figure


def accuracy(group: Group, axis: Axis = AXES[0]) -> Figure | None:
    """Top-1 against a cost: the front, lines through settings, published values hollow."""
    points = [p for p in _ok(group) if p.row.top1 is not None and getattr(p.row, axis.field)]
    if not points:
        return None

    def at(point: Point) -> float:
        return float(getattr(point.row, axis.field))

    def top1(point: Point) -> float:
        return point.row.top1 or 0.0

    figure, axes = _figure(axis.title, "top-1 accuracy, %")
    front = sorted((p for p in points if axis.field in p.fronts), key=at)
    steps: Any = "steps-pre" if axis.more_is_better else "steps-post"
    axes.plot([at(p) for p in front], [top1(p) for p in front], color="#d9d9d9", linewidth=3, ds=steps, zorder=1)
    for line in group.joined():
        drawn = [p for p in line if p in points]
        axes.plot([at(p) for p in drawn], [top1(p) for p in drawn], linewidth=0.8, alpha=0.5, zorder=2, **_ink(line[0]))
    for point in points:
        on_front = axis.field in point.fronts
        if on_front and point.row.top1_low is not None and point.row.top1_high is not None:
            axes.vlines(at(point), point.row.top1_low, point.row.top1_high, linewidth=0.6, alpha=0.5, **_inks(point))
        axes.plot([at(point)], [top1(point)], alpha=1 if on_front else PALE, zorder=4, **_mark(point))
        for reported in published.of(point.row):
            if reported.top1 is not None:
                axes.plot([at(point)], [reported.top1], fillstyle="none", zorder=3, **_mark(point, edge=True))
    _legend(axes, points, any(r.top1 is not None for p in points for r in published.of(p.row)))
    return figure


def differences(group: Group) -> Figure | None:
    """Top-1 minus dense with its paired 95 % interval; hollow and grey where that holds 0."""
    points = [p for p in _ok(group) if p.row.diff_dense is not None and p.inside_noise is not None]
    points = sorted(_fewer(points), key=lambda p: p.row.diff_dense or 0.0)
    if not points:
        return None
    figure, axes = _figure("top-1 minus dense, points (paired 95 % interval)", "", 0.6 + BAND * len(points))
    axes.axvline(0, color=GREY, linewidth=0.6)
    for place, point in enumerate(points):
        look = {**_mark(point), **({"color": GREY, "markerfacecolor": "white"} if point.inside_noise else {})}
        axes.hlines(place, point.row.diff_dense_low, point.row.diff_dense_high, linewidth=0.9, colors=look["color"])  # type: ignore[arg-type]
        axes.plot([point.row.diff_dense or 0.0], [place], **look)
    axes.set_yticks(range(len(points)), [p.row.label for p in points])
    axes.tick_params(axis="y", length=0)
    return figure


def saved(group: Group) -> Figure | None:
    """Time saved against GMACs saved; on the dashed line all of it came true."""
    points = [p for p in _ok(group) if p.saved is not None and p.time_saved is not None]
    if not points:
        return None
    figure, axes = _figure("GMAC saved, %", "time saved, %")
    most = max(p.saved or 0.0 for p in points)
    axes.plot([0, 100 * most], [0, 100 * most], color=GREY, linewidth=0.6, dashes=(4, 3))
    for line in group.joined():
        drawn = [p for p in line if p in points]
        places = [100 * (p.saved or 0.0) for p in drawn]
        axes.plot(places, [100 * (p.time_saved or 0.0) for p in drawn], linewidth=0.8, alpha=0.5, **_ink(line[0]))
    for point in points:
        row, x = point.row, 100 * (point.saved or 0.0)
        if row.speedup_low and row.speedup_high:
            axes.vlines(
                x, 100 - 100 / row.speedup_low, 100 - 100 / row.speedup_high, linewidth=0.6, alpha=0.5, **_inks(point)
            )
        axes.plot([x], [100 * (point.time_saved or 0.0)], zorder=4, **_mark(point))
    _legend(axes, points)
    return figure


def tokens(group: Group) -> Figure | None:
    """Tokens after each block, the mean over images."""
    points = _fewer([p for p in _ok(group) if p.row.tokens_mean])
    if not points:
        return None
    figure, axes = _figure("block", "tokens after it")
    for point in points:
        left = [float("nan") if n is None else n for n in point.row.tokens_mean or ()]
        axes.step(range(len(left)), left, where="post", linewidth=0.9, alpha=0.8, **_ink(point))
        axes.plot([len(left) - 1], left[-1:], **_mark(point))
    axes.set_ylim(bottom=0)
    _legend(axes, points)
    return figure


def _ok(group: Group) -> list[Point]:
    return [p for p in group.points if p.row.status == "ok"]


def _fewer(points: list[Point]) -> list[Point]:
    return sorted(points, key=lambda p: not p.fronts)[:MOST_BANDS] if len(points) > MOST_BANDS else points


def _figure(x: str, y: str, height: float = HEIGHT) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y" if y else "x", color="#e6e6e6", linewidth=0.5)
    axes.set_axisbelow(True)
    return figure, axes


def _ink(point: Point) -> dict[str, Any]:
    return {"color": style.colour(point.row.method)}


def _inks(point: Point) -> dict[str, Any]:
    return {"colors": style.colour(point.row.method)}


def _mark(point: Point, edge: bool = False) -> dict[str, Any]:
    method = point.row.method
    shape = {"marker": style.SHAPES[style.marker(method)][0], "markersize": 8 if method == "dense" else 4.5}
    return {**_ink(point), **shape, "linestyle": "none", "markeredgewidth": 0.8 if edge else 0.5}


def _legend(axes: Axes, points: Sequence[Point], hollow: bool = False) -> None:
    first = {p.row.method: p for p in reversed(points)}
    handles = [Line2D([], [], label=name, **_mark(first[name])) for name in dict.fromkeys(p.row.method for p in points)]
    if hollow:
        look: dict[str, Any] = {"marker": "o", "markersize": 4.5, "fillstyle": "none", "linestyle": "none"}
        handles.append(Line2D([], [], label="published", color=GREY, **look))
    axes.legend(
        handles=handles,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=4,
        frameon=False,
        fontsize=7,
        handletextpad=0.1,
    )


def _undated(kind: str) -> dict[str, Any]:
    """Metadata that makes the same rows the same file."""
    return {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
