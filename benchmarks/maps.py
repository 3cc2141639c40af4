"""Cluster maps by block, on photographs that ship, for the methods of the ImageNet run; a figure a photograph.

    python benchmarks/maps.py --weights vit_tiny_patch16_224.safetensors
    python benchmarks/maps.py --weights runs/photographs/seed0 --output benchmarks/photographs/figures \
        --methods "stvit[tokens=16],evit[keep_rate=0.7],dynamicvit[keep_rate=0.7],tome[r=13]"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tokenbench.data.pictures import PHOTOS
from tokenbench.maps.following import trace_all
from tokenbench.methods.sweep import parse
from tokenbench.reports.maps import overlays

HERE = Path(__file__).parent
METHODS = "tome[r=13],evit[keep_rate=0.7],topk[keep_rate=0.7],random[keep_rate=0.7]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--weights", default="auto", help="auto, or files and folders, of trained methods too")
    parser.add_argument("--backbone", default="vit_ti")
    parser.add_argument("--photos", default="bluebird,monarch,pickup", help="of those that ship")
    parser.add_argument("--output", type=Path, default=HERE / "imagenet" / "figures")
    flags = parser.parse_args()

    files = [PHOTOS / f"{name}.jpg" for name in flags.photos.split(",")]
    maps = trace_all(parse(flags.methods), flags.backbone, files, weights=flags.weights, say=print)
    flags.output.mkdir(parents=True, exist_ok=True)
    for image, file in enumerate(files):
        figure = overlays.by_block(maps, image, [3, 6, 9, 11])
        path = flags.output / f"maps_{flags.backbone}_{file.stem}.jpg"
        overlays.save(figure, path, dpi=130)
        print(path)


if __name__ == "__main__":
    main()
