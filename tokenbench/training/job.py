"""What to train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenbench.methods.base import Method
from tokenbench.methods.recipe import Learning
from tokenbench.tasks.base import Task
from tokenbench.tasks.classification import Classification
from tokenbench.weights import choice


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where to. The recipe's other values are in `recipe`."""

    method: Method
    backbone: str
    recipe: Learning
    data_dir: Path
    output: Path
    task: Task = field(default_factory=Classification)
    weights: str = "auto"  # to start from; "auto" is what the recipe says
    teacher: str = "auto"  # the teacher's weights, where the recipe has one; "auto" is those the run starts from
    image_size: tuple[int, int] | None = None
    device: str = "cpu"
    precision: str = "fp32"
    passes: int = 1
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    seed: int = 42
    save_every: int | None = None  # updates; an epoch if None, and ten minutes at the longest
    evaluate_every: float = 1.0  # epochs
    tracker: str | None = None
    pixels: Mapping[str, Any] = field(
        default_factory=dict
    )  # mean, std, crop_pct, interpolation, if not the model's own
    take: choice.Take = choice.ALL  # which weights, of files that hold several
