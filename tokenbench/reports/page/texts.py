"""What the page says of rows, as text: the script shows these and rounds, counts and judges nothing."""

from __future__ import annotations

from typing import Any

from tokenbench.reports import cells
from tokenbench.reports.cells import MISSING, number
from tokenbench.reports.groups import Point
from tokenbench.reports.published import Comparison


def of(point: Point, dense: Any) -> dict[str, str]:
    """The cells of a row, and what its marks in charts say on hover; by `t_` and the name of the column or field."""
    row, p = point.row, point.row.metrics.get("p_value")
    shown = cells.cells(row, dense, point.verdict)
    found = {f"t_{name}": text for name, text in shown.items()}
    low, high = (None if not s else 100 - 100 / s for s in (row.speedup_low, row.speedup_high))
    came_true = None
    if point.saved is not None and point.saved > 0.01 and point.time_saved is not None:
        came_true = point.time_saved / point.saved
    inner = row.label[row.label.index("[") + 1 : -1] if "[" in row.label else row.label
    return found | {
        "t_setting": inner.replace("keep_rate=", ""),
        "t_p": MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "t_images": MISSING if row.images is None else f"{row.images:,}",
        "t_timed": MISSING if row.runs is None else str(row.runs),
        "t_saved": _percent(point.saved),
        "t_time_saved": cells.interval(_hundred(point.time_saved), low, high, "{:.0f} %"),
        "t_came_true": _percent(came_true),
        "t_tokens": " ".join(number(count, "{:.0f}") for count in row.tokens_mean or ()),
    }


def compared(made: Comparison) -> dict[str, Any]:
    """A measured row beside a published number."""
    reported, ratio = made.reported, made.gmacs
    return {
        "t_published": number(reported.top1, "{:.2f}"),
        "t_published_gmacs": number(reported.gmacs, "{:g}"),
        "t_how": "trained" if reported.trained else "off the shelf",
        "t_difference": number(made.top1, "{:+.1f}"),
        "t_inside": "inside the interval" if made.inside else "",
        "t_ratio": "" if ratio is None else f"{100 * ratio:+.1f} %",
        "t_why": "; ".join(made.reasons),
    }


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _percent(share: float | None) -> str:
    return number(_hundred(share), "{:.0f} %")
