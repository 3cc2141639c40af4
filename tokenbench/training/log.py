"""What a run tells: lines of JSON that survive a kill, a table of them at the end, and whichever tracker one likes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.errors import WeightsError
from tokenbench.tasks.base import Metric
from tokenbench.training.trackers import Tracker

NAME = "log.jsonl"
ADVICE = "free some space and give the same command, which goes on from the last checkpoint"


class Log:
    """`log.jsonl` in the run's folder; a line is a dict with `update`. Lines after `update` are dropped on opening.

    Raises:
        WeightsError: the log cannot be written.
    """

    def __init__(self, folder: Path, update: int, tracker: Tracker | None = None) -> None:
        self.path, self.tracker = folder / NAME, tracker
        kept = [row for row in read(self.path) if row["update"] <= update]
        atomic.write(self.path, "".join(json.dumps(row) + "\n" for row in kept), WeightsError, ADVICE)

    def add(self, row: Mapping[str, Any]) -> None:
        """One line more."""
        with atomic.explained(self.path, WeightsError, ADVICE), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row)) + "\n")
        if self.tracker is not None:
            self.tracker.log({key: value for key, value in row.items() if key != "update"}, step=row["update"])

    def close(self) -> None:
        """Write the same as `log.csv`, and tell the tracker that the run is over."""
        import pandas as pd

        table = pd.DataFrame(read(self.path)).to_csv(index=False)
        atomic.write(self.path.with_suffix(".csv"), table, WeightsError, ADVICE)
        if self.tracker is not None:
            self.tracker.finish()


def read(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last one that was cut is left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "update" in row:
            rows.append(row)
    return rows


def line(row: Mapping[str, Any], main: Metric, items: str = "images") -> str:
    """A row in words, with the metric that tells how far it is."""
    parts = [f"epoch {row['epoch']:.2f}", f"loss {row['loss']:.4f}", f"lr {row['lr']:.2e}"]
    parts += [f"{name.removeprefix('loss_')} {value:.3f}" for name, value in row.items() if name.startswith("loss_")]
    if "layer_scale" in row:
        parts.append(f"mean LayerScale {row['layer_scale']:.2g}")
    if row.get(main.name) is not None:
        parts.append(f"{main.short} {row[main.name]:.2f} {main.unit}".rstrip())
    return ", ".join([*parts, f"{row['images_per_s']:,.{0 if row['images_per_s'] >= 10 else 1}f} {items}/s"])
