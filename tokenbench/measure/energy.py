"""Joules an image, by whatever counts them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from tokenbench.measure.running import evaluating, forward

Meter = Callable[[Callable[[], None]], float]  # does something, and says how many joules the machine took meanwhile
SECONDS = 1.0  # of one reading at least: counters move every 20 to 100 ms
READINGS = 5


@dataclass(frozen=True)
class Energy:
    """Joules an image, the median of some readings, and their interquartile range over it."""

    joules: float
    spread: float
    readings: int


def measure(
    model: nn.Module, images: Tensor, meter: Meter, precision: str = "fp32", seconds: float = SECONDS
) -> Energy:
    """What forward passes cost, in eval mode and without gradients: all that the device takes while it runs them,
    idle power too.

    Args:
        model: any module from images to logits.
        images: (B, channels, H, W) on the model's device.
        meter: of that device.
        precision: "fp32", "bf16" or "fp16".
        seconds: how long each reading is at least.

    Raises:
        OutOfMemory: the batch does not fit.
    """

    def passes(count: int) -> None:
        for _ in range(count):
            forward(model, images, precision)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)

    with evaluating(model):
        passes(1)
        begin = perf_counter()
        passes(1)
        count = max(1, math.ceil(seconds / (perf_counter() - begin)))
        found = [meter(lambda: passes(count)) / (count * images.shape[0]) for _ in range(READINGS)]
    p25, p50, p75 = (float(q) for q in np.percentile(found, [25, 50, 75]))
    return Energy(p50, (p75 - p25) / p50 if p50 else 0.0, READINGS)
