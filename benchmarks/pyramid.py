"""Is the pyramid of STViT-R as fast as its GMACs say? Beside dense, and in the published form, interleaved.

    python benchmarks/pyramid.py --backbone swin_s --sizes 512x512,800x1333

The published form gathers every window's neighbourhood of projected keys; grouped windows share one crop and a bias.
What is timed is the process's own time on the CPU, of one thread, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import spread, table, text, write
from torch import Tensor

from tokenbench import Pyramid, backbones
from tokenbench.measure import flops
from tokenbench.measure.running import as_published
from tokenbench.methods import get
from tokenbench.model import Model

FORMS = ("dense", "stvit_r, gathered", "stvit_r, grouped")
GOALS = {"512x512": 1.33, "800x1333": 1.25}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="swin_s")
    parser.add_argument("--sizes", default="512x512,800x1333")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dense, sparse = (Pyramid(Model(backbones.create(args.backbone), get(m)()).eval()) for m in ("dense", "stvit_r"))
    for block in sparse.modules():  # LayerScale starts at 1e-5, and would hide where the forms differ
        for name in ("layer_scale_1", "layer_scale_2"):
            if hasattr(block, name):
                torch.nn.init.ones_(getattr(block, name))

    def gathered(images: Tensor) -> dict[str, Tensor]:
        with as_published(sparse):
            maps: dict[str, Tensor] = sparse(images)
            return maps

    work: dict[str, Callable[[Tensor], dict[str, Tensor]]] = dict(zip(FORMS, (dense, gathered, sparse), strict=True))
    lines, data = [], {}
    for size in args.sizes.split(","):
        height, width = map(int, size.split("x"))
        images = torch.randn(1, 3, height, width)
        gmacs = _gmacs(args.backbone, height, width)
        times: dict[str, list[float]] = {name: [] for name in work}
        with torch.inference_mode():
            old, new = gathered(images), sparse(images)
            apart = max(float((old[level] - new[level]).abs().max() / old[level].abs().max()) for level in old)
            for index in range(args.rounds + 1):
                for name in random.sample(FORMS, len(FORMS)):
                    began = time.process_time()
                    work[name](images)
                    if index:  # the first round warms up
                        times[name].append(time.process_time() - began)
        data[size] = {"largest_difference": apart}
        for name in FORMS:
            own = spread(times[name])
            ratio = spread([base / mine for base, mine in zip(times["dense"], times[name], strict=True)])
            least = min(times["dense"]) / min(times[name])
            data[size][name] = {"seconds": own, "least": min(times[name]), "speedup": ratio, "gmacs": gmacs[name]}
            goal = f"{GOALS[size]:.2f}" if name == FORMS[-1] and size in GOALS else ""
            seconds, share = f"{gmacs[name]:.1f}", f"{gmacs['dense'] / gmacs[name]:.2f}"
            lines.append([size, name, text(own, "{:.3f}"), seconds, share, text(ratio), f"{least:.2f}", goal])
    head = ["image", "form", "CPU s", "GMAC", "GMAC ratio", "speed-up", "of the least", "aim"]
    differences = " and ".join(f"{found['largest_difference']:.1g} at {size}" for size, found in data.items())
    body = (
        f"{args.backbone}, random weights with LayerScale 1, one random image, fp32, eager, fused attention, one "
        f"thread, {args.rounds} rounds, interleaved; the process's own time on the CPU, median [quartiles], and the "
        "ratio of the least of all rounds. Other work ran on the machine: trust the ratios more than the seconds. "
        "GMACs are of what runs; those reported of stvit_r are of the gathered form. Maps of the two forms differ "
        f"by at most {differences} of the largest value.\n\n{table(head, lines)}"
    )
    output = args.output or Path(__file__).parent / f"pyramid_{args.backbone}_cpu"
    write(output, "How fast the pyramid is", body, {"sizes": data})


def _gmacs(name: str, height: int, width: int) -> dict[str, float]:
    """Of the three forms, without arithmetic."""
    with torch.device("meta"):
        dense, sparse = (Pyramid(Model(backbones.create(name), get(m)()).eval()) for m in ("dense", "stvit_r"))
        images = torch.empty(1, 3, height, width)
    runs = flops.gmacs(sparse, images, published=False)
    return dict(zip(FORMS, (flops.gmacs(dense, images), flops.gmacs(sparse, images), runs), strict=True))


if __name__ == "__main__":
    main()
