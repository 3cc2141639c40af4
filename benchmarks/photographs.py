"""The figure of the methods fine-tuned on equal terms: accuracy by GMAC over seeds, and on the way there.

    python benchmarks/photographs.py

Reads photographs/seed*.jsonl and photographs/logs.csv, writes photographs/figure.png. Bars are 95 % intervals of the
mean over seeds, by Student's t.
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tokenbench.reports import style

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # of a mean of so many, 95 %
FOLDER = Path(__file__).parent / "photographs"
DRAWN: Mapping[str, tuple[str, float]] = {  # folders of runs, what they are called, and how far up
    "dense": ("dense", 5),
    "tome-r-13": ("tome 13", -3.5),
    "evit-keep_rate-0.7": ("evit 0.7", -12),
    "dynamicvit-keep_rate-0.5": ("dynamicvit 0.5", -3),
    "stvit_r-tokens-9": ("stvit_r 9", 1),
    "stvit-tokens-16": ("stvit 16", -5),
}
# points right and up of its mark, from where to where the text runs
PLACES: Mapping[str, tuple[float, float, str]] = {
    "dense": (0, 7, "center"),
    "tome[r=13]": (0, 8, "center"),
    "tome[r=16]": (-7, -3, "right"),
    "evit[keep_rate=0.7]": (6, 3, "left"),
    "evit[keep_rate=0.5]": (-7, -3, "right"),
    "topk[keep_rate=0.7]": (8, -3, "left"),
    "random[keep_rate=0.7]": (7, -8, "left"),
    "dynamicvit[keep_rate=0.7]": (0, -19, "center"),
    "dynamicvit[keep_rate=0.5]": (8, -3, "left"),
    "stvit[tokens=16]": (8, 1, "left"),
    "stvit[tokens=9]": (-7, -3, "right"),
    "stvit_r[tokens=9]": (8, -3, "left"),
}


def main() -> None:
    scores: dict[str, list[float]] = defaultdict(list)
    first: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("seed*.jsonl")):
        for row in map(json.loads, path.read_text().splitlines()):
            scores[row["label"]].append(row["metrics"]["top1"])
            first.setdefault(row["label"], row)
    with matplotlib.rc_context({**style.PAPER, "font.size": 8.5}):
        figure = Figure(figsize=(9.2, 3.7), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        costs(left, scores, first)
        curves(right)
        figure.savefig(FOLDER / "figure.png", dpi=200)
    print(FOLDER / "figure.png")


def costs(axes: Axes, scores: Mapping[str, list[float]], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Mean accuracy over seeds by multiply-adds."""
    for label, values in scores.items():
        mean, method = sum(values) / len(values), rows[label]["method"]
        spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
        half = STUDENT[len(values)] * spread / len(values) ** 0.5
        own = style.colour(method)
        axes.errorbar(rows[label]["gmacs"], mean, half, color=own, lw=1.1, capsize=2.2, zorder=2)
        size = 8 if method == "dense" else 5.5
        axes.plot(
            rows[label]["gmacs"],
            mean,
            style.SHAPES[style.marker(method)][0],
            color=own,
            ms=size,
            mec="white",
            mew=0.6,
            zorder=3,
        )
        right, up, side = PLACES[label]
        place = {"xytext": (right, up), "textcoords": "offset points", "ha": side}
        axes.annotate(short(label), (rows[label]["gmacs"], mean), color=own, fontsize=7.5, **place)
    axes.set(xlabel="GMAC an image", ylabel="top-1, %", xlim=(0.4, 1.32), ylim=(91.9, 99.4))
    axes.set_title("Ten epochs from the same start, on the same images", loc="left", fontsize=9)
    plain(axes)


def curves(axes: Axes) -> None:
    """Accuracy by epoch: the mean over seeds, and from the lowest to the highest of them."""
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (FOLDER / "logs.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            if row["top1"]:
                found[row["setting"]][float(row["epoch"])].append(float(row["top1"]))
    for setting, (called, up) in DRAWN.items():
        epochs = sorted(found[setting])
        means = [sum(found[setting][e]) / len(found[setting][e]) for e in epochs]
        method = setting.split("-")[0]
        own = style.colour(method)
        low, high = ([end(found[setting][e]) for e in epochs] for end in (min, max))
        axes.fill_between(epochs, low, high, color=own, alpha=0.18, lw=0)
        axes.plot(
            epochs, means, f"-{style.SHAPES[style.marker(method)][0]}", color=own, lw=1.2, ms=4, mec="white", mew=0.5
        )
        place = {"xytext": (6, up), "textcoords": "offset points", "annotation_clip": False}
        axes.annotate(called, (epochs[-1], means[-1]), color=own, fontsize=7.5, **place)
    axes.set(xlabel="epoch", ylabel="top-1, %", xlim=(2, 10.2), ylim=(83.5, 99.4))
    axes.set_title("On the way there", loc="left", fontsize=9)
    plain(axes)


def short(label: str) -> str:
    """evit 0.7 for evit[keep_rate=0.7]."""
    name, _, rest = label.partition("[")
    return f"{name} {rest.rstrip(']').partition('=')[2]}".strip()


def plain(axes: Axes) -> None:
    """Two axes and a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", lw=0.6)
    axes.set_axisbelow(True)


if __name__ == "__main__":
    main()
