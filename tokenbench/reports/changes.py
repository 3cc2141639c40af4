"""What changes from one row to another, in words: the same on the screen and on the page."""

from __future__ import annotations

from tokenbench.reports.cells import MISSING, interval, number, rate
from tokenbench.runs.compare import Change, Pair

LINES = {  # of what is not the task's: its name, and the format of its values
    "gmacs": ("GMAC", "{:.3f}"),
    "params_m": ("params M", "{:.2f}"),
    "images_per_s": ("img/s", ""),
    "speedup": ("speed-up over dense", "{:.2f}"),
    "latency_p50": ("ms a batch", "{:.1f}"),
    "peak_memory_mb": ("peak MiB", "{:.0f}"),
    "joules": ("J an image", "{:.3g}"),
}


def line(pair: Pair, field: str, change: Change) -> tuple[str, ...]:
    """The name of a field, both values, the change with its interval, and the verdict on it."""
    metric = next((metric for metric in pair.metrics if metric.name == field), None)
    words = change.words if change.p is None else f"{change.words} (p = {change.p:.3g})".strip()
    if metric is None:
        name, form = LINES[field]
        sides = [number(v, form) if form else rate(v) for v in (change.first, change.second)]
        return (name, *sides, interval(change.value, change.low, change.high, "×{:.2f}"), words)
    form = f"{{:.{metric.digits}f}}"
    if metric.of_two:
        return (f"{metric.name} {metric.unit}".rstrip(), MISSING, MISSING, number(change.value, form), "of both")
    sides = [number(v, form) for v in (change.first, change.second)]
    shown = interval(change.value, change.low, change.high, f"{{:+.{metric.digits}f}}")
    return (metric.heading, *sides, shown, words)
