"""What benchmarks that train share: commands beside each other, waited for until a deadline, and their logs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

Process = subprocess.Popen[bytes]


def call(*words: str) -> Process:
    """Begin a command of tokenbench, on one thread unless the environment says otherwise."""
    print("tokenbench", *words, file=sys.stderr)
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "tokenbench", *words], env={**os.environ, **threads})


def ended(processes: Sequence[Process], left: float | None = None) -> None:
    """Wait for all of them; those that take longer are stopped, and their runs go on with the next call."""
    until = None if left is None else time.monotonic() + left
    try:
        for process in processes:
            try:
                process.wait(None if until is None else max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.terminate()
                process.wait()
    finally:
        stop(processes)


def stop(processes: Iterable[Process]) -> None:
    """End those that still run."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        process.wait()


def keep_logs(runs: Path, kept: Path) -> None:
    """Copy the log of each run of each seed, as METHOD-seed0.jsonl."""
    (kept / "logs").mkdir(exist_ok=True)
    for path in sorted(runs.glob("seed*/*/log.jsonl")):
        shutil.copy(path, kept / "logs" / f"{path.parent.name}-{path.parent.parent.name}.jsonl")
