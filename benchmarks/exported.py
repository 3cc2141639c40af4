"""Do pruning, another runtime and int8 add up? Every method in every runtime, all interleaved in one process.

    python benchmarks/exported.py --backbone deit_nano --batch 32          # the weights that ship, with accuracy
    python benchmarks/exported.py --backbone vit_s --batch 8 --weights random

Times are the process's own on the CPU, of one thread: other processes take time that passes, but not this one's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from common import table, write
from torch import nn

from tokenbench import backbones, data
from tokenbench.measure import accuracy, speed
from tokenbench.methods.sweep import parse
from tokenbench.shipping import exporting, quantising, runtimes
from tokenbench.weights import models

METHODS = "dense,evit,stvit"
CALIBRATED = 4  # batches of 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="deit_nano")
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    speed.perf_counter = time.process_time

    found: dict[str, nn.Module] = {}
    shipped = args.backbone == "deit_nano" and args.weights == "auto"
    with tempfile.TemporaryDirectory() as folder:
        for method in parse(args.methods):
            model, weights = models.made(method, args.backbone, args.weights)
            done = exporting.export(model, weights, Path(folder) / f"{method.name}.onnx", "onnx")
            config = model.backbone.config
            some = data.loader(data.sample(), config, 16, limit=16 * CALIBRATED) if shipped else None
            noise = [(backbones.random_images(model.backbone, 16, seed), None) for seed in range(CALIBRATED)]
            found[f"{method.label}, torch"] = model
            for runtime in runtimes.RUNTIMES:
                small = Path(folder) / f"{method.name}.{runtime}.int8.onnx"
                quantising.quantise(done.path, small, (images for images, _ in some or noise), done.header, runtime)
                found[f"{method.label}, {runtime}"] = runtimes.load(runtime, done.path)
                found[f"{method.label}, {runtime} int8"] = runtimes.load(runtime, small)
        images = backbones.random_images(model.backbone, args.batch)
        rounds = {"min_rounds": max(8, args.rounds), "max_rounds": max(8, args.rounds), "warmup": 1}
        timed = speed.measure(found, images, reference="dense, torch", **rounds)
        top1 = {}
        if shipped:
            loader = data.loader(data.sample(), config, 50, limit=args.limit)
            top1 = {name: said.top1 for name, said in accuracy.predict(found, loader).items()}
    lines = []
    for name, one in timed.items():
        label, _, runtime = name.partition(", ")
        same = one.images_per_s / timed[f"dense, {runtime}"].images_per_s
        lines.append(
            [
                label,
                runtime,
                *([f"{top1[name]:.2f}"] if top1 else []),
                f"{one.images_per_s:.1f}",
                f"{one.speedup:.2f} [{one.speedup_low:.2f}, {one.speedup_high:.2f}]",
                f"{same:.2f}",
            ]
        )
    head = ["method", "runtime", *(["top-1 %"] if top1 else []), "img/s", "over dense in torch", "over dense there"]
    what = f"the weights that ship, top-1 on {args.limit:,} images" if shipped else "random weights"
    body = (
        f"{args.backbone}, {what}, batch {args.batch}, float32 or int8 (static, weights by channel, ranges from "
        f"{16 * CALIBRATED} images), one thread, {one.runs} rounds, all interleaved. Speed-up over dense in torch is "
        "the median over rounds, with its 95 % interval; over dense in the same runtime it is the ratio of medians. "
        "Other work ran on the machine, so what is timed is the process's own time on the CPU: trust the ratios more "
        f"than the images per second.\n\n{table(head, lines)}"
    )
    versions = {name: __import__(name).__version__ for name in ("onnxruntime", "openvino")}
    body += "\n\n" + ", ".join(f"{name} {version}" for name, version in versions.items()) + "."
    output = args.output or Path(__file__).parent / f"exported_{args.backbone}_b{args.batch}_cpu"
    write(output, "Pruning, runtimes and int8", body, {"timed": {n: vars(t) for n, t in timed.items()}, "top1": top1})


if __name__ == "__main__":
    main()
