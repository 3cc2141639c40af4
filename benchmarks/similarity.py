"""How alike trained methods are to dense, block by block: what they keep, how they group, and their features.

    python benchmarks/similarity.py --data-dir imagenette_224/val --weights runs/photographs/seed0

IoU of the kept patches and NMI of the clusters are those of every two methods after the last block, as TokenReduction
reports them (Haurum et al., 2308.04657); CKA is that of a method's features and dense's after each block, of the class
token and of the mean of all other tokens. Writes photographs/similarity.md, .json and .png.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import common
import matplotlib
import matplotlib.pyplot as plt

from tokenbench.maps.following import ready
from tokenbench.maps.similarity import Alike, measure
from tokenbench.methods.sweep import parse
from tokenbench.reports import style

METHODS = "dense,tome[r=13],evit[keep_rate=0.7],dynamicvit[keep_rate=0.7],stvit[tokens=16]"
HERE = Path(__file__).parent
AT_ONCE = 32
PARTS = {"cka_class": "class token", "cka_others": "mean of the other tokens"}


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--weights", required=True, help="A folder of trained weights, with those of dense.")
@click.option("--backbone", default="vit_ti", show_default=True)
@click.option("--methods", default=METHODS, help="The first is the one that others are compared with.")
@click.option("--limit", type=int, default=500, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=HERE / "photographs" / "similarity")
def main(data_dir: Path, weights: str, backbone: str, methods: str, limit: int, output: Path) -> None:
    """Run, compare, draw, write."""
    found = measure(ready(parse(methods), backbone, [data_dir], weights=weights, limit=limit).maps(AT_ONCE))
    write(found, output)


def write(found: Sequence[Alike], output: Path) -> None:
    """The figure, the page and the numbers."""
    first, last = found[0], max(alike.block for alike in found)
    likeness: dict[str, list[Alike]] = {}
    for alike in found:
        if alike.setting == first.setting:
            likeness.setdefault(alike.other, []).append(alike)
    between = {(a.setting, a.other): (a.kept_iou, a.cluster_nmi) for a in found if a.block == last}
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(likeness, output.with_suffix(".png"))
    common.write(
        output,
        "How alike are trained methods?",
        body(likeness, between, first),
        {
            "images": first.images,
            "cka_class_then_others_by_block": {
                label: [[getattr(block, part) for part in PARTS] for block in blocks]
                for label, blocks in likeness.items()
            },
            "kept_iou_then_cluster_nmi": {" / ".join(pair): both for pair, both in between.items()},
        },
    )


def draw(likeness: dict[str, list[Alike]], path: Path) -> None:
    with matplotlib.rc_context({**style.PAPER, "font.size": 8.5}):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.2), sharey=True, layout="constrained")
        for axis, (part, title) in zip(axes, PARTS.items(), strict=True):
            for label, blocks in likeness.items():
                values = [getattr(block, part) for block in blocks]
                if any(value is not None for value in values):
                    own = style.colour(blocks[0].other_method)
                    axis.plot(values, color=own, label=label, marker="o", ms=3)
            axis.set(title=title, xlabel="after block", xticks=range(0, len(next(iter(likeness.values()))), 2))
        axes[0].set(ylabel="CKA with dense")
        axes[1].legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=200)


def body(likeness: dict[str, list[Alike]], between: dict[tuple[str, str], tuple[float, float]], first: Alike) -> str:
    """The tables, in words and numbers."""
    count = len(next(iter(likeness.values())))
    shown = list(dict.fromkeys([*range(0, count, 3), count - 1]))
    head = ["CKA with dense after block", *map(str, shown)]
    lines = [
        [label, *(" / ".join(told(getattr(blocks[block], part)) for part in PARTS) for block in shown)]
        for label, blocks in likeness.items()
    ]
    labels = list(dict.fromkeys(label for pair in between for label in pair))
    cells = {pair: " / ".join(map(told, both)) for pair, both in between.items()}
    pairs = [[a, *(cells.get((a, b), "") for b in labels[1:])] for a in labels[:-1]]
    return (
        f"{first.backbone}, {first.images} images. ![CKA with dense by block](similarity.png)\n\n"
        "**Features**: class token / mean of the other tokens (linear, unbiased CKA; 1: alike up to a turn). "
        "STViT drops its class token before the first block.\n\n"
        + common.table(head, lines)
        + "\n\n**Tokens**, after the last block: IoU of the kept patches / NMI of the clusters, means over images.\n\n"
        + common.table(["", *labels[1:]], pairs)
    )


def told(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
