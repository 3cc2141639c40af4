"""Rows as one page that opens offline: everything is inside, and nothing from a row can run.

What is a judgement (fronts, verdicts, break-even, what differs from a paper) is made in `groups` and `published` and
said in `texts` and `answers`; the page's script only chooses, sorts and draws.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from tokenbench.core import cache
from tokenbench.errors import UsageError
from tokenbench.measure.verdicts import MARGIN, break_even
from tokenbench.reports import cells, published, style
from tokenbench.reports.groups import Group, Point, combined, grouped, names
from tokenbench.reports.page import budgets, pairs, spent, texts
from tokenbench.reports.page.charts import CONFIG, charts
from tokenbench.runs.axes import AXES, measured
from tokenbench.runs.conditions import grouped as grouped_by
from tokenbench.runs.conditions import setting
from tokenbench.runs.environment import version
from tokenbench.runs.row import Row
from tokenbench.tasks import parts_of
from tokenbench.tasks.base import PAIRED, Metric

NAME = "index.html"
SCRIPTS = ("rows", "answer", "charts", "labels", "compare", "tables", "start")  # in `templates`, in order
BUNDLE = "import sys, vl_convert; sys.stdout.buffer.write(vl_convert.javascript_bundle().encode())"
LONG = 100  # rows, from which on a column of one value has no places
DIGITS = 6  # of a number in the page; all of them are in tables/results.csv
FIELDS = (
    *("method", "label", "status", "reason", "batch", "images", "gmacs", "params_m"),
    *("images_per_s", "speedup", "speedup_low", "speedup_high", "latency_p10", "latency_p50", "latency_p90"),
    *("reduction_share", "runs", "spread", "peak_memory_mb", "joules", "tokens_mean", "tokens_std"),
)


def write(
    rows: Sequence[Row], folder: Path, maps: str = "", margin: float = MARGIN, file: pairs.Of | None = None
) -> Path:
    """Write `index.html` to `folder`, which is there, and return its path; see `page`."""
    path = folder / NAME
    path.write_text(page(rows, maps, margin, file), encoding="utf-8")
    return path


def page(rows: Sequence[Row], maps: str = "", margin: float = MARGIN, file: pairs.Of | None = None) -> str:
    """The page of some rows as text.

    Args:
        rows: at least one.
        maps: a fragment of HTML to take in as it is, with its own scripts and styles; from `reports.viewer`.
        margin: see `verdicts.judge`.
        file: gives the results file of a row, beside which its predictions lie; without, rows are not paired.

    Raises:
        UsageError: there are no rows.
    """
    rows = list(rows)
    if not rows:
        raise UsageError("There are no rows to report; run `tokenbench run` first, or give another results file.")
    groups = grouped(rows, margin)
    methods = sorted({row.method for row in rows}, key=lambda name: (name != "dense", name))
    loader = PackageLoader("tokenbench.reports.page")
    environment = Environment(loader=loader, autoescape=True)
    css = loader.get_source(environment, "report.css")[0]
    parts = [loader.get_source(environment, f"{name}.js")[0] for name in SCRIPTS]
    own = '"use strict";\n(() => {\n' + "\n".join(parts) + "})();\n"
    scripts = [Markup(script) for script in (runtime(), own) if script is not None]
    trusted = [*scripts, *re.findall(r"<script[^>]*>(.*?)</script>", maps, re.DOTALL)]
    return environment.get_template("report.html.j2").render(
        title=f"tokenbench: {', '.join(dict.fromkeys(row.backbone for row in rows))}",
        css=Markup(css),
        methods=[_method(name) for name in methods],
        scripts=scripts,
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in trusted),
        data=Markup(_json(_data(rows, groups, methods, margin, file))),
        maps=Markup(maps),
        axes=measured(rows),
        of_speed=cells.of_speed(rows),
    )


@functools.cache
def runtime() -> str | None:
    """Vega, Vega-Lite and Vega-Embed as one script, from the vl-convert-python package; None where that cannot start.

    Its JavaScript engine takes seconds to bundle them, so the script is kept (`core.cache`). It reserves more address
    space than some machines allow (`ulimit -v`) and ends the process that it is in, so it has one of its own.
    """
    return cache.text(f"vega-{version('vl-convert-python')}.js", _bundle)


def _bundle() -> str | None:
    done = subprocess.run([sys.executable, "-P", "-c", BUNDLE], capture_output=True)
    return done.stdout.decode().replace("</script", r"<\/script") if done.returncode == 0 else None


def _data(
    rows: Sequence[Row], groups: Sequence[Group], methods: Sequence[str], margin: float, file: pairs.Of | None
) -> dict[str, Any]:
    points = [(g, point) for g, group in enumerate(groups) for point in group.points]
    sweeps = _sweeps(rows)
    named = {name: text for group in groups for name, text in _names(group).items()}
    series: dict[str, int] = {}
    together = combined(groups)
    across = {id(point.row): point.fronts for group in together for point in group.points}
    places = {id(point.row): i for i, (_, point) in enumerate(points)}
    others = {metric.name: metric for group in groups for metric in group.metrics[1:]}
    records = [
        {
            **{name: getattr(p.row, name) for name in FIELDS},
            **_scores(p.row, groups[g].metrics, others),
            **{"id": p.row.id, "group": g, "backbone": p.row.backbone, "name": named[id(p.row)]},
            **{"trained": f"{p.row.trained.name} ({p.row.trained.hash})" if p.row.trained else None},
            "budget_images": p.row.budget.images if p.row.budget else None,
            **{"series": series.setdefault(f"{g} {p.series}", len(series)), "knob": p.knob},
            **{"saved": p.saved, "differs": p.verdict.differs if p.verdict else None, **_time_saved(p)},
            "last_tokens": p.row.tokens_mean[-1] if p.row.tokens_mean else None,
            **spent.columns(p.row),
            **{"fronts": [axis.field for axis in AXES if axis.field in p.fronts]},
            "fronts_across": [axis.field for axis in AXES if axis.field in across.get(id(p.row), ())],
            **sweeps[id(p.row)],
            **dict.fromkeys((f"t_{name}" for name in others), cells.MISSING),
            **texts.of(p, groups[g].dense),
        }
        for g, p in points
    ]
    parts = next((found for group in groups if (found := parts_of(group.first.task))), ())
    named_groups = [*names(groups), *(f"{name} · together" for name in names(together))]
    axes = measured(rows)
    unknown = {axis.field for axis in AXES} - {axis.field for axis in axes}
    rare = unknown | {f"t_{name}" for name in unknown}
    columns = {name: _packed([_short(record[name]) for record in records]) for name in records[0] if name not in rare}
    return {
        "count": len(records),
        "columns": columns,
        "groups": [
            {
                "name": name,
                "conditions": group.conditions,
                "environment": group.environment,
                "subset": group.subset,
                "images": group.images,
                "metric": _metric(group.metrics[0]),
                "notes": group.notes,
                "keys": spent.keys(p.row for p in group.points),
                "members": group.members or [i],
                "answers": budgets.of(group, margin, places),
            }
            for i, (name, group) in enumerate(zip(named_groups, [*groups, *together], strict=True))
        ],
        **pairs.of(groups, places, file, margin),
        "cells": [
            vars(column)
            for column in cells.columns([groups[0].metrics[0], *others.values()], parts)
            if column.field not in rare
        ],
        "published": [_compared(i, c) for i, (_, p) in enumerate(points) for c in _comparisons(p.row)],
        "charts": {name: vars(chart) for name, chart in charts(methods, spent.colours(rows), axes).items()},
        "axes": [vars(axis) for axis in axes],
        "config": CONFIG,
        "methods": [_method(name) for name in methods],
    }


def _scores(row: Row, metrics: Sequence[Metric], others: Iterable[str]) -> dict[str, float | None]:
    """The task's main metric as `score`, what was paired with dense, and the other metrics under their names."""
    main, ends = metrics[0].name, ("", "_low", "_high")
    found = {f"score{end}": row.metrics.get(f"{main}{end}") for end in ends}
    return found | {name: row.metrics.get(name) for name in (*PAIRED, *others)}


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        **{"name": metric.name, "heading": metric.heading, "axis": metric.axis, "digits": metric.digits},
        **{
            "noun": metric.noun,
            "short": metric.short,
            "points": metric.points,
            "sign": metric.sign,
            "shown": metric.shown,
        },
    }


