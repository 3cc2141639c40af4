"""Token maps as files: a page to play with, figures, arrays and numbers. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.maps import similarity
from tokenbench.maps.arrays import TokenMaps
from tokenbench.maps.files import arrays
from tokenbench.reports.maps import alike, overlays, viewer
from tokenbench.reports.maps.numbers import numbers, pairs

PAGE = 8  # images on one page of `images.png`


def write(
    maps: Sequence[TokenMaps], output: str | Path, kind: str = "png", compared: Sequence[similarity.Alike] = ()
) -> list[Path]:
    """Write everything about some settings on the same images, all of it or nothing; gives the paths.

    Of clips each frame is an image, and `CLIP-NUMBER-frames.png` has them as strips.
    For all images: `maps.html`, to play with; `images.png`, methods side by side, eight images a page; `maps.csv` and
    `agreement.csv`. For each image NAME: `NAME-blocks.png`, methods by blocks; `NAME-METHOD-clusters.png` for soft
    methods; `NAME.npz` (see `maps.files.arrays`). Where settings were compared on more images, `similarity.csv`.

    Args:
        maps: of the same images, at least one.
        output: the folder; it is made.
        kind: png, svg or pdf, for the figures.
        compared: how alike the settings are, as `maps.similarity` measures it.

    Raises:
        ResultsError: the folder cannot be written.
    """
    with atomic.filling(Path(output), ResultsError) as folder:
        files = list(_write(maps, folder, kind, compared))
    return [Path(output) / file.name for file in files]


def _write(maps: Sequence[TokenMaps], folder: Path, kind: str, compared: Sequence[similarity.Alike]) -> Iterator[Path]:
    count = len(maps[0].names)
    for page, first in enumerate(range(0, count, PAGE), 1):
        name = f"images-{page}" if count > PAGE else "images"
        figure = overlays.by_image(maps, range(first, min(first + PAGE, count)))
        yield overlays.save(figure, folder / f"{name}.{kind}")
    for clip in range(count // maps[0].frames) if maps[0].frames > 1 else ():
        stem = _stems([maps[0].names[clip * maps[0].frames].rpartition(" ")[0]])[0]
        yield overlays.save(overlays.over_time(maps, clip), folder / f"{stem}-{clip}-frames.{kind}")
    for image, stem in enumerate(_stems(maps[0].names)):
        yield overlays.save(overlays.by_block(maps, image), folder / f"{stem}-blocks.{kind}")
        for m, label in zip(maps, _stems([m.label for m in maps]), strict=True):
            if m.soft():
                yield overlays.save(overlays.semantic(m, image), folder / f"{stem}-{label}-clusters.{kind}")
        np.savez_compressed(folder / f"{stem}.npz", **arrays(maps, image))  # type: ignore[arg-type]
        yield folder / f"{stem}.npz"
    numbers(maps).to_csv(folder / "maps.csv", index=False)
    yield folder / "maps.csv"
    if len(maps) > 1:
        pairs(maps).to_csv(folder / "agreement.csv", index=False)
        yield folder / "agreement.csv"
    if compared:
        similarity.write(compared, folder / similarity.NAME)
        yield folder / similarity.NAME
    (folder / "maps.html").write_text(viewer.page(maps, alike.fragment(compared)), encoding="utf-8")
    yield folder / "maps.html"


def _stems(names: Sequence[str]) -> list[str]:
    """File names without suffix from any names, each once: letters, digits, dots and dashes only."""
    stems: list[str] = []
    for name in names:
        stem = re.sub(r"[^\w.-]+", "-", re.sub(r"\.\w{2,4}$", "", name)).strip("-.") or "image"
        number = sum(re.fullmatch(re.escape(stem) + r"(-\d+)?", s) is not None for s in stems)
        stems.append(f"{stem}-{number + 1}" if number else stem)
    return stems
