"""What to train."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenbench.methods.base import Method
from tokenbench.methods.learning import Learning
from tokenbench.tasks.base import Task
from tokenbench.tasks.classification import Classification
from tokenbench.training.stream import SEEN
from tokenbench.weights import choice

RESULT = "model.safetensors"  # in a run's folder


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
    pixels: Mapping[str, Any] = field(default_factory=dict)  # mean, std and so on, if not the model's own
    take: choice.Take = choice.ALL  # which weights, of files that hold several

    @property
    def taught(self) -> bool:
        """Whether a teacher is there: the dense model that teaches a sweep has none itself."""
        return self.recipe.teacher != "none" and Path(self.teacher) != self.output / RESULT

    @property
    def sees(self) -> str:
        """What decides which images come when and how they look; jobs that are equal in it can share their batches."""
        values = {
            "data": self.data_dir,
            "task": [self.task.name, self.task.model_dump(mode="json")],
            "model": [self.backbone, self.image_size, self.pixels, self.device],
            "when": [self.seed, self.passes, self.workers, self.evaluate_every],
            "recipe": self.recipe.model_dump(mode="json", include=None if self.task.has_head else SEEN),
        }
        return json.dumps(values, default=str, sort_keys=True)
