"""How fast backbones and detectors are: dense, dense with STViT-R's stem, and stvit_r, interleaved, apart and whole.

    python benchmarks/detectors.py --device cuda --precision bf16 --seconds 120

Weights and images are random. The least score is set so that so many boxes an image come before suppression as a
trained detector has, and 100 come after it, so that heads and masks have their work. On a GPU backbones are timed as
CUDA graphs too, where the time to start kernels does not count. What is left when the seconds are over is named.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from common import table, write
from torch import Tensor, nn

from tokenbench import Pyramid, backbones
from tokenbench.errors import TokenbenchError
from tokenbench.heads.detector import Counted, Design, Detector
from tokenbench.measure import flops, parts, speed
from tokenbench.measure.running import forward
from tokenbench.methods import get
from tokenbench.methods.stvit_r import grouped
from tokenbench.model import Model

METHODS = ("dense", "convstem", "stvit_r")
CLASSES = 80
BEFORE = 1000  # boxes of an image that come before suppression
GROUPS = (3, 6, 12, 24)  # windows along a group that are tried on a GPU
AIM = 1.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="swin_s")
    parser.add_argument("--size", default="800x1333")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--heads", default="cascade,mask")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=600, help="nothing is begun after them")
    parser.add_argument("--gmacs", type=Path, help="an earlier result, whose counts are taken")
    parser.add_argument("--output", type=Path, default=None, help="without suffix")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    torch.manual_seed(0)
    height, width = map(int, args.size.split("x"))
    gpu = args.device.startswith("cuda")
    kinds = args.heads.split(",")
    bodies = {name: body(args.backbone, name).to(args.device) for name in METHODS}
    detectors = {
        kind: {name: Detector(bodies[name], CLASSES, Design(head=kind)).to(args.device).eval() for name in METHODS}
        for kind in kinds
    }
    gmacs = json.loads(args.gmacs.read_text())["gmacs"] if args.gmacs else counted(args.backbone, kinds, height, width)
    output = args.output or Path(__file__).parent / f"detectors_{args.backbone}_{args.device}"
    cells: list[dict[str, Any]] = []

    def images(batch: int) -> Tensor:
        return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(args.device)

    def backbone(batch: int) -> list[dict[str, Any]]:
        return timed("backbone", bodies, images(batch), args.precision, args.rounds)

    def graphs(batch: int) -> list[dict[str, Any]]:
        given = images(batch)
        models = {name: Graph(model, given, args.precision) for name, model in bodies.items()}
        return timed("backbone as a CUDA graph", models, given, args.precision, args.rounds)

    def groups(batch: int) -> list[dict[str, Any]]:
        given, found, before = images(batch), [], grouped.ON_GPU
        for size in GROUPS:
            grouped.ON_GPU = size
            pair = {name: Graph(bodies[name], given, args.precision) for name in ("dense", "stvit_r")}
            what = f"backbone as a CUDA graph, groups of {size} windows"
            found += timed(what, pair, given, args.precision, args.rounds)[1:]
        grouped.ON_GPU = before
        return found

    def whole(kind: str) -> Callable[[int], list[dict[str, Any]]]:
        def work(batch: int) -> list[dict[str, Any]]:
            given, models = images(batch), detectors[kind]
            for model in models.values():
                threshold(model, given, args.precision)
            rows = timed(f"{kind} r-cnn", models, given, args.precision, max(5, args.rounds // 2))
            for row in rows:
                row["ms_by_part"] = parts.milliseconds(models[row["method"]], given, args.precision, runs=3)
            return rows

        return work

    sizes = [int(b) for b in args.batches.split(",")]
    todo: list[tuple[str, Callable[[int], list[dict[str, Any]]], int]] = [("backbone", backbone, b) for b in sizes]
    todo += [("backbone as a CUDA graph", graphs, b) for b in sizes if gpu]
    todo += [(f"{kind} r-cnn", whole(kind), b) for kind in detectors for b in sizes]
    todo += [("groups", groups, b) for b in sizes if gpu]
    while todo and time.monotonic() < until:
        what, work, batch = todo.pop(0)
        try:
            rows = work(batch)
        except (TokenbenchError, RuntimeError) as error:
            rows = [{"what": what, "batch": batch, "error": str(error).splitlines()[0]}]
        cells += rows
        left = [f"{name} at batch {size}" for name, _, size in todo]
        body_text = page(cells, gmacs, args, left)
        write(output, "How fast backbones and detectors are", body_text, {"cells": cells, "gmacs": gmacs}, args.device)


def body(backbone: str, method: str) -> nn.Module:
    """A pyramid of random weights, with LayerScale at 1."""
    made = Pyramid(Model(backbones.create(backbone), get(method)()).eval())
    for name, parameter in made.named_parameters():
        if "layer_scale" in name:
            nn.init.ones_(parameter)
    return made


class Graph(nn.Module):
    """A module's work on images of one size, recorded once and played back."""

    def __init__(self, model: nn.Module, images: Tensor, precision: str) -> None:
        super().__init__()
        self.given = images.clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # what is kept for the next image is made here
                forward(model, self.given, precision)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        cast = torch.autocast("cuda", torch.bfloat16, precision == "bf16", cache_enabled=False)
        with torch.cuda.graph(self.graph), cast, torch.inference_mode():
            self.out = model(self.given)

    def forward(self, images: Tensor) -> Any:
        self.given.copy_(images)
        self.graph.replay()
        return self.out


