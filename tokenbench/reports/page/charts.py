"""The charts of the page, as Vega-Lite made with Altair.

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

import altair as alt

from tokenbench.reports import style
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
        shapes = [style.SHAPES[style.marker(name)][1] for name in names]
        scale = alt.Scale(domain=names, range=colours)  # no legends: the page has them
        self.colour = alt.Color("method:N", scale=scale, legend=None)
        self.stroke = alt.Stroke("method:N", scale=scale, legend=None)
        self.fill = alt.Fill("method:N", scale=scale, legend=None)
        self.shape = alt.Shape("method:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
        self.size = alt.condition("datum.method == 'dense'", alt.value(260), alt.value(115))

    def accuracy(self, axis: Axis) -> dict[str, Any]:
        """Accuracy against a cost: the front, lines through settings, intervals, published values hollow."""
        on_front = f"datum.front_{axis.field}"
        base = alt.Chart(alt.NamedData("rows")).transform_filter(
            f"datum.status == 'ok' && isValid(datum.score) && isValid(datum.{axis.field})"
        )
        x = alt.X(f"{axis.field}:Q", title=_direction(axis), scale=_loose(24), axis=alt.Axis(grid=False, tickCount=8))
        y = alt.Y("drawn:Q", title="{axis}", scale=_loose(14), axis=alt.Axis(tickCount=7))
        front = base.transform_filter(f"{on_front} && datum.drawn == datum.score").mark_line(
            interpolate="step-before" if axis.more_is_better else "step-after", color=FAINT, strokeWidth=5, opacity=0.22
        )
        lines = base.transform_filter("isValid(datum.knob)").mark_line(strokeWidth=1.25, opacity=0.35)
        intervals = base.transform_filter(
            f"{on_front} && isValid(datum.score_low) && datum.drawn == datum.score"
        ).mark_rule(opacity=0.45)
        points = base.mark_point(strokeWidth=1.5, opacity=1, fillOpacity=1)
        others = alt.Chart(alt.NamedData("others")).transform_filter(
            f"datum.status == 'ok' && isValid(datum.score) && isValid(datum.{axis.field})"
        )
        printed = alt.Chart(alt.NamedData("published")).transform_filter(
            f"isValid(datum.published_top1) && datum.published_top1 >= datum.floor && isValid(datum.{axis.field})"
        )
        bests = f"{on_front} || datum.method == 'dense'"
        return _spec(
            others.mark_point(filled=True, shape="circle", size=22, color=LINE, opacity=1).encode(x=x, y=y),
            *_budget(),
            front.encode(x=x, y=y),
            lines.encode(x=x, y=y, color=self.colour, detail="series:N", order="knob:Q"),
            intervals.encode(x=x, y=alt.Y("score_low:Q", scale=_loose(14)), y2="score_high:Q", color=self.colour),
            printed.mark_point(filled=False, strokeWidth=1.5, opacity=0.9).encode(
                x=x,
                y=alt.Y("published_top1:Q", scale=_loose(14)),
                stroke=self.stroke,
                shape=self.shape,
                size=self.size,
                tooltip=_hover({"t_published": "published top-1 %", "t_why": "what differs"}),
            ),
            points.encode(
                x=x,
                y=y,
                stroke=self.stroke,
                fill=alt.condition(bests, self.fill, alt.value("var(--page)")),
                shape=self.shape,
                size=alt.when("datum.method == 'dense'")
                .then(alt.value(260))
                .when(on_front)
                .then(alt.value(115))
                .otherwise(alt.value(60)),
                tooltip=_hover(HOVER),
            ).properties(name="points"),
            height=420,
        )

    def differences(self) -> dict[str, Any]:
        """Top-1 minus dense with its paired interval; hollow and grey where no difference is shown."""
        base = alt.Chart(alt.NamedData("rows")).transform_filter("datum.method != 'dense' && isValid(datum.diff_dense)")
        y = _settings("diff_dense", "descending")
        title = "{short} minus dense, {points}"
        told = alt.condition("datum.differs", self.colour, alt.value(FAINT))
        zero = alt.Chart(alt.Data(values=[{"x": 0}])).mark_rule(color=FAINT).encode(x="x:Q")
        x = alt.X("diff_dense:Q", title=title, axis=alt.Axis(tickCount=8, format="+~g"))
        return _spec(
            zero,
            base.mark_rule(strokeWidth=1.5).encode(
                y=y, x=alt.X("diff_dense_low:Q"), x2="diff_dense_high:Q", color=told
            ),
            base.mark_point(fillOpacity=1, strokeWidth=1.5, size=70, opacity=1)
            .encode(
                x=x,
                y=y,
                shape=self.shape,
                stroke=alt.condition("datum.differs", self.stroke, alt.value(FAINT)),
                fill=alt.condition("datum.differs", self.fill, alt.value("var(--page)")),
                tooltip=_hover({"t_diff": HOVER["t_diff"], "t_p": "p, alone", **HOVER}),
            )
            .properties(name="points"),
            height=BAND,
        )

    def saved(self) -> dict[str, Any]:
        """How much of the GMACs saved came true as time; on the diagonal all of it did."""
        base = alt.Chart(alt.NamedData("rows")).transform_filter("isValid(datum.saved) && isValid(datum.time_saved)")
        x = alt.X("saved:Q", title="GMAC saved", axis=alt.Axis(format="%", tickCount=6, grid=False))
        y = alt.Y("time_saved:Q", title="time saved", axis=alt.Axis(format="%", tickCount=6))
        ends = (
            base.transform_aggregate(most="max(saved)", least="min(saved)")
            .transform_calculate(ends="[min(0, datum.least), datum.most]")
            .transform_flatten(["ends"])
        )
        return _spec(
            ends.mark_line(color=FAINT, strokeDash=[4, 4], strokeWidth=1).encode(x="ends:Q", y="ends:Q"),
            base.transform_filter("isValid(datum.time_saved_low)")
            .mark_rule(opacity=0.4)
            .encode(x=x, y=alt.Y("time_saved_low:Q"), y2="time_saved_high:Q", color=self.colour),
            base.mark_line(opacity=0.4, strokeWidth=1.5).encode(
                x=x, y=y, color=self.colour, detail="series:N", order="knob:Q"
            ),
            base.mark_point(filled=True, opacity=1, size=95)
            .encode(
                x=x,
                y=y,
                color=self.colour,
                shape=self.shape,
                tooltip=_hover(
                    {"t_saved": "GMAC saved", "t_time_saved": "time saved", "t_came_true": "came true", **HOVER}
                ),
            )
            .properties(name="points"),
            height=340,
        )

    def batches(self) -> dict[str, Any]:
        """Speed-up by batch size; a ring where a setting breaks even: slower before, no slower from there on."""
        base = alt.Chart(alt.NamedData("rows")).transform_filter("datum.method != 'dense' && isValid(datum.speedup)")
        x = alt.X("batch:O", title="batch", axis=alt.Axis(labelAngle=0))
        y = alt.Y("speedup:Q", title="speed-up over fused dense", scale=_loose(10), axis=alt.Axis(tickCount=6))
        one = alt.Chart(alt.Data(values=[{"y": 1}])).mark_rule(color=FAINT, strokeDash=[4, 4]).encode(y="y:Q")
        others = alt.Chart(alt.NamedData("others")).transform_filter("isValid(datum.speedup)")
        return _spec(
            others.mark_line(color=LINE, strokeWidth=1).encode(x=x, y=y, detail="name:N"),
            one,
            base.transform_filter("isValid(datum.speedup_low)")
            .mark_rule(opacity=0.3)
            .encode(x=x, y=alt.Y("speedup_low:Q", scale=_loose(10)), y2="speedup_high:Q", color=self.colour),
            base.mark_line(strokeWidth=1.5, opacity=0.6).encode(x=x, y=y, color=self.colour, detail="name:N"),
            base.transform_filter("datum.batch == datum.break_even && datum.crossed")
            .mark_point(shape="circle", filled=False, size=320, color=INK, strokeWidth=1.25, opacity=1)
            .encode(x=x, y=y),
            base.mark_point(filled=True, opacity=1, size=80).encode(
                x=x,
                y=y,
                color=self.colour,
                shape=self.shape,
                tooltip=_hover({"batch": "batch", "t_even": "no slower from batch", **HOVER}),
            ),
            height=340,
        )

    def tokens(self) -> dict[str, Any]:
        """Tokens after each block, with a band of one standard deviation where images differ."""
        base = (
            alt.Chart(alt.NamedData("rows"))
            .transform_filter("datum.status == 'ok' && isValid(datum.tokens_mean)")
            .transform_flatten(
                ["tokens_mean", "tokens_low", "tokens_high", "blocks"], ["tokens", "low", "high", "block"]
            )
        )
        x = alt.X("block:Q", title="block", axis=alt.Axis(format="d", tickMinStep=1, grid=False))
        y = alt.Y("tokens:Q", title="tokens after it, prefix included")
        hover = _hover({"block": "after block", "t_tokens": "tokens by block"})
        others = (
            alt.Chart(alt.NamedData("others"))
            .transform_filter("isValid(datum.tokens_mean)")
            .transform_flatten(["tokens_mean", "blocks"], ["tokens", "block"])
        )
        return _spec(
            others.mark_line(interpolate="step-after", color=LINE, strokeWidth=1).encode(x=x, y=y, detail="name:N"),
            base.mark_area(opacity=0.15).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=self.colour, detail="name:N"),
            base.mark_line(interpolate="step-after", strokeWidth=1.75, opacity=0.75).encode(
                x=x, y=y, color=self.colour, detail="name:N"
            ),
            base.mark_point(filled=True, size=40, opacity=1).encode(
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
        scale = alt.Scale(domain=domain, range=[f"var(--part-{colour})" for colour in self.parts_of.values()])
        bars = (
            alt.Chart(alt.NamedData("rows"))
            .transform_filter(f"isValid(datum.{of})")
            .transform_flatten([of, f"{of}_of"], ["part", "spent"])
            .transform_calculate(place=f"indexof({domain}, datum.part)")
            .mark_bar(height=14)
        )
        return _spec(
            bars.encode(
                x=alt.X("spent:Q", title=title, axis=alt.Axis(tickCount=6)),
                y=_settings("index"),
                color=alt.Color("part:N", scale=scale, legend=None),
                order="place:Q",
                tooltip=_hover(hover),
            ),
            height=BAND,
        )


def _budget() -> list[alt.Chart]:
    """The line that must be kept to, across or upright; out of the chart it is not drawn."""
    x, y = alt.X("x:Q", scale=_loose(24)), alt.Y("y:Q", scale=_loose(14))
    base = alt.Chart(alt.NamedData("budget"))
    upright, across = base.transform_filter("isValid(datum.x)"), base.transform_filter("isValid(datum.y)")
    look: dict[str, Any] = {"color": ACCENT, "strokeDash": [5, 4], "strokeWidth": 1.25}
    words: dict[str, Any] = {"color": ACCENT, "fontSize": 11, "align": "left"}
    return [
        upright.mark_rule(**look).encode(x=x),
        across.mark_rule(**look).encode(y=y),
        upright.mark_text(**words, dx=4, dy=8).encode(x=x, y=alt.value(0), text="label:N"),
        across.mark_text(**words, dx=4, dy=-6).encode(x=alt.value(0), y=y, text="label:N"),
    ]


def _settings(field: str, way: Literal["ascending", "descending"] = "ascending") -> alt.Y:
    """A band a setting, its label on the left."""
    axis = alt.Axis(labelLimit=190, labelColor=INK, grid=False)
    return alt.Y("name:N", title=None, sort=alt.EncodingSortField(field=field, op="min", order=way), axis=axis)


def _hover(texts: dict[str, str]) -> list[alt.Tooltip]:
    return [alt.Tooltip("name:N", title="setting"), *(alt.Tooltip(f"{name}:N", title=t) for name, t in texts.items())]


def _loose(pixels: int) -> alt.Scale:
    return alt.Scale(zero=False, nice=False, padding=pixels)


def _direction(axis: Axis) -> str:
    return f"{axis.title} ({'more' if axis.more_is_better else 'less'} is better)"


def _spec(*layers: alt.Chart, height: int) -> dict[str, Any]:
    chart = alt.layer(*layers).properties(width="container", height=height)
    return chart.to_dict()
