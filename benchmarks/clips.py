"""Videos of fights and of none: methods trained alike, the same videos in the same order, three seeds.

    python benchmarks/clips.py swin3d --data-dir fight300_256 --output runs/swin3d
    python benchmarks/clips.py vit --data-dir fight300_256 --output runs/vit --weights vit_tiny_patch16_224.safetensors

`swin3d` is a small Video Swin from nothing, for no weights of videos are here; `vit` a ViT of ImageNet on frames. Each
trains what is not trained yet, the methods of a seed on the same batches and the seeds beside each other, measures it,
and leaves rows, predictions, logs and a table in `benchmarks/clips/NAME`. With --within the number of updates is what
fits: the pace of the first ones is looked at, and all runs begin anew with as many as can be done.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from trainings import Process, call, ended, keep_logs, stop

HERE = Path(__file__).parent
LOOK = 16  # updates after which the pace is taken, of the second half of them
SURE = 0.85  # of the updates that seem to fit
DRAWS = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Experiment:
    """What is trained, and how."""

    backbone: str
    methods: str
    size: str
    flags: tuple[str, ...]
    recipe: tuple[str, ...]
    updates: int


EXPERIMENTS = {
    "swin3d": Experiment(
        "swin3d_nano",
        "dense,stvit",
        "112",
        ("--frames", "16", "--stride", "2"),
        ("lr=1e-3", "weight_decay=0.05", "crop=0.35", "short=1.14", "smoothing=0.1", "drop_path=0.1"),
        1500,
    ),
    "vit": Experiment(
        "vit_ti",
        "dense,stvit[tokens=16],tome[r=13],topk",
        "224",
        ("--frames", "8", "--stride", "4"),
        ("lr=3e-4", "backbone_lr=0.1", "fresh_head=true", "start=dense", "crop=0.35", "short=1.14", "clip_grad=1"),
        300,
    ),
}


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)))
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Runs go here.")
@click.option("--kept", type=click.Path(path_type=Path), help="Rows, table and logs.  [default: benchmarks/clips/NAME]")
@click.option("--weights", default="auto", help="To start from.")
@click.option("--updates", type=int, help="Other than the experiment's.")
@click.option("--within", type=float, help="Seconds for training; with fewer updates if need be.")
@click.option("--limit", type=int, help="Clips to measure on, all by default.")
@click.option("--views", default="4x3", show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--batch", default=1, show_default=True, help="Videos at once, and clips a pass, in measuring.")
@click.option("--workers", default=0, show_default=True, help="Processes that load, of each seed.")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
def main(name: str, updates: int | None, within: float | None, kept: Path | None, **options: object) -> None:
    """Train and measure."""
    began = time.monotonic()
    runs = Runs(name, updates or EXPERIMENTS[name].updates, kept or HERE / "clips" / name, **options)  # type: ignore[arg-type]
    if within is not None:
        runs.fit(began + within)
    ended(runs.train(), None if within is None else began + within - time.monotonic())
    ended([runs.measure(seed) for seed in runs.all])
    keep_logs(runs.output, runs.kept)
    (runs.kept / "table.md").write_text(table(runs.kept), encoding="utf-8")


@dataclass
class Runs:
    """All runs of an experiment."""

    name: str
    updates: int
    kept: Path
    data_dir: Path
    output: Path
    weights: str
    limit: int | None
    views: str
    seeds: int
    batch: int
    workers: int
    device: str
    precision: str

    def __post_init__(self) -> None:
        self.experiment = EXPERIMENTS[self.name]
        self.kept.mkdir(parents=True, exist_ok=True)
        chosen = self.output / "updates.json"  # of an earlier call, which this one goes on with
        if chosen.exists():
            self.updates = json.loads(chosen.read_text())

    def folder(self, seed: int) -> Path:
        return self.output / f"seed{seed}"

    @property
    def shared(self) -> list[str]:
        task = ["--task", "video", "--backbone", self.experiment.backbone, "--image-size", self.experiment.size]
        task += [*self.experiment.flags, "--data-dir", str(self.data_dir), "--methods", self.experiment.methods]
        return [*task, "--device", self.device, "--precision", self.precision, "-j", str(self.workers)]

    def train(self, save_every: int = 1_000_000) -> list[Process]:
        """A process a seed, which trains all methods on the same batches."""
        changes = (f"updates={self.updates}", f"warmup_updates={self.updates // 10}", *self.experiment.recipe)
        rest = ["--recipe", "mini", "--views", "1x1", "--together", "9", "--weights", self.weights]
        rest += [word for change in changes for word in ("--set", change)]
        rest += ["--eval-every", "1000000", "--save-every", str(save_every)]
        return [call("train", *self.shared, *rest, "--seed", str(s), "-o", str(self.folder(s))) for s in self.all]

    def measure(self, seed: int) -> Process:
        """Rows of a seed."""
        rest = ["--weights", str(self.folder(seed)), "--views", self.views, "--rounds", "5", "--seed", str(seed)]
        rest += ["--batch-size", str(self.batch)]
        rest += [] if self.limit is None else ["--limit", str(self.limit)]
        return call("run", *self.shared, *rest, "-q", "-o", str(self.kept / f"seed{seed}.jsonl"))

    def fit(self, until: float) -> None:
        """Begin, look at the pace, and choose the number of updates that fit; then all begin anew with that."""
        if (self.output / "updates.json").exists():
            return
        begun = self.train(LOOK // 2)
        try:
            while any(process.poll() is None for process in begun) and not all(self.pace(s) for s in self.all):
                time.sleep(0.2)
        finally:
            stop(begun)
        paces = [pace for seed in self.all if (pace := self.pace(seed)) is not None]
        if not paces:
            raise SystemExit("Training ended before its pace could be taken; see what it says above.")
        fitting = int(SURE * (until - time.monotonic()) / max(paces)) // 10 * 10
        self.updates = max(20, min(self.updates, fitting))
        print(f"{max(paces):.3f} s an update: {self.updates} updates", file=sys.stderr)
        shutil.rmtree(self.output)
        self.output.mkdir()
        (self.output / "updates.json").write_text(json.dumps(self.updates))

    @property
    def all(self) -> range:
        return range(self.seeds)

    def pace(self, seed: int) -> float | None:
        """Seconds of an update of all methods, by the log of one of them; None before there is enough of it."""
        rows = [
            json.loads(line)
            for path in sorted(self.folder(seed).glob("*/log.jsonl"))[:1]
            for line in path.read_text().splitlines()
            if line.endswith("}")
        ]
        found = [row for row in rows if row["update"] == LOOK]
        return 8 / max(found[0]["images_per_s"], 0.05) if found else None  # clips an update, by clips a second


def table(kept: Path) -> str:
    """Means over seeds, and the difference from dense with a bootstrap over videos, of rows and their predictions."""
    rows: dict[str, list[dict]] = defaultdict(list)
    for line in (line for path in sorted(kept.glob("seed*.jsonl")) for line in path.read_text().splitlines()):
        row = json.loads(line)
        if row["status"] == "ok" and row["metrics"]["top1"] is not None:
            rows[row["label"]].append(row)

    def hits(label: str) -> np.ndarray:
        each = []
        for row in sorted(rows[label], key=lambda row: row["seed"]):
            with np.load(kept / f"seed{row['seed']}.predictions" / f"{row['id']}.npz") as found:
                each.append(found["top"][:, 0] == found["target"])
        return np.stack(each).astype(float)  # (seeds, clips)

    dense, draw = hits("dense"), np.random.default_rng(0)
    lines = ["| method | GMAC a clip | top-1 by seed, % | mean | minus dense, 95 % interval |", "|---|---|---|---|---|"]
    for label, found in rows.items():
        own = hits(label)
        each = 100 * (own - dense).mean(0)  # of a video, the mean over seeds
        drawn = each[draw.integers(0, len(each), (DRAWS, len(each)))].mean(1)
        low, high = np.quantile(drawn, (0.025, 0.975))
        change = "" if label == "dense" else f"{each.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
        seeds = ", ".join(f"{100 * one.mean():.1f}" for one in own)
        lines.append(f"| {label} | {found[0]['gmacs']:.3f} | {seeds} | {100 * own.mean():.1f} | {change} |")
    videos, views = dense.shape[1], "x".join(map(str, rows["dense"][0]["conditions"].get("views", (4, 3))))
    note = f"{videos} videos, {views} views each; intervals are of the draw of videos, for these seeds (bootstrap)."
    return "\n".join([*lines, "", note, ""])


if __name__ == "__main__":
    main()