class Enough(Exception):
    """What was looked for has been seen."""


def threshold(model: Detector, images: Tensor, precision: str) -> None:
    """Set the least score so that about `BEFORE` boxes an image have more."""
    stages = getattr(model.heads, "stages", None)
    last: Any = model.heads if stages is None else stages[-1]
    seen: list[Tensor] = []

    def look(logits: Tensor, *_: Any) -> Any:
        seen.append(logits.softmax(dim=1)[:, 1:].flatten())
        raise Enough

    last.postprocess_detections = look
    with suppress(Enough):
        forward(model, images, precision)
    del last.postprocess_detections
    last.score_thresh = float(seen[0].topk(min(len(seen[0]), BEFORE * len(images))).values[-1])


def timed(what: str, models: dict[str, Any], images: Tensor, precision: str, rounds: int) -> list[dict[str, Any]]:
    """A row for each model."""
    found = speed.measure(models, images, precision=precision, min_rounds=rounds, max_rounds=rounds, warmup=3)
    return [{"what": what, "method": name, **vars(one)} for name, one in found.items()]


def counted(backbone: str, heads: list[str], height: int, width: int) -> dict[str, dict[str, float]]:
    """GMACs of backbone and whole."""
    found: dict[str, dict[str, float]] = {}
    with torch.device("meta"):
        image = torch.empty(1, 3, height, width)
        for name in METHODS:
            made = body(backbone, name)
            found[name] = {"backbone": flops.gmacs(made, image)}
            for kind in heads:
                whole = Counted(Detector(made, CLASSES, Design(head=kind)).eval())  # type: ignore[arg-type]
                found[name][f"{kind} r-cnn"] = flops.gmacs(whole, image)
    return found


def page(cells: list[dict[str, Any]], gmacs: Any, args: argparse.Namespace, left: list[str]) -> str:
    head = ["", "batch", "method", "GMAC", "GMAC ratio", "img/s", "ms", "speed-up", "ms by part"]
    lines = []
    for row in cells:
        if "error" in row:
            lines.append([row["what"], str(row["batch"]), row["error"], *[""] * 6])
            continue
        part = row["what"] if row["what"] in gmacs["dense"] else "backbone"
        own, dense = gmacs[row["method"]][part], gmacs["dense"][part]
        ends = "" if row["speedup_low"] is None else f" [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]"
        each = ", ".join(f"{name} {ms:.1f}" for name, ms in (row.get("ms_by_part") or {}).items())
        faster = "" if row["speedup"] is None else f"{row['speedup']:.2f}{ends}"
        lines.append(
            [
                *(row["what"], str(row["batch"]), row["method"], f"{own:.1f}", f"{dense / own:.2f}"),
                *(f"{row['images_per_s']:.1f}", f"{row['latency_p50_ms']:.2f}", faster, each),
            ]
        )
    text = (
        f"{args.backbone} at {args.size}, {args.precision}, eager, random weights and images; heads as published, "
        f"{CLASSES} classes, 1000 proposals, {BEFORE} boxes an image before suppression and 100 after it. GMACs are of "
        f"1000 boxes and 100 masks. Speed-ups are medians over interleaved rounds with 95 % intervals; the aim for "
        f"stvit_r's backbone is {AIM} on a GPU. Parts are awaited one by one, so their sum is more than the whole."
    )
    return f"{text}\n\n{table(head, lines)}" + (f"\n\nNot measured: {'; '.join(left)}." if left else "")


if __name__ == "__main__":
    main()
