"""A backbone of four blocks and 16 patches, and a run of it: as fast as its overhead."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from timm.models import register_model
from torch import nn

from tokenbench import backbones
from tokenbench.methods.sweep import parse
from tokenbench.runs import runner

FEWEST = ("--rounds", "3", "--max-seconds", "0", "--threads", "1")  # of a run in a process of its own


@register_model
def deit_femto(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return backbones.vit.deit_nano(pretrained, **{**kwargs, "patch_size": 7, "depth": 4, "embed_dim": 32})


class Watch:
    """Looks on and remembers what was said, and each stretch with its steps."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stretches: list[tuple[str, int, list[int]]] = []

    def stretch(self, what: str, total: int) -> None:
        self.stretches.append((what, total, []))

    def step(self, done: int) -> None:
        self.stretches[-1][2].append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


def plan(methods: str, **changes: Any) -> runner.Plan:
    settings = {"backbones": ["deit_femto"], "weights": "random", "batches": [2], "rounds": 3, **changes}
    return runner.Plan(parse(methods), **settings)


def slowly(methods: str, marks: Path) -> runner.Plan:
    """The plan, made by a job that leaves a mark when it begins and takes its time."""
    (marks / f"{time.monotonic_ns()}-{os.getpid()}").touch()
    time.sleep(2.0)
    return plan(methods)
