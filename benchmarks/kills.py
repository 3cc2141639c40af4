"""How much work `kill -9` at random moments costs a sweep, and whether its table is that of a sweep left alone.

    python benchmarks/kills.py --kills 50

Work is what models do: counting, batches that are scored, memory, timed and warming passes by their number of images,
whole or begun, each kind weighted by the CPU time that one takes. Starting up is not in it.
Writes kills.md and kills.json beside this file.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean

import common

HERE = Path(__file__).parent

METHODS = (
    "evit[keep_rate=0.5,0.6,0.7,0.8,0.9],topk[keep_rate=0.5,0.6,0.7,0.8,0.9],"
    "tome[r=1,2,4,6,8],random[keep_rate=0.5,0.6,0.7,0.8]"
)
CHILD = """
import os, sys, time
from tokenbench.measure import flops, memory, speed
from tokenbench.tasks.classification import Classification
log = open(sys.argv.pop(1), "a", buffering=1)
def watched(where, name):
    original = getattr(where, name)
    def call(*args, **options):
        what = f"{name}({len(args[1])})" if name == "_time" else name
        print("begin", what, time.process_time(), os.getpid(), file=log)
        try:
            return original(*args, **options)
        finally:
            print("end", what, time.process_time(), os.getpid(), file=log)
    setattr(where, name, call)
for where, name in ((flops, "over"), (Classification, "answer"), (memory, "peak")):
    watched(where, name)
watched(speed, "reduction_share")
watched(speed, "_time")
from tokenbench.cli import main
main()
"""


def start(path: Path, log: Path, limit: int) -> subprocess.Popen[bytes]:
    """A sweep of 20 settings."""
    command = [sys.executable, "-c", CHILD, str(log), "run", "--methods", METHODS, "-o", str(path), "--threads", "1"]
    return subprocess.Popen([*command, "--limit", str(limit)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measuring(process: subprocess.Popen[bytes], log: Path, seconds: float) -> float:
    """Wait for so long after a sweep begins to measure, or until it ends; returns how long that was."""
    before = log.stat().st_size if log.exists() else 0
    while process.poll() is None and (log.stat().st_size if log.exists() else 0) == before:
        time.sleep(0.02)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < seconds:
        time.sleep(0.02)
    return time.monotonic() - began


def work(log: Path) -> tuple[Counter[str], dict[str, list[float]]]:
    """How often each thing was begun, those within another left out, and the seconds of CPU that whole ones took."""
    begun: Counter[str] = Counter()
    took: dict[str, list[float]] = {}
    stack: list[tuple[str, float]] = []
    last = ""
    for line in log.read_text().splitlines():
        what, name, when, process = line.split()
        if process != last:
            stack, last = [], process
        if what == "begin":
            begun[name] += not stack
            stack.append((name, float(when)))
            continue
        name, since = stack.pop()
        if not stack:
            took.setdefault(name, []).append(float(when) - since)
    return begun, took


def table(path: Path) -> dict[str, tuple[object, ...]]:
    """What does not depend on the clock, by job."""
    from tokenbench.runs.results import load

    return {
        row.id: (row.status, row.reason, row.metrics, row.images, row.gmacs, row.tokens_mean) for row in load(path)[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        process = start(here / "whole.jsonl", here / "whole.log", given.limit)
        alone = measuring(process, here / "whole.log", 1e9)
        kills = 0
        while kills < given.kills:
            process = start(here / "parts.jsonl", here / "parts.log", given.limit)
            measuring(process, here / "parts.log", draw.uniform(0, 1.6 * alone / given.kills))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
        start(here / "parts.jsonl", here / "parts.log", given.limit).wait()
        (needed, took), (begun, again) = work(here / "whole.log"), work(here / "parts.log")
        seconds = {name: mean(took.get(name, []) + again.get(name, [])) for name in begun}
        ratio = sum(begun[n] * seconds[n] for n in seconds) / sum(needed[n] * seconds[n] for n in seconds)
        same = table(here / "whole.jsonl") == table(here / "parts.jsonl")
        settings = len(table(here / "whole.jsonl"))
    head = ["", "sweep left alone", f"the same, killed {kills} times", "ms of CPU each"]
    lines = [[name, str(needed[name]), str(begun[name]), f"{1000 * seconds[name]:.0f}"] for name in sorted(begun)]
    body = (
        f"`tokenbench run` of {settings} settings of deit_nano on {given.limit} images. Work begun, weighted by its "
        f"CPU time: **{ratio:.3f}** of what the sweep needs that is left alone ({alone:.0f} s); the tables are "
        f"{'the same' if same else 'DIFFERENT'}.\n\n{common.table(head, lines)}"
    )
    data = {
        "kills": kills,
        "settings": settings,
        "ratio": ratio,
        "same": same,
        "begun": begun,
        "needed": needed,
        "seconds": seconds,
    }
    common.write(HERE / "kills", "What `kill -9` costs", body, data)


if __name__ == "__main__":
    main()
