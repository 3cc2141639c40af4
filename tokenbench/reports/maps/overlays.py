"""Token maps drawn over their images, in paper style. Needs numpy, matplotlib and PIL, no torch.

What is drawn follows from the map, so a new method has its pictures at once: dropped patches fade (to white, or in grey
pictures, where white is a tone like others, to a light blue), merged ones take the mean colour of their cluster,
semantic tokens get a colour each. Figures are matplotlib's; `save` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image

from tokenbench.maps.arrays import Bools, Floats, Ints, TokenMaps, Weighing
from tokenbench.reports import style

Picture = NDArray[np.uint8]  # (H, W, 3)

SIDE = 448  # pixels of the long side of a drawn picture, at least
INK = np.array([24.0, 24.0, 28.0])
WHITE, BLUE = np.full(3, 255.0), np.array([205.0, 216.0, 236.0])
GREY = np.array([0.299, 0.587, 0.114])  # luma of red, green and blue
PANEL = 1.28  # inches of a square panel's side
STRIP = 8  # frames of a clip side by side
FAINT = "#555555"


def draw(maps: TokenMaps, image: int, block: int = -1, side: int = SIDE) -> Picture:
    """One image with the map of one block on it, its long side enlarged to at least `side` pixels.

    Dropped patches fade to white; merged ones show their cluster's mean colour in thin outlines; soft clusters are
    tinted in the colour of their token.
    """
    picture = enlarged(maps.pictures[image], side)
    clusters = maps.clusters(block)[image]
    labels = spread(clusters, picture.shape[:2])
    if maps.soft(block):
        return tinted(picture, labels)
    if len(np.unique(clusters[clusters >= 0])) < (clusters >= 0).sum():
        return merged(picture, labels)
    return faded(picture, labels >= 0)


def faded(picture: Picture, kept: Bools) -> Picture:
    """The kept pixels as they are, the others pale, and a thin line between."""
    out = np.where(kept[..., None], picture, _pale(picture))
    return _lined(out, edges(kept.astype(int)), INK, 0.55)


def merged(picture: Picture, labels: Ints) -> Picture:
    """Every cluster in the mean colour of its pixels, outlined; dropped pixels (-1) faded."""
    flat, values = np.unique(labels, return_inverse=True)
    count = np.bincount(values.ravel(), minlength=len(flat))
    means = np.stack([np.bincount(values.ravel(), picture[..., c].ravel(), len(flat)) / count for c in range(3)], -1)
    out = 0.85 * means[values.reshape(labels.shape)] + 0.15 * picture
    return _lined(np.where((labels >= 0)[..., None], out, _pale(picture)), edges(labels), WHITE, 0.6)


def tinted(picture: Picture, labels: Ints) -> Picture:
    """The image in grey under the colour of each pixel's token, with thin outlines; dropped pixels faded."""
    luma = picture @ GREY
    low, high = np.percentile(luma, (2, 98))
    light = 255 * np.clip((luma - low) / max(high - low, 1.0), 0, 1)[..., None]
    out = 0.52 * colours()[labels % len(style.CLUSTERS)] + 0.48 * (45 + 0.82 * light)
    return _lined(np.where((labels >= 0)[..., None], out, _pale(picture)), edges(labels), WHITE, 0.9)


def heated(picture: Picture, heat: Weighing) -> Picture:
    """A heat map (rows, columns) over the image in grey, scaled to its own maximum."""
    scaled = np.clip(heat / max(float(heat.max()), 1e-12), 0, 1)
    smooth = Image.fromarray(scaled.astype(np.float32)).resize(picture.shape[1::-1], Image.Resampling.BICUBIC)
    level = np.clip(np.asarray(smooth), 0, 1)
    ground = 0.75 * (picture @ GREY)[..., None]
    glow = matplotlib.colormaps["inferno"](level)[..., :3] * 255
    opacity = (0.15 + 0.85 * level**0.7)[..., None]
    return _bytes(ground * (1 - opacity) + glow * opacity)


