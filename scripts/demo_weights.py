"""Rebuild the weights that ship: deit_nano on Fashion-MNIST, dense first and then every method from it.

    make demo-weights                                  # Debian's dataset-fashion-mnist, or a download
    python scripts/demo_weights.py --data DIR --only stvit,evit --times 4

Each stage is a `tokenbench train` command, printed as it starts, with configs/demo.toml and what stands in `STAGES`.
Stages whose result is there are skipped; one that was stopped goes on. On two CPU cores all of it takes about two hours
if nothing else runs; a GPU takes minutes, and `--times 4` gives each stage four times the epochs.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torchvision.datasets import FashionMNIST

from tokenbench.methods.sweep import parse
from tokenbench.weights import checkpoints, files

ROOT = Path(__file__).parents[1]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Stage:
    """One training run; `start` is the stage whose weights it begins with, and `changes` are other recipe values."""

    name: str
    method: str
    start: str | None
    epochs: float
    lr: float
    warmup: float
    changes: tuple[str, ...] = ()
    ships: bool = True


FIRST = ("batch=128", "lr_batch=128")
STAGES = (
    Stage("dense_quarter", "random[keep_rate=0.25,blocks=0]", None, 7, 0.015, 0.4, FIRST, ships=False),
    Stage("dense_half", "random[keep_rate=0.5,blocks=0]", "dense_quarter", 1.5, 0.005, 0.05, FIRST, ships=False),
    Stage("dense", "dense", "dense_half", 1, 0.004, 0.1),
    Stage("stvit", "stvit", "dense", 3, 0.006, 0.15),
    Stage("evit", "evit", "dense", 0.8, 0.003, 0.1),
    Stage("dynamicvit", "dynamicvit", "dense", 0.4, 0.004, 0.05, ("backbone_wait=0", "backbone_lr=0.5", "ema=0")),
    Stage("tome", "tome", "dense", 0.6, 0.003, 0.1),
    Stage("topk", "topk", "dense", 0.6, 0.003, 0.1),
    Stage("stvit_r", "stvit_r", "dense", 1, 0.006, 0.15),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four idx files")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "demo", help="where the runs go")
    parser.add_argument("--only", default="", help="stages, separated by commas; they begin with what --runs has")
    parser.add_argument("--times", type=float, default=1.0, help="factor on all epochs")
    args = parser.parse_args()
    data = args.data if args.data.is_dir() else downloaded(args.runs)
    for stage in STAGES:
        if not args.only or stage.name in args.only.split(","):
            train(stage, data, args.runs, args.times)
            if stage.ships:
                ship(stage, args.runs / stage.name)


def downloaded(folder: Path) -> Path:
    """The data set by torchvision, where there is a network."""
    FashionMNIST(str(folder), download=True)
    return folder / "FashionMNIST" / "raw"


def train(stage: Stage, data: Path, runs: Path, times: float) -> None:
    if (runs / stage.name / "model.safetensors").exists():
        return
    recipe = "finetune" if stage.start else "scratch"
    sets = [f"warmup_epochs={stage.warmup * times:g}", *stage.changes]
    command = [sys.executable, "-m", "tokenbench", "train", "--config", str(ROOT / "configs" / "demo.toml")]
    command += ["--method", stage.method, "--recipe", recipe, "--data-dir", str(data), "-o", str(runs / stage.name)]
    command += ["--epochs", f"{stage.epochs * times:g}", "--lr", str(stage.lr), "--save-every", "300"]
    command += [word for change in sets for word in ("--set", change)]
    if stage.start:
        command += ["--weights", str(runs / stage.start / "model.safetensors")]
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def ship(stage: Stage, run: Path) -> None:
    """The result as float16 in the package, and its log in benchmarks/training."""
    method = parse(stage.method)[0]
    name = "deit_nano" if method.name == "dense" else f"deit_nano-{method.name}-{getattr(method, str(method.main))}"
    tensors = {key: value.half() for key, value in load_file(run / "model.safetensors").items()}
    header = files.header(run / "model.safetensors")
    files.write(checkpoints.SHIPPED / f"{name}.safetensors", tensors, header)
    shutil.copy(run / "log.jsonl", ROOT / "benchmarks" / "training" / f"{name}.jsonl")


if __name__ == "__main__":
    main()
