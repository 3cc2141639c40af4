"""Are methods as fast as they promise in every form that models are run in: compiled, in bf16, in another runtime?

    python benchmarks/forms.py --seconds 3000
    python benchmarks/forms.py --methods all --forms eager,bf16 --batches 256 --device cuda

A cell is one backbone at one batch size in one form, all methods interleaved in one process, with random weights and
images. "eager", "bf16" and "fp16" (autocast) and "tf32" are torch as it is, "compile" and "compile-bf16" are
torch.compile with one graph for all sizes but 1, "compile-frozen" with the weights as constants in it, "onnxruntime"
and "openvino" run exports on the CPU. A speed-up is over dense in the same form, the median over rounds with its 95 %
interval; realised is its share of the GMAC ratio: 1 means that all of the theory came true. Methods whose counts depend
on the image (ats, avit, ltmp, ppt, spvit) drop here what random weights let them drop.

Each cell is written once it is measured. Those that the output has from this machine are not measured again, and none
is begun once `--seconds` are over.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import served, table, write
from torch import nn

from tokenbench import backbones
from tokenbench.errors import first_line
from tokenbench.measure import flops, memory, speed
from tokenbench.measure.compiling import Compiled
from tokenbench.measure.machine import HELD
from tokenbench.methods import get
from tokenbench.model import Model
from tokenbench.runs import environment
from tokenbench.shipping import exporting, runtimes
from tokenbench.weights import models as weighted

VIT = "dense,topk,evit,tome,dynamicvit,stvit"
SWIN = "dense,stvit,stvit_r,dynamicvit"
HEAD = ["method", "GMAC", "img/s", "ms", "spread", "GMAC ratio", "speed-up", "realised", "selecting", "peak MiB"]
HERE = ("hardware", "threads", "torch", "timm")  # what cells must have been measured on to stand as they are


@dataclass(frozen=True)
class Cell:
    """What one table is measured under."""

    backbone: str
    methods: str
    batch: int
    form: str

    @property
    def title(self) -> str:
        return f"{self.backbone}, batch {self.batch}, {self.form}"

    @property
    def compiled(self) -> bool:
        return self.form.startswith("compile")

    @property
    def precision(self) -> str:
        return next((name for name in ("bf16", "fp16") if self.form.endswith(name)), "fp32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vit", default="deit_s")
    parser.add_argument("--methods", default=VIT, help="on the ViT, or all")
    parser.add_argument("--batches", default="32,1,128", help="of the ViT")
    parser.add_argument("--forms", default="eager,compile,bf16,onnxruntime", help="of the ViT; Swin: the first")
    parser.add_argument("--swin", default="", help="none unless given, as swin_s")
    parser.add_argument("--swin-batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=3000, help="no cell is begun after them")
    parser.add_argument("--cell-seconds", type=float, default=120, help="no rounds are added after them, nor beyond 60")
    parser.add_argument("--rounds", type=int, default=8, help="least number in a cell")
    parser.add_argument("--output", type=Path, default=None, help="without suffix")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    output = args.output or Path(__file__).parent / f"forms_{args.vit}_{args.device}"
    forms = args.forms.split(",")
    cells = [Cell(args.vit, args.methods, int(batch), form) for form in forms for batch in args.batches.split(",")]
    cells += [Cell(args.swin, SWIN, args.swin_batch, forms[0])] if args.swin else []
    env = environment.describe(args.device)
    here = {name: env[name] for name in HERE}
    found = _before(output.with_suffix(".json"), here)
    made: dict[str, Models] = {}
    why: dict[str, str] = {}
    for cell in cells:
        if cell.title in found or time.monotonic() > until:
            continue
        models = made.setdefault(cell.backbone, Models(cell.backbone, cell.methods, args.device))
        began = time.monotonic()
        try:
            rows, failed = measured(cell, models, args.rounds, args.cell_seconds)
        except Exception as error:  # the compiler's, most likely; the other cells are worth having
            why[cell.title] = f" ({first_line(error)})"
            continue
        seconds = round(time.monotonic() - began, 1)
        found[cell.title] = {
            "cell": asdict(cell),
            "here": here,
            "seconds": seconds,
            "methods": rows,
            "left_out": failed,
        }
        _write(output, cells, found, why, args.device)
    _write(output, cells, found, why, args.device)


def _before(path: Path, here: dict[str, Any]) -> dict[str, Any]:
    """The cells that were measured on this machine, by title."""
    known = json.loads(path.read_text())["cells"] if path.is_file() else {}
    return {title: one for title, one in known.items() if one["here"] == here}


class Models:
    """A backbone's models, whose GMACs are counted once, in each form that they are asked for."""

    def __init__(self, name: str, methods: str, device: str) -> None:
        self.backbone = backbones.create(name)
        settings, self.refused = served(methods, self.backbone)
        self.eager = {method.label: Model(self.backbone, method).to(device).eval() for method in settings}
        self.device = device
        one = backbones.random_images(self.backbone, 1).to(device)
        self.gmacs = {label: flops.gmacs(model, one) for label, model in self.eager.items()}
        self._forms: dict[str, tuple[dict[str, nn.Module], dict[str, str]]] = {}

    def form(self, cell: Cell) -> tuple[dict[str, nn.Module], dict[str, str]]:
        """The models in the cell's form, and why others are not there."""
        kind = cell.form if cell.form in runtimes.RUNTIMES or cell.compiled else "eager"
        if kind not in self._forms:
            self._forms[kind] = self._made(kind)
        return self._forms[kind]

    def _made(self, kind: str) -> tuple[dict[str, nn.Module], dict[str, str]]:
        made: dict[str, nn.Module] = {}
        failed = dict(self.refused)
        torch.compiler.reset()  # or what was compiled in another form would serve here too
        _, random = weighted.made(get("dense")(), self.backbone.name, "random")
        with tempfile.TemporaryDirectory() as folder:
            for place, (label, model) in enumerate(self.eager.items()):
                try:
                    if kind in runtimes.RUNTIMES:
                        done = exporting.export(model, random, Path(folder) / f"{place}.onnx", "onnx")
                        made[label] = runtimes.load(kind, done.path)
                    else:
                        made[label] = model if kind == "eager" else Compiled(model, kind.endswith("-frozen"))
                except Exception as error:
                    failed[label] = first_line(error)
        return made, failed


