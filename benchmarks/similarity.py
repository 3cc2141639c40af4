"""How alike trained methods are to dense, block by block: what they keep, how they group, and their features.

    python benchmarks/similarity.py --data-dir imagenette_224/val --weights runs/photographs/seed0

IoU of the kept patches and NMI of the clusters are those of every two methods after the last block, as TokenReduction
reports them (Haurum et al., 2308.04657); CKA is that of a method's features and dense's after each block, of the class
token and of the mean of all other tokens. Writes photographs/similarity.md, .json and .png.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import click
import common
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track

from tokenbench.data import pictures
from tokenbench.maps.arrays import agreement
from tokenbench.maps.following import follow, prepare
from tokenbench.measure.likeness import cka
from tokenbench.methods.sweep import parse
from tokenbench.reports import style
from tokenbench.weights import sources

METHODS = "dense,tome[r=13],evit[keep_rate=0.7],dynamicvit[keep_rate=0.7],stvit[tokens=16]"
HERE = Path(__file__).parent
AT_ONCE = 32


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", required=True, help="A folder of trained weights, with those of dense.")
@click.option("--backbone", default="vit_ti", show_default=True)
@click.option("--methods", default=METHODS, help="The first is the one that others are compared with.")
@click.option("--limit", type=int, default=500, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=HERE / "photographs" / "similarity")
def main(data_dir: Path, weights: str, backbone: str, methods: str, limit: int, output: Path) -> None:
    """Run, compare, draw, write."""
    settings, files = parse(methods), pictures.find([data_dir], limit)
    given = sources.find(weights, backbone)
    dense, _ = prepare(backbone, given, 0, None)
    models = {m.label: sources.model(m, dense, given.trained(m, backbone))[0].eval() for m in settings}
    features: dict[str, list[np.ndarray]] = {label: [] for label in models}
    pairs: dict[tuple[str, str], list[np.ndarray]] = {}
    for first in track(range(0, len(files), AT_ONCE), "images"):
        images = pictures.inputs([pictures.open_image(f) for f in files[first : first + AT_ONCE]], dense.config)
        for label, model in models.items():
            features[label].append(by_block(model, images))
        names = tuple(str(i) for i in range(len(images)))
        maps = [follow(m, dense, images, names, own=given.trained(m, backbone)) for m in settings]
        for a, b in combinations(maps, 2):
            pairs.setdefault((a.label, b.label), []).append(np.array(agreement(a, b)))
    whole = {
        label: np.concatenate(parts, 2) for label, parts in features.items()
    }  # blocks, class or mean, images, width
    reference, *others = whole
    likeness = {
        label: [
            [cka(mine, theirs) for mine, theirs in zip(*block, strict=True)]
            for block in zip(whole[label], whole[reference], strict=True)
        ]
        for label in others
    }
    between = {pair: np.concatenate(parts, 1).mean(1).tolist() for pair, parts in pairs.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(likeness, {m.label: m.name for m in settings}, output.with_suffix(".png"))
    common.write(
        output,
        "How alike are trained methods?",
        body(likeness, between, list(models), len(files), backbone),
        {
            "images": len(files),
            "cka_class_then_mean_by_block": likeness,
            "kept_iou_then_cluster_nmi": {" / ".join(pair): found for pair, found in between.items()},
        },
    )


def by_block(model: torch.nn.Module, images: torch.Tensor) -> np.ndarray:
    """The class token and the mean of the others after each block, (blocks, 2, B, D)."""
    with torch.inference_mode():
        steps = model.run(images).trace
    both = [(t.x[:, 0], t.x[:, t.prefix :].mean(1)) for t in steps]
    return np.array([[part.numpy() for part in block] for block in both])


def draw(likeness: dict[str, list[list[float]]], names: dict[str, str], path: Path) -> None:
    with matplotlib.rc_context({**style.PAPER, "font.size": 8.5}):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True, layout="constrained")
        for axis, part, title in zip(axes, (0, 1), ("class token", "mean of the other tokens"), strict=True):
            for label, blocks in likeness.items():
                axis.plot(
                    [block[part] for block in blocks], color=style.colour(names[label]), label=label, marker="o", ms=3
                )
            axis.set(title=title, xlabel="after block", xticks=range(0, len(next(iter(likeness.values()))), 2))
        axes[0].set(ylabel="CKA with dense")
        axes[1].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=200)


def body(
    likeness: dict[str, list[list[float]]],
    between: dict[tuple[str, str], list[float]],
    labels: list[str],
    images: int,
    backbone: str,
) -> str:
    """The tables, in words and numbers."""
    count = len(next(iter(likeness.values())))
    blocks = [*range(0, count, 3), count - 1]
    head = ["CKA with dense after block", *map(str, dict.fromkeys(blocks))]
    lines = [
        [label, *(" / ".join(f"{value:.2f}" for value in found[block]) for block in dict.fromkeys(blocks))]
        for label, found in likeness.items()
    ]
    cells = {pair: " / ".join(f"{value:.2f}" for value in found) for pair, found in between.items()}
    pairs = [[a, *(cells.get((a, b), "") for b in labels[1:])] for a in labels[:-1]]
    return (
        f"{backbone}, {images} images. ![CKA with dense by block](similarity.png)\n\n"
        "**Features**: class token / mean of the other tokens (linear, unbiased CKA; 1: alike up to a turn).\n\n"
        + common.table(head, lines)
        + "\n\n**Tokens**, after the last block: IoU of the kept patches / NMI of the clusters, means over images.\n\n"
        + common.table(["", *labels[1:]], pairs)
    )


if __name__ == "__main__":
    main()
