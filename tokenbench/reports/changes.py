"""What changes from one row to another, in words: the same on the screen and on the page."""

from __future__ import annotations

from tokenbench.reports.cells import MISSING, interval, number, rate
from tokenbench.runs.compare import Change

LINES = {  # field: its name, and the format of its values
    "top1": ("top-1 %", "{:.1f}"),
    "top5": ("top-5 %", "{:.1f}"),
    "agreement": ("agreement %", "{:.1f}"),
    "gmacs": ("GMAC", "{:.3f}"),
    "params_m": ("params M", "{:.2f}"),
    "images_per_s": ("img/s", ""),
    "speedup": ("speed-up over dense", "{:.2f}"),
    "latency_p50": ("ms a batch", "{:.1f}"),
    "peak_memory_mb": ("peak MiB", "{:.0f}"),
}


def line(field: str, change: Change) -> tuple[str, str, str, str, str]:
    """The name of a field, both values, the change with its interval, and the verdict on it."""
    name, form = LINES[field]
    first, second = (number(v, form) if form else rate(v) for v in (change.first, change.second))
    if field == "agreement":
        return name, MISSING, MISSING, number(change.value, form), "the same first guess"
    shown = interval(change.value, change.low, change.high, "{:+.1f}" if field in ("top1", "top5") else "×{:.2f}")
    words = change.words if change.p is None else f"{change.words} (p = {change.p:.3g})"
    return name, first, second, shown, words
