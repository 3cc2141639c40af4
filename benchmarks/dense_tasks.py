"""Detection and segmentation from nothing: dense, dense with STViT-R's stem, and stvit_r, by one recipe and seed each.

    python benchmarks/dense_tasks.py nuclei --data-dir dsb2018_coco --output runs/nuclei
    python benchmarks/dense_tasks.py camvid --data-dir camvid_240 --output runs/camvid
    python benchmarks/dense_tasks.py coco_mini --data-dir coco_mini_512 --output runs/coco_mini

Each trains what is not trained yet, the methods of a seed on the same batches (or each by itself) and the seeds beside
each other, measures it, and leaves rows, tables and logs in `benchmarks/NAME`. Stopped, the same command goes on. With
--within, the number of updates is what fits: the pace of the first ones is looked at, and if not all of them can be
done in time, all runs begin anew with fewer, the same number for all.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from trainings import Process, call, ended, keep_logs, stop

METHODS = "dense,convstem,stvit_r"
HERE = Path(__file__).parent
SMALL = "head=mask,width=64,fc=256,mask_convs=2,samples=2,before=600,after=300"
LOOK = (20, 40)  # updates between which the pace is taken
SURE = 0.9  # of the updates that seem to fit
STEP = 50  # updates are given in so many


@dataclass(frozen=True)
class Experiment:
    """What is trained, for how long, and at which size it is timed."""

    task: str
    updates: int
    size: str
    changes: tuple[str, ...] = ()


EXPERIMENTS = {
    "nuclei": Experiment(f"detection[{SMALL},anchor=8,cap=300,short=0]", 2000, "256x320", ("batch=12", "lr_batch=12")),
    "coco_mini": Experiment(
        f"detection[{SMALL},anchor=16,short=320,long=512]",
        1500,
        "320x448",
        ("shorts=256/288/320/352", "long=512", "crop=224", "turns=false", "batch=8", "lr_batch=8"),
    ),
    "camvid": Experiment("segmentation[width=64,short=0]", 2500, "240x320", ("low=0.75", "high=1.5", "crop=224")),
}


@click.command()
@click.argument("name", type=click.Choice(list(EXPERIMENTS)))
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Runs go here.")
@click.option("--kept", type=click.Path(path_type=Path), help="Rows, tables and logs.  [default: benchmarks/NAME]")
@click.option("--updates", type=int, help="Other than the experiment's.")
@click.option("--within", type=float, help="Seconds for training; with fewer updates if need be.")
@click.option("--scoring", default=40.0, show_default=True, help="Seconds of them for the score at the end.")
@click.option("--limit", type=int, help="Images to measure on, all by default.")
@click.option("--methods", default=METHODS, show_default=True, help="By name; dynamicvit is another.")
@click.option("--seeds", default=3, show_default=True)
@click.option("--apart", is_flag=True, help="A process a model, not a seed.")
@click.option("--at-once", default=3, show_default=True, help="Seeds that are trained beside each other.")
@click.option("--workers", default=0, show_default=True, help="Processes that load, of each seed.")
@click.option("--device", default="auto", show_default=True)
@click.option("--precision", default="fp32", show_default=True)
@click.option("--tables/--no-tables", default=True, show_default=True)
def main(name: str, updates: int | None, within: float | None, scoring: float, tables: bool, **options: object) -> None:
    """Train and measure."""
    runs = Runs(name, updates or EXPERIMENTS[name].updates, **options)  # type: ignore[arg-type]
    began = time.monotonic()
    if within is not None:
        runs.fit(began + within - scoring)
    for some in runs.groups():
        left = None if within is None else began + within - time.monotonic()
        ended(runs.train(some), left)
    for some in runs.groups():
        ended([runs.measure(seed) for seed in some])
    keep_logs(runs.output, runs.kept)
    if tables:
        call("report", str(runs.kept / "rows.jsonl"), "-o", str(runs.kept)).wait()


@dataclass
class Runs:
    """All runs of an experiment."""

    name: str
    updates: int
    data_dir: Path
    output: Path
    kept: Path | None
    limit: int | None
    methods: str
    seeds: int
    apart: bool
    at_once: int
    workers: int
    device: str
    precision: str

    def __post_init__(self) -> None:
        self.experiment = EXPERIMENTS[self.name]
        self.kept = self.kept or HERE / self.name
        self.kept.mkdir(parents=True, exist_ok=True)
        chosen = self.output / "updates.json"  # of an earlier call, which this one goes on with
        if chosen.exists():
            self.updates = json.loads(chosen.read_text())

    def groups(self) -> list[range]:
        return [range(i, min(i + self.at_once, self.seeds)) for i in range(0, self.seeds, self.at_once)]

    @property
    def names(self) -> list[str]:
        return self.methods.split(",")

    def folder(self, seed: int) -> Path:
        return self.output / f"seed{seed}"

    @property
    def shared(self) -> list[str]:
        task = ["--task", self.experiment.task, "--backbone", "swin_nano", "--data-dir", str(self.data_dir)]
        return [*task, "--device", self.device, "--precision", self.precision, "-j", str(self.workers)]

    def train(self, seeds: Sequence[int], save_every: int = 250) -> list[Process]:
        """A process a seed, which trains all methods on the same batches; or one for each."""
        changes = (f"updates={self.updates}", f"warmup_updates={self.updates // 10}", *self.experiment.changes)
        given = [word for change in changes for word in ("--set", change)]
        every = ["--eval-every", "1000000", "--save-every", str(save_every)]
        rest = ["--recipe", "mini", *given, *every]
        if not self.apart:
            rest += ["--methods", self.methods, "--together", str(len(self.names))]
            return [call("train", *self.shared, *rest, "--seed", str(s), "-o", str(self.folder(s))) for s in seeds]
        each = [(seed, name) for seed in seeds for name in self.names]
        return [
            call("train", *self.shared, *rest, "--seed", str(s), "--method", m, "-o", str(self.folder(s) / m))
            for s, m in each
        ]

    def measure(self, seed: int) -> Process:
        """Rows of what is trained of a seed."""
        trained = [path.parent for path in sorted(self.folder(seed).glob("*/model.safetensors"))]
        names = [method for method in self.names if any(path.name.split("-")[0] == method for path in trained)]
        if not names:
            raise SystemExit(f"Nothing of seed {seed} was trained in time; give more --within.")
        rest = ["--methods", ",".join(names), "--weights", ",".join(map(str, trained)), "--rounds", "5"]
        rest += ["--image-size", self.experiment.size, "--seed", str(seed)]
        rest += [] if self.limit is None else ["--limit", str(self.limit)]
        return call("run", *self.shared, *rest, "-q", "-o", str(self.kept / "rows.jsonl"))

    def fit(self, until: float) -> None:
        """Begin, look at the pace, and choose the number of updates that fit; what was begun stays if it fits as is."""
        if (self.output / "updates.json").exists():
            return
        first = self.groups()[0]
        begun = self.train(first, LOOK[0])
        try:
            while any(process.poll() is None for process in begun) and not all(self.seconds(s) for s in first):
                time.sleep(0.2)
        finally:
            stop(begun)
        paces = [pace for seed in first if (pace := self.seconds(seed)) is not None]
        if not paces:
            raise SystemExit("Training ended before its pace could be taken; see what it says above.")
        each = (until - time.monotonic()) / len(self.groups())
        fitting = int(SURE * each / max(paces)) // STEP * STEP
        chosen = max(2 * LOOK[1], min(self.updates, fitting))
        print(f"{max(paces):.3f} s an update: {chosen} updates", file=sys.stderr)
        if chosen != self.updates:
            self.updates = chosen
            for seed in range(self.seeds):
                shutil.rmtree(self.folder(seed), ignore_errors=True)
        (self.output / "updates.json").write_text(json.dumps(self.updates))

    def seconds(self, seed: int) -> float | None:
        """For an update of the slowest method, or of all together, by their logs; None before there is enough."""
        logs = [path for path in self.folder(seed).glob("*/log.jsonl")]
        rates = []
        for path in logs:
            rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
            found = [row for row in rows if LOOK[0] < row["update"] <= LOOK[1]]
            rates += [row["images_per_s"] for row in found[-1:]]
        if len(rates) < len(self.names):
            return None
        batch = next((int(c.split("=")[1]) for c in self.experiment.changes if c.startswith("batch=")), 8)
        return batch / max(min(rates), 0.05)  # they are rounded


if __name__ == "__main__":
    main()