def by_block(maps: Sequence[TokenMaps], image: int, blocks: Sequence[int] | None = None) -> Figure:
    """One image: a row a method, a column a block; the quarters of the depth and the last if none are given."""
    maps = reducing(maps)
    depth = maps[0].depth
    chosen = sorted({depth // 4, depth // 2, 3 * depth // 4, depth - 1}) if blocks is None else list(blocks)
    figure, axes = _grid(len(maps), 1 + len(chosen), maps[0], left=1.0, top=0.28)
    for row, m in enumerate(maps):
        _show(axes[row][0], enlarged(m.pictures[image]))
        _method(axes[row][0], m)
        for column, block in enumerate(chosen, 1):
            _show(axes[row][column], draw(m, image, block), _caption(m, image, block))
    for column, title in enumerate(["image", *(f"after block {b}" for b in chosen)]):
        _title(axes[0][column], title)
    return figure


def over_time(maps: Sequence[TokenMaps], clip: int, most: int = STRIP, block: int = -1) -> Figure:
    """One clip as strips of frames: itself, and a row a method after one block; at most so many frames, evenly.

    Semantic tokens keep their colours from frame to frame.
    """
    maps, frames = reducing(maps), maps[0].frames
    count = min(frames, most)
    chosen = [clip * frames + i * frames // count for i in range(count)]
    figure, axes = _grid(1 + len(maps), count, maps[0], left=1.0, top=0.28)
    for column, image in enumerate(chosen):
        _show(axes[0][column], enlarged(maps[0].pictures[image]))
        _title(axes[0][column], f"frame {image % frames + 1} of {frames}")
        for row, m in enumerate(maps, 1):
            _show(axes[row][column], draw(m, image, block), _caption(m, image, block))
    for row, m in enumerate(maps, 1):
        _method(axes[row][0], m)
    return figure


def by_image(maps: Sequence[TokenMaps], images: Sequence[int] | None = None, block: int = -1) -> Figure:
    """A row an image, a column a method, after one block; all images if none are given."""
    maps = reducing(maps)
    rows = range(len(maps[0].pictures)) if images is None else images
    below = [[maps[0].backbone, f"after block {block % maps[0].depth}"], *map(_below, maps)]
    most = max(map(len, below))
    figure, axes = _grid(len(rows), 1 + len(maps), maps[0], left=0.04, top=0.28 + 0.1 * most)
    for row, image in enumerate(rows):
        _show(axes[row][0], enlarged(maps[0].pictures[image]))
        for column, m in enumerate(maps, 1):
            _show(axes[row][column], draw(m, image, block), _caption(m, image, block))
    names = [("image", "black"), *((m.method, style.colour(m.method)) for m in maps)]
    for (name, colour), lines, panel in zip(names, below, axes[0], strict=True):
        _title(panel, name, [*lines, *[""] * (most - len(lines))], colour)
    return figure


def semantic(maps: TokenMaps, image: int, block: int = -1) -> Figure:
    """The soft clusters of one image, and the heat map of every token, numbered and framed in its colour."""
    heat = maps.heat(block)[image]
    picture = enlarged(maps.pictures[image])
    high, wide = picture.shape[:2]
    large = (3.4 * min(1.0, wide / high), 3.4 * min(1.0, high / wide))  # inches, as everything here
    side = math.isqrt(len(heat) - 1) + 1
    gap, edge, top = 0.05, 0.04, 0.44
    cell = ((large[0] - (side - 1) * gap) / side, (large[1] - (side - 1) * gap) / side)
    size = (2 * large[0] + 0.16 + 2 * edge, large[1] + top + edge)
    figure = Figure(figsize=size)

    def place(x: float, y: float, width: float, height: float) -> Axes:
        """Axes by the distance of their upper left corner from the figure's, in inches."""
        return figure.add_axes((x / size[0], 1 - (y + height) / size[1], width / size[0], height / size[1]))

    left = place(edge, top, *large)
    drawn = draw(maps, image, block, 2 * SIDE)
    _show(left, drawn)
    _numbers(left, maps.clusters(block)[image], drawn.shape[:2])
    for token, values in enumerate(heat):
        row, column = divmod(token, side)
        x = edge + large[0] + 0.16 + column * (cell[0] + gap)
        axes = place(x, top + row * (cell[1] + gap), *cell)
        _show(axes, heated(picture, values))
        frame = colours()[token % len(style.CLUSTERS)] / 255
        for spine in axes.spines.values():
            spine.set(visible=True, color=frame, linewidth=2)
        _number(axes, token, (0.1 / cell[0] * wide, 0.1 / cell[1] * high))
    title = " · ".join(filter(None, [maps.label, maps.backbone, f"after block {block % maps.depth}", maps.note]))
    where = (edge / size[0], 1 - 0.06 / size[1])
    figure.text(*where, title, color=style.colour(maps.method), fontweight="bold", fontsize=8.5, va="top")
    note = "clusters, and the attention of each token, up to its own maximum"
    figure.text(where[0], 1 - 0.24 / size[1], note, color=FAINT, fontsize=7, va="top")
    return figure


def save(figure: Figure, path: str | Path, dpi: int = 200) -> Path:
    """Write a figure; the suffix (.png, .jpg, .svg, .pdf) decides the format. Returns the path."""
    path = Path(path)
    with matplotlib.rc_context(style.PAPER):  # type: ignore[arg-type]
        figure.savefig(path, dpi=dpi, bbox_inches="tight", pad_inches=0.04)
    return path


def reducing(maps: Sequence[TokenMaps]) -> list[TokenMaps]:
    """The maps without those of settings that change nothing, which would only repeat the image; all if all do."""

    def changes(m: TokenMaps) -> bool:
        return m.soft() or m.each is not None or len(set(m.counts)) > 1 or m.counts[0] <= m.grid[0] * m.grid[1]

    return [m for m in maps if changes(m)] or list(maps)


def enlarged(picture: Picture, side: int = SIDE) -> Picture:
    """A picture at a whole multiple of its size, its long side `side` or more; tiny ones keep their square pixels."""
    times = max(1, -(-side // max(picture.shape[:2])))
    how = Image.Resampling.NEAREST if max(picture.shape[:2]) <= 64 else Image.Resampling.LANCZOS
    size = (picture.shape[1] * times, picture.shape[0] * times)
    return np.asarray(Image.fromarray(picture).resize(size, how))


def spread(values: Ints, shape: tuple[int, int]) -> Ints:
    """Values of patches (rows, columns) as values of pixels (H, W)."""
    rows, cols = (np.arange(pixels) * n // pixels for pixels, n in zip(shape, values.shape, strict=True))
    out: Ints = values[rows[:, None], cols[None, :]]
    return out


def edges(labels: Ints) -> Bools:
    """The pixels (H, W) on either side of a border between two labels."""
    out = np.zeros(labels.shape, dtype=bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    out[1:] |= down
    out[:-1] |= down
    out[:, 1:] |= right
    out[:, :-1] |= right
    return out


def colours() -> Floats:
    """The colours of clusters, (16, 3), from 0 to 255."""
    return np.array([to_rgb(c) for c in style.CLUSTERS]) * 255


def _pale(picture: Picture) -> Floats:
    """The picture of dropped patches, (H, W, 3)."""
    grey = int(np.ptp(picture, axis=-1).max(initial=0)) < 8
    paper, share = (BLUE, 0.25) if grey else (WHITE, 0.2)
    pale: Floats = (1 - share) * paper + share * (picture @ GREY)[..., None]
    return pale


def _lined(out: Floats, where: Bools, ink: Floats, opacity: float) -> Picture:
    alpha = np.where(where, opacity, 0.0)[..., None]
    return _bytes(out * (1 - alpha) + ink * alpha)


def _bytes(values: Floats) -> Picture:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _grid(rows: int, cols: int, maps: TokenMaps, left: float, top: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of equal panels that keep the image's aspect; sizes in inches."""
    height, width = maps.pictures.shape[1:3]
    across = PANEL * min(1.6, max(0.8, math.sqrt(width / height)))
    down = across * height / width
    gap, text = 0.06, 0.19
    size = (left + cols * (across + gap), top + rows * (down + text))
    figure = Figure(figsize=size)
    axes = []
    for row in range(rows):
        y = size[1] - top - row * (down + text) - down
        places = [(left + c * (across + gap), y, across, down) for c in range(cols)]
        axes.append([figure.add_axes((x / size[0], y / size[1], w / size[0], h / size[1])) for x, y, w, h in places])
    return figure, axes


def _show(axes: Axes, picture: Picture, caption: str = "") -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if caption:
        axes.set_xlabel(caption, fontsize=6, color=FAINT, labelpad=2)


def _title(axes: Axes, text: str, below: Sequence[str] = (), colour: str = "black") -> None:
    """A title over a column, and smaller lines under it."""
    at: dict[str, Any] = {"textcoords": "offset points", "xycoords": "axes fraction", "ha": "center", "va": "bottom"}
    bold = "normal" if colour == "black" else "bold"
    up = 3.5 + 7.2 * len(below)
    axes.annotate(text, (0.5, 1), (0, up), fontsize=8, color=colour, fontweight=bold, **at)
    for i, line in enumerate(reversed(below)):
        axes.annotate(line, (0.5, 1), (0, 3.5 + 7.2 * i), fontsize=6, color=FAINT, **at)


def _method(axes: Axes, maps: TokenMaps) -> None:
    """The method's name in its colour, left of its row, over its knobs and the note."""
    at: dict[str, Any] = {"transform": axes.transAxes, "ha": "right"}
    colour = style.colour(maps.method)
    axes.text(-0.08, 0.53, maps.method, va="bottom", fontsize=9, fontweight="bold", color=colour, **at)
    axes.text(-0.08, 0.49, "\n".join(_below(maps)), va="top", fontsize=6.5, color=FAINT, **at)


def _below(maps: TokenMaps) -> list[str]:
    """What stands under a method's name: a line a knob, and the notes."""
    knobs = maps.label.partition("[")[2].rstrip("]")
    return [*filter(None, knobs.split(",")), *filter(None, maps.note.split(", "))]


def _caption(maps: TokenMaps, image: int, block: int) -> str:
    share = maps.kept_share(block)[image]
    kept = f" · {100 * share:.0f} % kept" if share < 1 else ""
    return f"{maps.tokens(image, block)} tokens{kept}"


def _numbers(axes: Axes, clusters: Ints, shape: tuple[int, int]) -> None:
    """Each token's number at the patch of its cluster that is nearest the cluster's middle."""
    for token in np.unique(clusters[clusters >= 0]):
        places = np.argwhere(clusters == token)
        row, col = places[((places - places.mean(0)) ** 2).sum(1).argmin()]
        _number(axes, token, ((col + 0.5) * shape[1] / clusters.shape[1], (row + 0.5) * shape[0] / clusters.shape[0]))


def _number(axes: Axes, token: int, at: tuple[float, float]) -> None:
    text = axes.text(*at, str(token + 1), ha="center", va="center", fontsize=7, color="white", fontweight="bold")
    text.set_path_effects([withStroke(linewidth=1.6, foreground="#18181c")])
