"""How often are two copies of one model called different? Each run times both as `tokenbench run` times a method.

    python benchmarks/a_a.py --backbone deit_t --batch 8

A run calls a difference where the 95 % interval of the speed-up leaves out 1: at most 2 of 40 should.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from statistics import median

import torch
from common import spread, text, write

from tokenbench import backbones
from tokenbench.measure import speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="deit_t")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=10, help="least number in a run; up to ten times as many")
    parser.add_argument("--max-seconds", type=float, default=20.0, help="of a run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()
    backbone = backbones.create(args.backbone)
    first = backbone.vit.to(args.device).eval()
    models = {"dense": first, "again": copy.deepcopy(first)}
    images = backbones.random_images(backbone, args.batch).to(args.device)
    options = {"min_rounds": args.rounds, "max_rounds": 10 * args.rounds, "max_seconds": args.max_seconds, "warmup": 2}
    found = []
    for seed in range(args.runs):
        one = speed.measure(models, images, seed=seed, **options)["again"]
        found.append(vars(one))
        print(f"{seed + 1}: {one.speedup:.4f} [{one.speedup_low}, {one.speedup_high}], {one.runs} rounds", flush=True)
    called = sum(not one["speedup_low"] <= 1 <= one["speedup_high"] for one in found if one["speedup_low"] is not None)
    half = [(one["speedup_high"] - one["speedup_low"]) / 2 for one in found if one["speedup_low"] is not None]
    body = (
        f"{args.backbone}, batch {args.batch}, {torch.get_num_threads()} threads, {args.runs} runs of "
        f"{args.rounds} rounds or more.\n\n"
        f"- **{called} of {args.runs}** runs called a difference; {args.runs - len(half)} had too few rounds to say.\n"
        f"- {sum(one['noisy'] for one in found)} said that the machine was noisy.\n"
        f"- Half the width of the interval: {text(spread(half), '{:.3f}') if half else 'none'}; "
        f"rounds: {median(one['runs'] for one in found):.0f} (medians with quartiles).\n"
        f"- Speed-up: {text(spread([one['speedup'] for one in found]), '{:.4f}')}."
    )
    output = args.output or Path(__file__).parent / f"a_a_{args.backbone}_b{args.batch}_{args.device}"
    write(output, "A model against itself", body, {"called": called, "runs": found}, args.device)


if __name__ == "__main__":
    main()
