"""Rebuild the weights that ship: deit_nano on Fashion-MNIST, a dense model, and from it every method on equal terms.

    make demo-weights                                  # Debian's dataset-fashion-mnist, or a download
    make demo-weights ARGS=--keep-start                # the dense model as it lies in benchmarks/training
    python scripts/demo_weights.py --data DIR --times 4

The dense model takes the stages in `STAGES`, the methods one sweep, `configs/demo.toml`; each is a `tokenbench train`
command, printed as it starts. What is there is not done again, and what was stopped goes on. On two CPU cores the dense
model takes about two hours if nothing else runs, the methods half an hour; a GPU takes minutes, and `--times 4` gives
each four times the epochs.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file
from torchvision.datasets import FashionMNIST

from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.weights import checkpoints, files

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "demo.toml"
LOGS = ROOT / "benchmarks" / "training"
START = LOGS / "deit_nano_start.safetensors"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Stage:
    """A training run on the way to the dense model that all methods start from."""

    name: str
    method: str
    epochs: float
    batch: int
    lr: float
    warmup: float


STAGES = (
    Stage("quarter", "random[keep_rate=0.25,blocks=0]", 7, 128, 0.015, 0.4),
    Stage("half", "random[keep_rate=0.5,blocks=0]", 1.5, 128, 0.005, 0.05),
    Stage("start", "dense", 1, 64, 0.004, 0.1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN, help="folder of the four idx files")
    parser.add_argument("--runs", type=Path, default=ROOT / "build" / "demo", help="where the runs go")
    parser.add_argument("--keep-start", action="store_true", help=f"begin with {START.relative_to(ROOT)}")
    parser.add_argument("--times", type=float, default=1.0, help="factor on all epochs")
    args = parser.parse_args()
    data = args.data if args.data.is_dir() else downloaded(args.runs)
    if not args.keep_start:
        before = None
        for stage in STAGES:
            before = dense(stage, before, data, args.runs / stage.name, args.times)
        ship(args.runs / "start", START)
    recipe = tomllib.loads(CONFIG.read_text())["recipe"]
    length = {key: recipe[key] * args.times for key in ("epochs", "warmup_epochs")}
    train(data, args.runs / "methods", length, "--weights", str(START))
    for result in sorted((args.runs / "methods").glob("*/model.safetensors")):
        ship(result.parent, checkpoints.SHIPPED / f"{name(files.header(result))}.safetensors")


def downloaded(folder: Path) -> Path:
    """The data set by torchvision, where there is a network."""
    FashionMNIST(str(folder), download=True)
    return folder / "FashionMNIST" / "raw"


def dense(stage: Stage, before: Path | None, data: Path, run: Path, times: float) -> Path:
    """The result of a stage, which begins with the one before."""
    length = {"epochs": stage.epochs * times, "warmup_epochs": stage.warmup * times}
    rates = {"batch": stage.batch, "lr_batch": stage.batch, "lr": stage.lr}
    begin = ("--set", "start=scratch") if before is None else ("--weights", str(before))
    train(data, run, length | rates, "--method", stage.method, "--teacher", "auto", *begin)
    return run / "model.safetensors"


def train(data: Path, output: Path, values: dict[str, float], *flags: str) -> None:
    """`tokenbench train` with the config, other values of its recipe, and more flags."""
    command = [sys.executable, "-m", "tokenbench", "train", "--config", str(CONFIG), *flags]
    command += ["--data-dir", str(data), "--output", str(output)]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={value:g}")]
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def name(header: dict[str, object]) -> str:
    """What weights are called that ship: by their method and its main knob."""
    method = make(get(str(header["method"])), dict(header["setting"]))
    return "deit_nano" if method.name == "dense" else f"deit_nano-{method.name}-{getattr(method, str(method.main))}"


def ship(run: Path, path: Path) -> None:
    """A run's result as float16, and its log in benchmarks/training."""
    tensors = {key: value.half() for key, value in load_file(run / "model.safetensors").items()}
    files.write(path, tensors, files.header(run / "model.safetensors"))
    shutil.copy(run / "log.jsonl", LOGS / f"{path.stem}.jsonl")


if __name__ == "__main__":
    main()
