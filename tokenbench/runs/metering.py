"""Meters of energy, by Zeus: NVML (or AMD SMI) for a GPU, RAPL for all packages of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tokenbench.core.extras import needed
from tokenbench.errors import UsageError, first_line
from tokenbench.measure.energy import Meter
from tokenbench.runs.plan import Plan


def check(plan: Plan) -> None:
    """Raise `UsageError` for a plan that asks for energy where it cannot be measured."""
    if plan.energy and plan.compile:
        raise UsageError("--energy is of models that are not compiled; leave out --compile, or --energy.")
    if plan.energy:
        meter(plan.device)


def meter(device: str) -> Meter:
    """What counts the joules of a device; raises `UsageError` where nothing does."""
    devices, monitors = (needed(f"zeus.{part}", "energy", "--energy") for part in ("device", "monitor"))
    kind, _, index = device.partition(":")
    try:
        if kind == "cpu":
            devices.get_cpus()
            chosen: dict[str, Any] = {"gpu_indices": [], "cpu_indices": None}
        else:
            devices.get_gpus()
            chosen = {"gpu_indices": [int(index or torch.accelerator.current_device_index())], "cpu_indices": []}
        monitor = monitors.ZeusMonitor(**chosen)
    except Exception as error:  # of its own classes, or of what reads the counters
        what = "RAPL" if kind == "cpu" else "NVML"
        raise UsageError(
            f"--energy cannot be measured on {device}: its {what} counters cannot be read ({first_line(error)}); leave "
            "it out."
        ) from None

    def read(work: Callable[[], None]) -> float:
        monitor.begin_window("passes")
        work()
        found = monitor.end_window("passes")
        return float(sum((found.cpu_energy if kind == "cpu" else found.gpu_energy).values()))

    return read
