"""What does a training step of each method cost beside plain timm's? Interleaved in one process.

    python benchmarks/training_step.py --backbone deit_s --batch 8

A step is forward, loss, backward and AdamW. The reference of a method with a teacher is timm's step plus the teacher's
forward pass. `images/s` counts training images.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from common import spread, table, text, write
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

from tokenbench import backbones
from tokenbench.methods.dense import Dense
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.training import optim
from tokenbench.training.task import MethodTask

METHODS = "dense,topk,evit,dynamicvit,tome,stvit"
MOST = 1.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="deit_s")
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--output", type=Path, default=None)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = torch.device(args.device)
    config = backbones.create(args.backbone)
    images = torch.randn(args.batch, *config.input_size, device=device)
    target = torch.randint(0, config.vit.num_classes, (args.batch,), device=device)

    def timed(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16")

    plain = timm.create_model(backbones.full_name(args.backbone)).to(device).train()
    stepper = create_optimizer_v2(plain, "adamw", lr=1e-4, weight_decay=0.05)

    def timm_step() -> None:
        with autocast():
            loss = cross_entropy(plain(images), target)
        loss.backward()
        stepper.step()
        stepper.zero_grad()

    teacher = Model(backbones.create(args.backbone), Dense()).to(device).eval().requires_grad_(False)

    def teach() -> None:
        with torch.no_grad(), autocast():
            teacher.run(images)

    work: dict[str, Callable[[], object]] = {"timm": timm_step, "teacher": teach}
    taught = {}
    for method in parse(args.methods):
        recipe = next(iter(method.recipes.values())).change({"backbone_wait": 0})
        taught[method.label] = recipe.teacher == "dense"
        model = Model(backbones.create(args.backbone), method).to(device)
        task = MethodTask(model, teacher if taught[method.label] else None, device).train()
        optimizer = optim.optimizer(model, recipe)

        def step(task: MethodTask = task, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with autocast():
                loss = task(images, target)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        work[method.label] = step

    times: dict[str, list[float]] = {name: [] for name in work}
    for index in range(args.rounds + 1):
        for name in random.sample(list(work), len(work)):
            seconds = timed(work[name])
            if index:  # the first round warms up
                times[name].append(seconds)

    lines, data = [], {}
    for name in work:
        own = spread(times[name])
        line = [name, text({k: 1e3 * v for k, v in own.items()}, "{:.0f}"), f"{args.batch / own['median']:.1f}"]
        if name in taught:
            base = [t + (h if taught[name] else 0) for t, h in zip(times["timm"], times["teacher"], strict=True)]
            ratio = spread([mine / other for mine, other in zip(times[name], base, strict=True)])
            line += ["timm + teacher" if taught[name] else "timm", text(ratio)]
            data[name] = {"seconds": own, "ratio": ratio}
        else:
            line += ["", ""]
            data[name] = {"seconds": own}
        lines.append(line)
    threads = f", {torch.get_num_threads()} threads" if args.device == "cpu" else ""
    body = (
        f"{args.backbone}, batch {args.batch}, {args.precision}, eager{threads}, AdamW, random images, "
        f"{args.rounds} rounds, interleaved; medians with quartiles. A ratio of at most {MOST} is the aim.\n\n"
        + table(["step", "ms", "images/s", "beside", "ratio"], lines)
    )
    output = args.output or Path(__file__).parent / f"training_step_{args.backbone}_b{args.batch}_{args.device}"
    write(output, "What a training step costs", body, {"steps": data}, args.device)


if __name__ == "__main__":
    main()