def measured(cell: Cell, made: Models, rounds: int, seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """Speed, and of what runs as it is the time in reducers and the peak memory; and what is left out, and why."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cell.form == "tf32"
    images = backbones.random_images(made.backbone, cell.batch).to(made.device)
    models, left_out = made.form(cell)
    options: dict[str, Any] = {"precision": cell.precision, "compile": cell.compiled, "warmup": 2}
    options |= {"min_rounds": rounds, "max_rounds": max(rounds, 60), "max_seconds": seconds}
    timed = speed.measure(models, images, shaped=cell.form in runtimes.RUNTIMES, **options)
    rows: dict[str, dict[str, Any]] = {}
    for label, one in timed.items():
        ratio = made.gmacs["dense"] / made.gmacs[label]
        whole = isinstance(models[label], Model)
        share = speed.reduction_share(models[label], images, cell.precision, runs=5, warmup=1) if whole else None
        rows[label] = {
            "gmacs": made.gmacs[label],
            "gmac_ratio": ratio,
            "realised": [value and value / ratio for value in (one.speedup_low, one.speedup, one.speedup_high)],
            "reduction_share": share and share.median,
            "peak_memory_mib": memory.peak(models[label], images, cell.precision) / 2**20 if whole else None,
            **vars(one),
        }
    return rows, left_out


def _write(output: Path, cells: list[Cell], found: dict[str, Any], why: dict[str, str], device: str) -> None:
    asked = [cell.title for cell in cells if cell.title in found]
    found = {title: found[title] for title in dict.fromkeys([*asked, *found])}
    left = [cell.title + why.get(cell.title, "") for cell in cells if cell.title not in found]
    body = [__doc__.split("\n\n")[2].replace("\n", " "), summary(found), *(page(*one) for one in found.items())]
    body += [f"Not measured: {'; '.join(left)}."] if left else []
    write(output, "Methods in every form", "\n\n".join(body), {"cells": found, "not_measured": left}, device)


def summary(found: dict[str, Any]) -> str:
    """What is realised in each cell, and what dense takes in its form beside eager at the same batch size."""
    labels = list(dict.fromkeys(label for one in found.values() for label in one["methods"]))
    lines = []
    for title, one in found.items():
        cell, rows = one["cell"], one["methods"]
        eager = found.get(Cell(**{**cell, "form": "eager"}).title)
        over = eager and rows["dense"]["images_per_s"] / eager["methods"]["dense"]["images_per_s"]
        each = [f"{rows[label]['realised'][1]:.2f}" if label in rows else "" for label in labels if label != "dense"]
        lines.append([title, f"{over:.2f}" if over else "", *each])
    return table(["realised", "dense over eager", *(label for label in labels if label != "dense")], lines)


def page(title: str, found: dict[str, Any]) -> str:
    lines = []
    for label, row in found["methods"].items():
        share, peak = row["reduction_share"], row["peak_memory_mib"]
        lines.append(
            [
                label,
                f"{row['gmacs']:.3f}",
                f"{row['images_per_s']:.1f}",
                f"{row['latency_p50_ms']:.2f}",
                f"{100 * row['spread']:.1f} %",
                f"{row['gmac_ratio']:.2f}",
                _interval([row["speedup_low"], row["speedup"], row["speedup_high"]]),
                _interval(row["realised"]),
                "" if share is None else f"{100 * share:.1f} %",
                "" if peak is None else f"{peak:.0f}",
            ]
        )
    one = next(iter(found["methods"].values()))
    noisy = [label for label, row in found["methods"].items() if row["noisy"]]
    told = [f"{one['runs']} rounds, {found['seconds']:.0f} s in all"]
    told += [f"compiling took {sum(row['compile_s'] or 0 for row in found['methods'].values()):.0f} s"] * bool(
        one["compile_s"]
    )
    told += [f"{name} {100 * value:.1f} %" for name, value in one["machine"].items() if value and name in HELD]
    told += [f"not known to {100 * one['goal']:.0f} %: {', '.join(noisy)}"] if noisy else []
    left_out = "".join(f" Left out, {label}: {why.rstrip('.')}." for label, why in found["left_out"].items())
    return f"## {title}\n\n{'; '.join(told)}.{left_out}\n\n{table(HEAD, lines)}"


def _interval(values: list[float | None]) -> str:
    low, middle, high = (f"{value:.2f}" if value else "" for value in values)
    return f"{middle} [{low}, {high}]" if low else middle


if __name__ == "__main__":
    main()
