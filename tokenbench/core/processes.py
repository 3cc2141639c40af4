"""One process or many: what `torchrun` started, or this one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor

from tokenbench.core import atomic
from tokenbench.errors import TrainingError, UsageError


@dataclass(frozen=True)
class Processes:
    """This process among those that train one model together."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether it is the one that writes and speaks."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.count

    def gathered(self, value: dict[str, str]) -> dict[str, str]:
        """What all processes have between them."""
        if self.count == 1:
            return value
        parts: list[dict[str, str]] = [{}] * self.count
        dist.all_gather_object(parts, value)
        return {key: text for part in parts for key, text in part.items()}

    def agree(self, value: int) -> bool:
        """Whether all processes have the same number."""
        if self.count == 1:
            return True
        both = torch.tensor([value, -value], dtype=torch.float64, device=self.device)
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return bool(both[0] == -both[1])

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()


@contextmanager
def joined(device: str, waiting: bool = False) -> Iterator[Processes]:
    """The processes `torchrun` started, connected while the block runs; this process alone without it.

    Args:
        device: "cpu", or "cuda": each process takes the GPU of its local rank.
        waiting: they exchange objects only, and may wait for each other for days.

    Raises:
        UsageError: more processes than GPUs on this machine, or a single GPU named for several.
    """
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        yield Processes(device=device)
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device.startswith("cuda"):
        if device != "cuda" or local >= torch.cuda.device_count():
            raise UsageError(
                f"{count} processes cannot share {device} and {torch.cuda.device_count()} GPUs are here; "
                "start at most one a GPU, with --device cuda."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    backend = "nccl" if device.startswith("cuda") and not waiting else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=7) if waiting else None)
    yield Processes(dist.get_rank(), count, device)
    dist.destroy_process_group()  # not after an error: the others may be waiting in it, and torchrun ends them


@contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """No other run writes into a folder while the block runs; a run that dies lets go of it.

    Raises:
        TrainingError: another run does.
    """
    if not processes.leads:
        yield
        return
    with atomic.explained(folder, TrainingError, "give another --output"):
        atomic.folders(folder)
        lock = FileLock(folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise TrainingError(
                f"Another run trains into {folder} now; wait for its end, or give another --output."
            ) from None
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        lock.release()


def let_go(folder: Path, seconds: float) -> None:
    """Wait, so long at the most, until no run writes into a folder: one that is killed takes a while to be gone."""
    if (folder / ".lock").exists():
        lock = FileLock(folder / ".lock")
        with suppress(Timeout, OSError):
            lock.acquire(timeout=seconds)
            lock.release()
