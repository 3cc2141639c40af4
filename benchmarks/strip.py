"""How STViT's clusters change while it learns: photographs in rows, updates of one training in columns.

    python benchmarks/strip.py

Reads photographs/strip (the pictures, and which of 16 tokens looks at each patch most after so many updates), writes
photographs/figures/training.png. A token has one colour throughout.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tokenbench.reports.maps import overlays

FOLDER = Path(__file__).parent / "photographs"


def main() -> None:
    found = np.load(FOLDER / "strip" / "clusters.npz")
    names, updates, clusters = found["names"], found["updates"], found["clusters"]
    with matplotlib.rc_context({"font.size": 8}):
        figure = Figure(figsize=(1.25 * (len(updates) + 1), 1.25 * len(names) + 0.3), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
        grid = figure.subplots(len(names), len(updates) + 1)
        for row, name in enumerate(names):
            picture = np.asarray(square(Image.open(FOLDER / "strip" / str(name)).convert("RGB")))
            shown = [picture] + [overlays.tinted(picture, overlays.spread(c[row], picture.shape[:2])) for c in clusters]
            for axes, image in zip(grid[row], shown, strict=True):
                axes.imshow(image)
                axes.set_axis_off()
        for axes, title in zip(grid[0], ["image", *(f"{u} updates" for u in updates)], strict=True):
            axes.set_title(title, fontsize=8)
        figure.savefig(FOLDER / "figures" / "training.png", dpi=170)
    print(FOLDER / "figures" / "training.png")


def square(image: Image.Image) -> Image.Image:
    """The middle of an image as the model saw it: 224 of a short side of 249 pixels, at twice that size."""
    side = round(min(image.size) * 0.9)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((448, 448), Image.Resampling.BICUBIC)


if __name__ == "__main__":
    main()
