"""Detection and segmentation from nothing: dense, dense with STViT-R's stem, and stvit_r, by one recipe and seed each.

    python benchmarks/dense_tasks.py nuclei --data-dir dsb2018_coco --output runs/nuclei
    python benchmarks/dense_tasks.py camvid --data-dir camvid_240 --output runs/camvid
    python benchmarks/dense_tasks.py coco_mini --data-dir coco_mini_512 --output runs/coco_mini

Each trains what is not trained yet, measures it, and leaves rows, tables and logs in `benchmarks/NAME`. About 20
minutes of two cores a model. Stopped, the same command goes on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

METHODS = ("dense", "convstem", "stvit_r")
HERE = Path(__file__).parent
SMALL = "head=mask,width=64,fc=256,mask_convs=2,samples=2,before=600,after=300"


@dataclass(frozen=True)
class Experiment:
    """What is trained, for how long, and at which size it is timed."""

    task: str
    updates: int
    size: str
    changes: tuple[str, ...] = ()


EXPERIMENTS = {
    "nuclei": Experiment(f"detection[{SMALL},anchor=8,cap=300,short=0]", 2000, "256x320"),
    "coco_mini": Experiment(
        f"detection[{SMALL},anchor=16,short=320,long=512]",
        1500,
        "320x448",
        ("shorts=256/288/320/352", "long=512", "crop=224", "turns=false", "batch=4", "lr_batch=4"),
    ),
    "camvid": Experiment("segmentation[width=64,short=0]", 2500, "240x320", ("low=0.75", "high=1.5")),
}


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)))
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Runs go here.")
@click.option("--updates", type=int, help="Other than the experiment's.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
def main(name: str, data_dir: Path, output: Path, updates: int | None, seeds: int, device: str, precision: str) -> None:
    """Train and measure."""
    experiment, kept = EXPERIMENTS[name], HERE / name
    total = updates or experiment.updates
    shared = ["--task", experiment.task, "--backbone", "swin_nano", "--data-dir", str(data_dir), "--device", device]
    changes = [f"updates={total}", f"warmup_updates={total // 10}", *experiment.changes]
    for seed in range(seeds):
        folders = {method: output / f"seed{seed}" / method for method in METHODS}
        for method, folder in folders.items():
            if not (folder / "model.safetensors").exists():
                chosen = ["--method", method, "--recipe", "mini", "--seed", str(seed), "--precision", precision]
                given = [word for change in changes for word in ("--set", change)]
                _call("train", *shared, *chosen, *given, "--eval-every", "10", "-o", str(folder))
            logs = kept / "logs"
            logs.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / "log.jsonl", logs / f"{method}-seed{seed}.jsonl")
        weights = ",".join(map(str, folders.values()))
        chosen = ["--methods", ",".join(METHODS), "--weights", weights, "--image-size", experiment.size]
        _call("run", *shared, *chosen, "--seed", str(seed), "-o", str(kept / "rows.jsonl"))
    _call("report", str(kept / "rows.jsonl"), "-o", str(kept))


def _call(*words: str) -> None:
    print("tokenbench", *words, file=sys.stderr)
    subprocess.run([sys.executable, "-m", "tokenbench", *words], check=True)


if __name__ == "__main__":
    main()