def _method(name: str) -> dict[str, str]:
    light = style.colour(name)
    return {
        "name": name,
        "light": light,
        "dark": style.ON_DARK.get(light, light),
        "outline": style.SHAPES[style.marker(name)][1],
    }


def _time_saved(point: Point) -> dict[str, float | None]:
    if point.time_saved is None:
        return dict.fromkeys(("time_saved", "time_saved_low", "time_saved_high"))
    low, high = (None if not s else 1 - 1 / s for s in (point.row.speedup_low, point.row.speedup_high))
    return {"time_saved": point.time_saved, "time_saved_low": low, "time_saved_high": high}


def _sweeps(rows: Sequence[Row]) -> dict[int, dict[str, int | None]]:
    """By `id(row)`: the number of its batch sweep, and from which batch on its setting is no slower than dense."""
    found: dict[int, dict[str, int | None]] = {}
    for number, members in enumerate(grouped_by(rows, "batch").values()):
        speedups: dict[Any, dict[int, float]] = defaultdict(dict)
        for row in members:
            if row.status == "ok" and row.speedup is not None:
                speedups[setting(row)][row.batch] = row.speedup
        evens = {one: break_even(by_batch) for one, by_batch in speedups.items()}
        for row in members:
            found[id(row)] = {"sweep": number, "break_even": evens.get(setting(row))}
    return found


def _names(group: Group) -> dict[int, str]:
    """By `id(row)`: the label, and whether trained; of several trained for one setting also by which weights."""
    count = Counter(p.row.label for p in group.points if p.row.trained)
    found = {}
    for row in (p.row for p in group.points):
        which = f", {row.trained.hash}" if row.trained and count[row.label] > 1 else ""
        found[id(row)] = f"{row.label} (trained{which})" if row.trained else row.label
    return found


def _comparisons(row: Row) -> list[published.Comparison]:
    return published.compared(row) if row.status == "ok" else []


def _compared(index: int, made: published.Comparison) -> dict[str, Any]:
    return {
        "row": index,
        "published_top1": None if made.hinders else made.reported.top1,  # to be drawn beside the measured one
        "inside": made.inside,
        **texts.compared(made),
    }


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return [_short(inner) for inner in value] if isinstance(value, list) else value


def _packed(values: list[Any]) -> dict[str, Any]:
    """A column, each value once and its places where that is shorter, or one value for all."""
    keys = [json.dumps(value) if isinstance(value, list) else (type(value), value) for value in values]
    once = dict(zip(keys, values, strict=True))
    if 2 * len(once) > len(keys):
        return {"values": values}
    if len(once) == 1 and len(keys) > LONG:
        return {"values": [*once.values()], "same": True}
    places = {key: i for i, key in enumerate(once)}
    return {"values": list(once.values()), "at": [places[key] for key in keys]}


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no tag and no comment can begin in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
