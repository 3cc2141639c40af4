"""Images per second of methods beside fused dense, over batch sizes and precisions, eager and compiled.

    python benchmarks/throughput.py --device cuda --seconds 150
    python benchmarks/throughput.py --device cuda --methods all --swin "" --precisions bf16,fp32 --eager

Each table is of models interleaved in one process, with random weights and images. Tables are measured in order until
the time is out; those left out are named. "fp32" is without TF32, "tf32" lets matmuls and convolutions use it; bf16 is
autocast. Efficiency is the speed-up over the GMAC ratio: 1 means that all of the theory came true. Speed-ups are the
median over rounds, with its 95 % interval. Methods whose counts depend on the image (ats, avit, ltmp, ppt, spvit) drop
here what random weights let them drop.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import served, table, write

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.measure import flops, memory, speed
from tokenbench.model import Model

VIT = "dense,topk,evit,tome,dynamicvit,stvit"
SWIN = "dense,stvit,stvit_r,dynamicvit"
HEAD = ["method", "GMAC", "img/s", "ms", "spread", "GMAC ratio", "speed-up", "efficiency", "selecting", "peak MiB"]


@dataclass(frozen=True)
class Cell:
    """What one table is measured under."""

    backbone: str
    methods: str
    batch: int
    precision: str  # fp32, tf32, bf16 or fp16
    compile: bool = False

    @property
    def title(self) -> str:
        return f"{self.backbone}, batch {self.batch}, {self.precision}, {'compiled' if self.compile else 'eager'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", default="deit_s")
    parser.add_argument("--methods", default=VIT, help="on the ViT, or all")
    parser.add_argument("--swin", default="swin_s")
    parser.add_argument("--batches", default="256,32,1", help="of the ViT; compiled at all but 1")
    parser.add_argument("--precisions", default="bf16,tf32,fp32", help="of the ViT; Swin and compiled: the first")
    parser.add_argument("--eager", action="store_true", help="nothing compiled")
    parser.add_argument("--swin-batch", type=int, default=64)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=300, help="no table is begun after them")
    parser.add_argument("--output", type=Path, default=None, help="without suffix")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    output = args.output or Path(__file__).parent / f"throughput_{args.vit}_{args.device}"

    made: dict[str, Models] = {}
    found: list[dict[str, Any]] = []
    batches, precisions = [int(b) for b in args.batches.split(",")], args.precisions.split(",")
    left = plan(Cell(args.vit, args.methods, 1, precisions[0]), batches, precisions, args.swin, args.swin_batch)
    left = [cell for cell in left if not (args.eager and cell.compile)]
    while left and time.monotonic() < until:
        cell = left.pop(0)
        if cell.backbone not in made:
            made[cell.backbone] = Models(cell.backbone, cell.methods, args.device)
        models = made[cell.backbone]
        rows = measured(cell, models)
        found.append({"cell": vars(cell), "title": cell.title, "methods": rows, "refused": models.refused})
        body = "\n\n".join([__doc__.split("\n\n")[2].strip(), *(page(one) for one in found)])
        if left:
            body += f"\n\nNot measured: {'; '.join(cell.title for cell in left)}."
        data = {"cells": found, "left_out": [cell.title for cell in left]}
        write(output, "Speed by batch size and precision", body, data, args.device)


def plan(vit: Cell, batches: list[int], precisions: list[str], swin: str, swin_batch: int) -> list[Cell]:
    """The tables, what matters most first."""
    cells = [replace(vit, batch=batch) for batch in batches]
    if swin:
        cells.append(Cell(swin, SWIN, swin_batch, precisions[0]))
    cells += [replace(vit, batch=batch, precision=precision) for precision in precisions[1:] for batch in batches]
    return cells + [replace(vit, batch=batch, compile=True) for batch in batches if batch > 1]


class Models:
    """A backbone's models, whose GMACs are counted once."""

    def __init__(self, name: str, methods: str, device: str) -> None:
        backbone = backbones.create(name)
        self.backbone: Backbone = backbone
        settings, self.refused = served(methods, backbone)
        self.models = {method.label: Model(backbone, method).to(device).eval() for method in settings}
        self.device = device
        one = backbones.random_images(backbone, 1).to(device)
        self.gmacs = {label: flops.gmacs(model, one) for label, model in self.models.items()}


def measured(cell: Cell, made: Models) -> dict[str, dict[str, Any]]:
    """Speed, time in reducers and peak memory of each method."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cell.precision == "tf32"
    precision = "fp32" if cell.precision == "tf32" else cell.precision
    images = backbones.random_images(made.backbone, cell.batch).to(made.device)
    timed = speed.measure(
        made.models, images, precision=precision, compile=cell.compile, min_rounds=10, max_rounds=60, max_seconds=3
    )
    rows: dict[str, dict[str, Any]] = {}
    for label, model in made.models.items():
        ratio = made.gmacs["dense"] / made.gmacs[label]
        one = timed[label]
        eager = not cell.compile  # of the compiled model neither is known
        share = speed.reduction_share(model, images, precision, runs=5, warmup=1) if eager else None
        rows[label] = {
            "gmacs": made.gmacs[label],
            "gmac_ratio": ratio,
            "efficiency": [value / ratio for value in (one.speedup_low, one.speedup, one.speedup_high)],
            "reduction_share": share and share.median,
            "peak_memory_mib": memory.peak(model, images, precision) / 2**20 if eager else None,
            **vars(one),
        }
    return rows


def page(found: dict[str, Any]) -> str:
    lines = []
    for label, row in found["methods"].items():
        low, mid, high = row["efficiency"]
        share, peak = row["reduction_share"], row["peak_memory_mib"]
        lines.append(
            [
                label,
                f"{row['gmacs']:.3f}",
                f"{row['images_per_s']:.0f}",
                f"{row['latency_p50_ms']:.2f}",
                f"{100 * row['spread']:.1f} %",
                f"{row['gmac_ratio']:.2f}",
                f"{row['speedup']:.2f} [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]",
                f"{mid:.2f} [{low:.2f}, {high:.2f}]",
                "" if share is None else f"{100 * share:.1f} %",
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    runs = next(iter(found["methods"].values()))["runs"]
    refused = "".join(f" Left out, {label}: {why}." for label, why in found["refused"].items())
    return f"## {found['title']}\n\n{runs} rounds.{refused}\n\n{table(HEAD, lines)}"


if __name__ == "__main__":
    main()
