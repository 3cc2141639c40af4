"""What to run, as it was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenbench.methods.base import Method
from tokenbench.shipping.header import Header
from tokenbench.tasks.base import Task
from tokenbench.tasks.classification import Classification
from tokenbench.weights.choice import ALL, Take


@dataclass(frozen=True)
class Plan:
    """What to run. `batches` empty means: the largest power of two from 256 down that fits."""

    methods: Sequence[Method]
    backbones: Sequence[str]
    task: Task = field(default_factory=Classification)
    data_dir: Path | None = None
    weights: str = "auto"
    device: str = "cpu"
    precision: str = "fp32"
    batches: Sequence[int] = (32,)
    workers: int = 0
    seed: int = 42
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    compile: bool = False
    rounds: int = 10  # at least
    precision_goal: float = 0.02  # half the width of a speed-up's interval, relative to it, at which no more are added
    max_seconds: float = 20.0  # of rounds, of all settings of a backbone at one batch size, after which none are added
    force: bool = False
    pixels: Mapping[str, Any] = field(default_factory=dict)  # mean, std, crop_pct, interpolation, if not the model's
    take: Take = ALL  # which weights, of files that hold several
    shard: tuple[int, int] | None = None  # which part of how many of the settings; None: all
    timed: bool = True  # whether speed is measured: only where no other job has the same device
    energy: bool = False  # whether joules are measured
    exported: Mapping[Path, Header] = field(default_factory=dict)  # files given in place of weights
    runtime: str = "torch"  # that models are scored and timed in; see `tokenbench.shipping.runtimes`

    @property
    def autocast(self) -> str:
        """The precision that torch runs in: int8 models are so by themselves."""
        return "fp32" if self.precision == "int8" else self.precision

    @property
    def settings(self) -> int:
        """How many settings on backbones that is, dense ones included: what shards are parts of."""
        return len(self.backbones) * (1 + sum(method.name != "dense" for method in self.methods))
