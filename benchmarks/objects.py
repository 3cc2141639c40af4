"""How well what methods keep, and how they group, follows the objects of COCO: a table, by their masks.

    python benchmarks/objects.py --data-dir coco_mini_512 --weights runs/photographs/seed0

A patch belongs to the object that covers most of it, to the background where none covers half. Each setting is looked
at after its last block, beside what knows nothing of the image: patches at random, patches near the middle, and
squares. Writes photographs/objects.md and .json.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import common
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenbench.data.coco import Scenes, decoded, open_coco
from tokenbench.maps.arrays import TokenMaps, nmi
from tokenbench.maps.following import trace_all
from tokenbench.methods.sweep import parse

METHODS = (
    "stvit[tokens=16],tome[r=13],evit[keep_rate=0.7],dynamicvit[keep_rate=0.7],topk[keep_rate=0.7],"
    "radial[keep_rate=0.7],random[keep_rate=0.7]"
)
HERE = Path(__file__).parent
CHUNK = 30  # images traced at once
Labels = NDArray[np.integer]


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", required=True, help="A folder of trained weights, with those of dense.")
@click.option("--backbone", default="vit_ti", show_default=True)
@click.option("--methods", default=METHODS)
@click.option("--limit", type=int)
@click.option("--output", type=click.Path(path_type=Path), default=HERE / "photographs" / "objects")
def main(data_dir: Path, weights: str, backbone: str, methods: str, limit: int | None, output: Path) -> None:
    """Trace, compare with masks, write."""
    scenes = open_coco(data_dir, "val")
    found: dict[str, list[dict[str, float]]] = {}
    seen = 0
    for some in chunks([i for i in range(len(scenes)) if scenes.things[i]][:limit]):
        files = [scenes.root / scenes.files[i] for i in some]
        maps = trace_all(parse(methods), backbone, files, weights=weights)
        for place, image in enumerate(some):
            objects = patches(scenes, image, maps[0].grid)
            if objects.any():
                seen += 1
                for m in maps:
                    found.setdefault(m.label, []).append(numbers(m, place, objects))
    means = {label: {name: mean(rows, name) for name in rows[0]} for label, rows in found.items()}
    head = ["after the last block", "clusters", "kept %", "of the objects' patches kept %", "kept for an object"]
    head += ["purity %", "squares' purity %", "NMI", "squares' NMI"]
    body = (
        f"{backbone}, {seen} images of {data_dir.name}'s val with an object in the crop that the model sees. "
        "**Kept for an object**: what part of its objects' patches an image keeps over what part of all its patches: 1 "
        "is chance. **Purity**: patches that lie with most of their cluster in one object, or in the background; "
        "squares are as many blocks of a grid. NMI is that of clusters and objects. Means over images.\n\n"
        + common.table(head, [line(label, values) for label, values in means.items()])
    )
    common.write(output, "Do tokens follow objects?", body, {"images": seen, "means": means})


def chunks(places: Sequence[int]) -> Iterator[Sequence[int]]:
    for first in range(0, len(places), CHUNK):
        yield places[first : first + CHUNK]


def patches(scenes: Scenes, image: int, grid: tuple[int, int]) -> Labels:
    """The object of each patch, counted from 1, and 0 for the background, (rows, columns)."""
    covers = []
    for thing in scenes.things[image]:
        mask = Image.fromarray(decoded(thing.outline, scenes.sizes[image]) * 255)
        short = min(mask.size)
        side = short * 224 / 249  # as timm crops: 249 pixels of the short side, and 224 of their middle
        left, top = (mask.width - side) / 2, (mask.height - side) / 2
        cell = mask.resize(grid[::-1], Image.Resampling.BOX, box=(left, top, left + side, top + side))
        covers.append(np.asarray(cell, float) / 255)
    best = np.stack(covers)
    return np.where(best.max(0) >= 0.5, best.argmax(0) + 1, 0)


def numbers(m: TokenMaps, place: int, objects: Labels) -> dict[str, float]:
    """What is told of one image."""
    kept, clusters = m.kept()[place], m.clusters()[place]
    inside = objects > 0
    many = len(np.unique(clusters[kept]))
    blocks = squares(many, kept.shape)
    return {
        "clusters": many,
        "kept": kept.mean(),
        "objects_kept": kept[inside].mean(),
        "lift": kept[inside].mean() / kept.mean(),
        "purity": purity(clusters, objects),
        "squares_purity": purity(blocks, objects),
        "nmi": nmi(clusters, objects),
        "squares_nmi": nmi(blocks, objects),
    }


def purity(clusters: Labels, objects: Labels) -> float:
    """The share of patches whose cluster has more patches of no other object."""
    most = sum(np.unique(objects[clusters == c], return_counts=True)[1].max() for c in np.unique(clusters))
    return float(most / clusters.size)


def squares(many: int, shape: tuple[int, ...]) -> Labels:
    """Blocks of a grid, as near to so many as rows and columns of them can be."""
    rows = max(1, round(many**0.5))
    cols = max(1, round(many / rows))
    down, across = (np.arange(n) * k // n for n, k in zip(shape, (rows, cols), strict=True))
    return down[:, None] * cols + across


def mean(rows: Sequence[dict[str, float]], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def line(label: str, values: dict[str, Any]) -> list[str]:
    merges = values["kept"] > 0.999
    hundred = [f"{100 * values[name]:.1f}" for name in ("kept", "objects_kept")]
    groups = [f"{100 * values['purity']:.1f}", f"{100 * values['squares_purity']:.1f}"]
    groups += [f"{values[name]:.3f}" for name in ("nmi", "squares_nmi")]
    lift = "–" if merges else f"{values['lift']:.2f}"
    return [label, f"{values['clusters']:.0f}" if merges else "–", *hundred, lift, *(groups if merges else ["–"] * 4)]


if __name__ == "__main__":
    main()
