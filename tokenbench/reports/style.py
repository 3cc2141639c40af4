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
    "stvit_r": "#6f4a9e",
    "topk": "#a87400",
    "random": "#7a7a7a",
    # hard pruning and merging: hues come again, with other markers
    "ats": "#a63d40",
    "atc": "#5b7f00",
    "diffrate": "#8c6d31",
    "dpcknn": "#00805e",
    "dtps": "#00805e",
    "etps": "#c44e00",
    "idlevit": "#6f4a9e",
    "kmedoids": "#2f7f86",
    "ltmp": "#6f4a9e",
    "mctf": "#7a5195",
    "pitome": "#3b8fc4",
    "ppt": "#c44e00",
    "radial": "#7a7a7a",
    "tofu": "#a87400",
    "tomecis": "#0072b2",
    # soft tokens, halting, recovery and stems
    "convstem": "#3a3a3a",
    "avit": "#a63d40",
    "cropr": "#8c6d31",
    "dtem": "#3b8fc4",
    "evovit": "#2f7f86",
    "gtp": "#5b7f00",
    "patchmerger": "#b0528d",
    "sinkhorn": "#7a5195",
    "sit": "#b0528d",
    "spvit": "#00805e",
    "tokenlearner": "#7a5195",
}
OTHERS = ("#3b8fc4", "#7a5195", "#8c6d31", "#5b7f00", "#a63d40", "#2f7f86")

# The same hues, light enough on a dark page
ON_DARK = {
    "#3a3a3a": "#e6e6e6",
    "#0072b2": "#56b4e9",
    "#c44e00": "#f08c4b",
    "#00805e": "#3cc79f",
    "#b0528d": "#e38cc3",
    "#6f4a9e": "#b294dd",
    "#a87400": "#e0b040",
    "#7a7a7a": "#a0a0a0",
    **{"#3b8fc4": "#7cc0ea", "#7a5195": "#c29ad9", "#8c6d31": "#c9ab6b"},
    **{"#5b7f00": "#a5c94a", "#a63d40": "#ea8a8c", "#2f7f86": "#6cc4cc"},
}

# A marker's name in matplotlib, and its outline within -1 to 1 as an SVG path
SHAPES = {
    "star": (
        "*",
        "M0,-1L0.225,-0.309L0.951,-0.309L0.363,0.118L0.588,0.809L0,0.382L-0.588,0.809L-0.363,0.118"
        "L-0.951,-0.309L-0.225,-0.309Z",
    ),
    "circle": ("o", "M0.8,0A0.8,0.8,0,1,1,-0.8,0A0.8,0.8,0,1,1,0.8,0Z"),
    "square": ("s", "M-0.7,-0.7H0.7V0.7H-0.7Z"),
    "triangle": ("^", "M0,-0.85L0.88,0.68H-0.88Z"),
    "diamond": ("D", "M0,-1L0.9,0L0,1L-0.9,0Z"),
    "pentagon": ("p", "M0,-0.95L0.904,-0.294L0.558,0.769H-0.558L-0.904,-0.294Z"),
    "down": ("v", "M0,0.85L-0.88,-0.68H0.88Z"),
    "cross": ("P", "M-0.3,-0.9H0.3V-0.3H0.9V0.3H0.3V0.9H-0.3V0.3H-0.9V-0.3H-0.3Z"),
    "left": ("<", "M-0.85,0L0.68,-0.88V0.88Z"),
    "right": (">", "M0.85,0L-0.68,0.88V-0.88Z"),
    "hexagon": ("h", "M0,-0.95L0.823,-0.475V0.475L0,0.95L-0.823,0.475V-0.475Z"),
    "x": (
        "X",
        "M-0.85,-0.5L-0.5,-0.85L0,-0.35L0.5,-0.85L0.85,-0.5L0.35,0L0.85,0.5L0.5,0.85L0,0.35L-0.5,0.85"
        "L-0.85,0.5L-0.35,0Z",
    ),
}
MARKERS = {
    **{"dense": "star", "tome": "circle", "evit": "square", "dynamicvit": "triangle", "stvit": "diamond"},
    **{"stvit_r": "pentagon", "topk": "down", "random": "cross"},
    **{"ats": "down", "atc": "circle", "diffrate": "circle", "dpcknn": "circle", "kmedoids": "down", "mctf": "circle"},
    **{"pitome": "circle", "ppt": "circle", "radial": "x", "tofu": "circle", "tomecis": "hexagon"},
    **{"dtps": "left", "etps": "left", "idlevit": "hexagon", "ltmp": "circle"},
    **{"avit": "square", "cropr": "pentagon", "dtem": "right", "evovit": "pentagon", "gtp": "right", "sit": "square"},
    **{
        "patchmerger": "triangle",
        "sinkhorn": "diamond",
        "spvit": "square",
        "tokenlearner": "square",
        "convstem": "square",
    },
}
OTHER_MARKERS = ("left", "right", "hexagon", "x")

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


def marker(method: str) -> str:
    """The marker of a method, a key of `SHAPES`; a method that is not listed gets one by its name, always the same."""
    return MARKERS.get(method) or OTHER_MARKERS[zlib.crc32(method.encode()[::-1]) % len(OTHER_MARKERS)]
