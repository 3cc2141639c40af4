"""How much of the GMACs saved is time saved? Every method beside fused dense, interleaved in one process.

    python benchmarks/speed.py --backbone deit_s --batch 32
    python benchmarks/speed.py --backbone swin_s --methods "dense,stvit,stvit_r"

Efficiency is the speed-up over the GMAC ratio: 1 means that all of the theory came true.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import served, table, write

from tokenbench import backbones
from tokenbench.measure import flops, speed
from tokenbench.model import Model

METHODS = "dense,random,topk,evit,dynamicvit,stvit,tome"
LEAST = {"stvit": 0.85, "evit": 0.85, "dynamicvit": 0.85, "topk": 0.85, "tome": 0.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="deit_s")
    parser.add_argument("--methods", default=METHODS, help="or all")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--cpu-time", action="store_true", help="on a busy machine: time on the CPU, of one thread")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    if args.cpu_time:
        torch.set_num_threads(1)
        speed.perf_counter = time.process_time  # other processes take time that passes, but not this one's

    backbone = backbones.create(args.backbone)
    settings, refused = served(args.methods, backbone)
    methods = {m.label: m for m in settings}
    models = {label: Model(backbone, m).to(args.device).eval() for label, m in methods.items()}
    images = backbones.random_images(backbone, args.batch).to(args.device)
    gmacs = {label: flops.gmacs(model, images[:1]) for label, model in models.items()}
    rounds = {"min_rounds": max(8, args.rounds), "max_rounds": 10 * max(8, args.rounds), "warmup": 2}
    timed = speed.measure(models, images, precision=args.precision, **rounds)

    lines, data = [], {}
    for label, found in timed.items():
        ratio = gmacs["dense"] / gmacs[label]
        least = LEAST.get(methods[label].name)
        low, mid, high = (value / ratio for value in (found.speedup_low, found.speedup, found.speedup_high))
        share = speed.reduction_share(models[label], images, args.precision, runs=args.rounds, warmup=1)
        lines.append(
            [
                label,
                f"{gmacs[label]:.3f}",
                f"{found.images_per_s:.1f}",
                f"{100 * found.spread:.0f} %",
                f"{ratio:.2f}",
                f"{found.speedup:.2f} [{found.speedup_low:.2f}, {found.speedup_high:.2f}]",
                f"{mid:.2f} [{low:.2f}, {high:.2f}]",
                "" if least is None else f"{least:.2f}",
                "" if share is None else f"{100 * share.median:.1f} %",
            ]
        )
        selecting = {"reduction_share": share and share.median, "reduction_share_spread": share and share.spread}
        data[label] = {"gmacs": gmacs[label], "efficiency": mid, **selecting, **vars(found)}
    head = ["method", "GMAC", "img/s", "spread", "GMAC ratio", "speed-up", "efficiency", "at least", "selecting"]
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if args.device == "cpu" else ""
    clock = (
        " Other work ran on the machine, so what is timed is the process's own time on the CPU, not the time that "
        "passed: trust the ratios more than the images per second."
        if args.cpu_time
        else ""
    )
    left_out = "".join(f" Left out, {label}: {why}." for label, why in refused.items())
    body = (
        f"{args.backbone}, random weights and images, batch {args.batch}, {args.precision}, eager{threads}, "
        f"{found.runs} rounds, interleaved. Speed-up over fused dense is the median over rounds, with its 95 % "
        f"interval.{clock}{left_out}\n\n{table(head, lines)}"
    )
    output = args.output or Path(__file__).parent / f"speed_{args.backbone}_b{args.batch}_{args.device}"
    write(output, "GMACs saved and time saved", body, {"methods": data}, args.device)


if __name__ == "__main__":
    main()
