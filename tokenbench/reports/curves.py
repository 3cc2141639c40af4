"""The training curve: loss and learning rate by epoch, the score where it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.errors import WeightsError
from tokenbench.tasks.base import Metric


def draw(rows: Sequence[Mapping[str, Any]], title: str, path: Path, main: Metric) -> None:
    """Draw the rows of a `log.jsonl` to a PNG, SVG or PDF file; raises `WeightsError` if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    told = [row for row in rows if "loss" in row]
    loss.plot([row["epoch"] for row in told], [row["loss"] for row in told], color="#0072b2", lw=1.5)
    loss.set_ylabel("loss")
    loss.set_title(title, loc="left", fontsize=11)
    rate.plot([row["epoch"] for row in told], [row["lr"] for row in told], color="#555555", lw=1.2)
    rate.set(ylabel="learning rate", xlabel="epoch")
    measured = [row for row in rows if row.get(main.name) is not None]
    if measured:
        score = loss.twinx()
        score.plot(
            [row["epoch"] for row in measured], [row[main.name] for row in measured], "o-", color="#d55e00", ms=4, lw=1
        )
        score.set_ylabel(main.heading, color="#d55e00")
        last = measured[-1]
        here, label = (last["epoch"], last[main.name]), f"{last[main.name]:.2f}"
        score.annotate(label, here, (-7, 3), textcoords="offset points", ha="right", color="#d55e00")
        score.margins(y=0.12)
        score.spines["top"].set_visible(False)
    for axes in (loss, rate):
        axes.spines["top"].set_visible(False)
        axes.grid(alpha=0.25)
    with atomic.replacing(path, WeightsError) as part:
        figure.savefig(part, dpi=150, format=path.suffix[1:])
