"""Paper style: one colour a method everywhere, safe for colour-blind eyes, and matplotlib's settings."""

from __future__ import annotations

import zlib
from typing import Any

# Okabe and Ito's set, darkened where it would be too light as text on white
METHODS = {
    "dense": "#3a3a3a",
    "tome": "#0072b2",
    "evit": "#c44e00",
    "dynamicvit": "#00805e",
    "stvit": "#b0528d",
    "topk": "#a87400",
    "random": "#7a7a7a",
}
OTHERS = ("#3b8fc4", "#7a5195", "#8c6d31", "#5b7f00", "#a63d40", "#2f7f86")

# Sixteen for clusters: hues of Okabe-Ito and Tol at alternating lightness, so that tokens that lie side by side in a
# 4x4 sheet differ in lightness too
CLUSTERS = (
    *("#332288", "#ddcc77", "#117733", "#ee99aa"),
    *("#56b4e9", "#882255", "#f0e442", "#0072b2"),
    *("#d55e00", "#99ddcc", "#aa4499", "#bbcc33"),
    *("#f7b6d2", "#4d5d00", "#e69f00", "#2a4d69"),
)

PAPER: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 8,
    "axes.linewidth": 0.6,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "savefig.facecolor": "white",
    "figure.facecolor": "white",
}


def colour(method: str) -> str:
    """The colour of a method, as #rrggbb; a method that is not listed gets one by its name, always the same."""
    return METHODS.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]
