"""Predictions of dense tasks drawn on their images: truth, what was found, clusters, what a semantic token covers, and
which patches go through the MLPs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tokenbench.core import atomic
from tokenbench.core.words import counted
from tokenbench.errors import ResultsError
from tokenbench.reports.maps import overlays

if TYPE_CHECKING:
    from tokenbench.maps.scenes import Layer, Scene, Unit

PANEL = 2.4  # inches of a panel's width
IN_A_ROW = 5  # panels, and of more half


def write(label: str, scenes: Sequence[Scene], output: str | Path, kind: str = "png") -> list[Path]:
    """A figure of each image in a folder, and `scenes.html` with all of them; gives the paths.

    Raises:
        ResultsError: the folder cannot be written.
    """
    stem = plain(label)
    with atomic.filling(Path(output), ResultsError) as folder:
        names = []
        for i, scene in enumerate(scenes):
            name = f"{i:03d}-{plain(Path(scene.name).stem)}-{stem}.{kind}"
            overlays.save(figure(label, scene), folder / name, 150)
            names.append(name)
        (folder / "scenes.html").write_text(_page(label, scenes, names), encoding="utf-8")
    return [Path(output) / name for name in (*names, "scenes.html")]


def figure(label: str, scene: Scene) -> Figure:
    """One image: as it is, what is there, what was found, the clusters of each unit and one token of the last, and the
    patches of each choice.
    """
    picture = overlays.enlarged(scene.picture)
    scale = picture.shape[0] / scene.picture.shape[0]
    panels: list[tuple[str, Any, Layer | None]] = [(scene.name, picture, None)]
    if scene.truth is not None:
        panels.append(("truth", _coloured(picture, scene.truth), scene.truth))
    panels.append((f"found by {label}", _coloured(picture, scene.found), scene.found))
    for i, unit in enumerate(scene.units, 1):
        panels.append((f"clusters, unit {i}", overlays.tinted(picture, _labels(unit.clusters, picture)), None))
    if scene.units:
        last = scene.units[-1]
        token = busiest(last)
        panels.append((f"one token of unit {len(scene.units)}", overlays.heated(picture, last.cover(token)), None))
    for i, chosen in enumerate(scene.choices, 1):
        through = f"{100 * chosen.mean():.0f} % through MLPs, choice {i}"
        panels.append((through, overlays.faded(picture, _labels(chosen.astype(int), picture) > 0), None))
    cols = len(panels) if len(panels) <= IN_A_ROW else -(-len(panels) // 2)
    rows = -(-len(panels) // cols)
    height = PANEL * picture.shape[0] / picture.shape[1]
    made = Figure(figsize=(cols * PANEL, rows * (height + 0.25)), layout="constrained")
    for axes, panel in zip(made.subplots(rows, cols, squeeze=False).flat, [*panels, *[None] * cols], strict=False):
        axes.set_axis_off()
        if panel is not None:
            title, pixels, layer = panel
            axes.imshow(pixels)
            axes.set_title(title, fontsize=7, loc="left", pad=2)
            _boxes(axes, layer, scale)
    return made


def busiest(unit: Unit) -> int:
    """The token that most is taken of."""
    return int(unit.weights.sum(axis=0).argmax())


def _labels(values: Any, picture: Any) -> Any:
    return overlays.spread(values, picture.shape[:2])


def _coloured(picture: Any, layer: Layer) -> Any:
    """Regions tinted in a colour each, the rest as it is."""
    labels = overlays.spread(layer.labels, picture.shape[:2])
    colours = overlays.colours()[labels % len(overlays.colours())]
    here = (labels >= 0)[..., None]
    return np.where(here, 0.5 * picture + 0.5 * colours, picture).astype(np.uint8)


def _boxes(axes: Any, layer: Layer | None, scale: float) -> None:
    if layer is None:
        return
    colours = overlays.colours() / 255
    for i, (x1, y1, x2, y2) in enumerate(layer.boxes * scale):
        colour = colours[i % len(colours)]
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=0.6))
        if i < len(layer.words) and len(layer.boxes) <= 20:
            shade = {"facecolor": (0, 0, 0, 0.5), "edgecolor": "none", "pad": 0.4}
            axes.text(x1, y1, layer.words[i], fontsize=4, color="white", va="top", bbox=shade, clip_on=True)


def plain(text: str) -> str:
    """A text as part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-")


def _page(label: str, scenes: Sequence[Scene], names: Sequence[str]) -> str:
    from html import escape

    figures = "\n".join(
        f'<figure><img src="{escape(name)}" alt="{escape(scene.name)}: truth, prediction and clusters"></figure>'
        for scene, name in zip(scenes, names, strict=True)
    )
    title = escape(f"{label}: {counted(len(scenes), 'image')}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px system-ui;margin:2rem auto;max-width:75rem}img{max-width:100%}</style>"
        f"<h1>{title}</h1>\n{figures}\n</html>\n"
    )
