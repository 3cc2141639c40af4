"""The charts of the page, as Vega-Lite.

They hold no data: the page gives each the rows of the chosen conditions (`rows`, and `published`; in a panel of one
method the rest as `others`; `budget`, the line that must be kept to), with the columns of `html` and `texts` (`t_…`).
Names beside points are the page's own. The layer `points` is what the keyboard reaches. Colours are the page's own
variables, so that light, dark and print need no second drawing. What the task measures is written `{axis}`,
`{heading}`, `{short}` and `{points}`, which the page fills in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tokenbench.reports import style
from tokenbench.reports.page.marks import Encoding, Mark, data, layered, name, number
from tokenbench.runs.axes import AXES, Axis

BAND = 24  # pixels
HOVER = {
    "t_score": "{heading}",
    "t_diff": "difference from dense",
    "t_verdict": "verdict",
    "t_gmacs": "GMAC",
    "t_speed": "img/s",
    "t_speedup": "speed-up",
    "t_latency": "ms a batch",
    "t_images": "images",
    "t_timed": "timed rounds",
}
POINTS = {"name": "points"}
EXTREMES = (("max", "most"), ("min", "least"))
INK, FAINT, LINE, ACCENT = "var(--ink)", "var(--faint)", "var(--line)", "var(--accent)"


@dataclass(frozen=True)
class Chart:
    """One place of the page: a specification for each of its axes, and what must have been measured to draw it."""

    specs: dict[str, dict[str, Any]]  # by the name of the axis; "" where there is only one
    needs: tuple[str, ...]  # columns of which some row must have all
    banded: bool = False  # a line a setting, so that the page multiplies the height by their number


def charts(methods: Sequence[str], colours: Mapping[str, int], axes: Sequence[Axis] = AXES) -> dict[str, Chart]:
    """Every chart of the page, for rows of these methods, by the name of its place; `colours` are those of parts."""
    look = _Look(methods, colours)
    return {
        "accuracy": Chart({axis.field: look.accuracy(axis) for axis in axes}, ("score",)),
        "differences": Chart({"": look.differences()}, ("diff_dense", "diff_dense_low"), banded=True),
        "saved": Chart({"": look.saved()}, ("saved", "time_saved")),
        "batches": Chart({"": look.batches()}, ("speedup",)),
        "tokens": Chart({"": look.tokens()}, ("tokens_mean",)),
        "time": Chart({"": look.parts("times")}, ("times",), banded=True),
        "parts": Chart({"": look.parts("parts")}, ("parts",), banded=True),
    }


CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": FAINT, "titleColor": INK, "gridColor": LINE, "domainColor": FAINT, "tickColor": FAINT},
        **{
            "labelFontSize": 12,
            "titleFontSize": 13,
            "titleFontWeight": "normal",
            "labelPadding": 6,
            "titlePadding": 12,
        },
        **{"gridOpacity": 0.6, "domain": False, "ticks": False},
    },
    "text": {"color": INK, "fontSize": 12},
}


class _Look:
    """Encodings that all charts share."""

    def __init__(self, methods: Sequence[str], parts: Mapping[str, int]) -> None:
        names = list(methods)
        self.parts_of = parts
        colours = [f"var(--method-{i})" for i in range(len(names))]
        shapes = [style.SHAPES[style.marker(method)][1] for method in names]
        self.colour = _scaled("method", names, colours)
        self.shape = _scaled("method", names, shapes)

    def accuracy(self, axis: Axis) -> dict[str, Any]:
        """Accuracy against a cost: the front, lines through settings, intervals, published values hollow."""
        on_front, measured = f"datum.front_{axis.field}", f"isValid(datum.{axis.field})"
        good = f"datum.status == 'ok' && isValid(datum.score) && {measured}"
        base, others = data("rows").where(good), data("others").where(good)
        printed = data("published").where(
            f"isValid(datum.published_top1) && datum.published_top1 >= datum.floor && {measured}"
        )
        x = number(axis.field, title=_direction(axis), scale=_loose(24), axis={"grid": False, "tickCount": 8})
        y = number("drawn", title="{axis}", scale=_loose(14), axis={"tickCount": 7})
        low, published = number("score_low", scale=_loose(14)), number("published_top1", scale=_loose(14))
        steps = "step-before" if axis.more_is_better else "step-after"
        dense, bests = "datum.method == 'dense'", f"{on_front} || datum.method == 'dense'"
        sizes = {"condition": [{"test": dense, "value": 260}, {"test": on_front, "value": 115}], "value": 60}
        own = f"{on_front} && datum.drawn == datum.score"
        sure = f"{on_front} && isValid(datum.score_low) && datum.drawn == datum.score"
        through = {"detail": name("series"), "order": number("knob")}
        hover = _hover({"t_published": "published top-1 %", "t_why": "what differs"})
        return layered(
            others.mark("point", filled=True, shape="circle", size=22, color=LINE, opacity=1).encode(x=x, y=y),
            *_budget(),
            base.where(own).mark("line", interpolate=steps, color=FAINT, strokeWidth=5, opacity=0.22).encode(x=x, y=y),
            base.where("isValid(datum.knob)")
            .mark("line", strokeWidth=1.25, opacity=0.35)
            .encode(x=x, y=y, color=self.colour, **through),
            base.where(sure)
            .mark("rule", opacity=0.45)
            .encode(x=x, y=low, y2={"field": "score_high"}, color=self.colour),
            printed.mark("point", filled=False, strokeWidth=1.5, opacity=0.9).encode(
                x=x,
                y=published,
                stroke=self.colour,
                shape=self.shape,
                size=_either(dense, {"value": 260}, 115),
                tooltip=hover,
            ),
            base.mark("point", strokeWidth=1.5, opacity=1, fillOpacity=1).encode(
                x=x,
                y=y,
                stroke=self.colour,
                fill=_either(bests, self.colour, "var(--page)"),
                shape=self.shape,
                size=sizes,
                tooltip=_hover(HOVER),
            )
            | POINTS,
            height=420,
        )

    def differences(self) -> dict[str, Any]:
        """Top-1 minus dense with its paired interval; hollow and grey where no difference is shown."""
        base = data("rows").where("datum.method != 'dense' && isValid(datum.diff_dense)")
        y = _settings("diff_dense", "descending")
        axis = {"tickCount": 8, "format": "+~g"}
        x = number("diff_dense", title="{short} minus dense, {points}", axis=axis)
        low, high = number("diff_dense_low"), {"field": "diff_dense_high"}
        told = _either("datum.differs", self.colour, FAINT)
        return layered(
            data(values=[{"x": 0}]).mark("rule", color=FAINT).encode(x=number("x")),
            base.mark("rule", strokeWidth=1.5).encode(y=y, x=low, x2=high, color=told),
            base.mark("point", fillOpacity=1, strokeWidth=1.5, size=70, opacity=1).encode(
                x=x,
                y=y,
                shape=self.shape,
                stroke=told,
                fill=_either("datum.differs", self.colour, "var(--page)"),
                tooltip=_hover({"t_diff": HOVER["t_diff"], "t_p": "p, alone", **HOVER}),
            )
            | POINTS,
            height=BAND,
        )

    def saved(self) -> dict[str, Any]:
        """How much of the GMACs saved came true as time; on the diagonal all of it did."""
        base = data("rows").where("isValid(datum.saved) && isValid(datum.time_saved)")
        x = number("saved", title="GMAC saved", axis={"format": "%", "tickCount": 6, "grid": False})
        y = number("time_saved", title="time saved", axis={"format": "%", "tickCount": 6})
        low, high = number("time_saved_low"), {"field": "time_saved_high"}
        ends = number("ends")
        told = {"t_saved": "GMAC saved", "t_time_saved": "time saved", "t_came_true": "came true"}
        return layered(
            base.then(aggregate=[{"op": op, "field": "saved", "as": to} for op, to in EXTREMES])
            .then(calculate="[min(0, datum.least), datum.most]", **{"as": "ends"})
            .then(flatten=["ends"])
            .mark("line", color=FAINT, strokeDash=[4, 4], strokeWidth=1)
            .encode(x=ends, y=ends),
            base.where("isValid(datum.time_saved_low)")
            .mark("rule", opacity=0.4)
            .encode(x=x, y=low, y2=high, color=self.colour),
            base.mark("line", opacity=0.4, strokeWidth=1.5).encode(
                x=x, y=y, color=self.colour, detail=name("series"), order=number("knob")
            ),
            base.mark("point", filled=True, opacity=1, size=95).encode(
                x=x, y=y, color=self.colour, shape=self.shape, tooltip=_hover({**told, **HOVER})
            )
            | POINTS,
            height=340,
        )

    def batches(self) -> dict[str, Any]:
        """Speed-up by batch size; a ring where a setting breaks even: slower before, no slower from there on."""
        base = data("rows").where("datum.method != 'dense' && isValid(datum.speedup)")
        others = data("others").where("isValid(datum.speedup)")
        x = {"field": "batch", "type": "ordinal", "title": "batch", "axis": {"labelAngle": 0}}
        y = number("speedup", title="speed-up over fused dense", scale=_loose(10), axis={"tickCount": 6})
        low, high = number("speedup_low", scale=_loose(10)), {"field": "speedup_high"}
        hover = _hover({"batch": "batch", "t_even": "no slower from batch", **HOVER})
        each = name("name")
        return layered(
            others.mark("line", color=LINE, strokeWidth=1).encode(x=x, y=y, detail=each),
            data(values=[{"y": 1}]).mark("rule", color=FAINT, strokeDash=[4, 4]).encode(y=number("y")),
            base.where("isValid(datum.speedup_low)")
            .mark("rule", opacity=0.3)
            .encode(x=x, y=low, y2=high, color=self.colour),
            base.mark("line", strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=self.colour, detail=each),
            base.where("datum.batch == datum.break_even && datum.crossed")
            .mark("point", shape="circle", filled=False, size=320, color=INK, strokeWidth=1.25, opacity=1)
            .encode(x=x, y=y),
            base.mark("point", filled=True, opacity=1, size=80).encode(
                x=x, y=y, color=self.colour, shape=self.shape, tooltip=hover
            ),
            height=340,
        )

    def tokens(self) -> dict[str, Any]:
        """Tokens after each block, with a band of one standard deviation where images differ."""
        told = ["tokens_mean", "tokens_low", "tokens_high", "blocks"]
        base = (
            data("rows")
            .where("datum.status == 'ok' && isValid(datum.tokens_mean)")
            .then(flatten=told, **{"as": ["tokens", "low", "high", "block"]})
        )
        others = (
            data("others")
            .where("isValid(datum.tokens_mean)")
            .then(flatten=["tokens_mean", "blocks"], **{"as": ["tokens", "block"]})
        )
        x = number("block", title="block", axis={"format": "d", "tickMinStep": 1, "grid": False})
        y = number("tokens", title="tokens after it, prefix included")
        low, high, each = number("low"), {"field": "high"}, name("name")
        hover = _hover({"block": "after block", "t_tokens": "tokens by block"})
        return layered(
            others.mark("line", interpolate="step-after", color=LINE, strokeWidth=1).encode(x=x, y=y, detail=each),
            base.mark("area", opacity=0.15).encode(x=x, y=low, y2=high, color=self.colour, detail=each),
            base.mark("line", interpolate="step-after", strokeWidth=1.75, opacity=0.75).encode(
                x=x, y=y, color=self.colour, detail=each
            ),
            base.mark("point", filled=True, size=40, opacity=1).encode(
                x=x, y=y, color=self.colour, shape=self.shape, tooltip=hover
            ),
            height=320,
        )

    def parts(self, of: Literal["parts", "times"]) -> dict[str, Any]:
        """A bar a setting, of the parts that its row names: GMACs, or milliseconds of a batch."""
        title = "GMAC an image" if of == "parts" else "median milliseconds of a batch"
        hover = {"t_gmacs": "GMAC", "t_parts": "by part"}
        if of == "times":
            hover = {"t_latency": HOVER["t_latency"], "t_times": "by part", "t_timed": HOVER["t_timed"]}
        domain = list(self.parts_of)
        colours = [f"var(--part-{colour})" for colour in self.parts_of.values()]
        bars = (
            data("rows")
            .where(f"isValid(datum.{of})")
            .then(flatten=[of, f"{of}_of"], **{"as": ["part", "spent"]})
            .then(calculate=f"indexof({domain}, datum.part)", **{"as": "place"})
        )
        return layered(
            bars.mark("bar", height=14).encode(
                x=number("spent", title=title, axis={"tickCount": 6}),
                y=_settings("index"),
                color=_scaled("part", domain, colours),
                order=number("place"),
                tooltip=_hover(hover),
            ),
            height=BAND,
        )


def _budget() -> list[Mark]:
    """The line that must be kept to, across or upright; out of the chart it is not drawn."""
    x, y, label = number("x", scale=_loose(24)), number("y", scale=_loose(14)), name("label")
    upright, across = (data("budget").where(f"isValid(datum.{way})") for way in "xy")
    look: Encoding = {"color": ACCENT, "strokeDash": [5, 4], "strokeWidth": 1.25}
    words: Encoding = {"color": ACCENT, "fontSize": 11, "align": "left"}
    marks = [
        upright.mark("rule", **look).encode(x=x),
        across.mark("rule", **look).encode(y=y),
        upright.mark("text", **words, dx=4, dy=8).encode(x=x, y={"value": 0}, text=label),
        across.mark("text", **words, dx=4, dy=-6).encode(x={"value": 0}, y=y, text=label),
    ]
    return [mark | {"name": f"budget_{i}"} for i, mark in enumerate(marks)]  # names of points keep clear of them


def _scaled(field: str, domain: Sequence[str], values: Sequence[str]) -> Encoding:
    """A value each; no legends: the page has them."""
    return name(field, scale={"domain": [*domain], "range": [*values]}, legend=None)


def _either(test: str, then: Encoding, otherwise: object) -> Encoding:
    return {"condition": {"test": test, **then}, "value": otherwise}


def _settings(field: str, way: Literal["ascending", "descending"] = "ascending") -> Encoding:
    """A band a setting, its label on the left."""
    axis = {"labelLimit": 190, "labelColor": INK, "grid": False}
    return name("name", title=None, sort={"field": field, "op": "min", "order": way}, axis=axis)


def _hover(texts: dict[str, str]) -> list[Encoding]:
    return [name("name", title="setting"), *(name(field, title=title) for field, title in texts.items())]


def _loose(pixels: int) -> Encoding:
    return {"zero": False, "nice": False, "padding": pixels}


def _direction(axis: Axis) -> str:
    return f"{axis.title} ({'more' if axis.more_is_better else 'less'} is better)"
