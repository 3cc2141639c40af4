"""Do fresh processes agree on how much faster methods are? The same `tokenbench run`, several times from the start.

    python benchmarks/processes.py --methods tome,evit,stvit --backbone deit_s --batch 8

How far a process is off is its speed-up over the median of all of them, minus 1: within 3 % on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from common import table, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="deit_s")
    parser.add_argument("--methods", default="tome,evit,stvit")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=25.0, help="of timed rounds, in each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None, help="without suffix")
    args = parser.parse_args()
    command = [sys.executable, "-m", "tokenbench", "run", "--json", "--weights", "random", "--device", args.device]
    command += ["--methods", args.methods, "--backbone", args.backbone, "-b", str(args.batch)]
    command += ["--max-seconds", str(args.max_seconds)]
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(args.processes):
        with tempfile.TemporaryDirectory() as folder:  # or the second would find what the first measured
            own = [*command, "--output", f"{folder}/results.jsonl"]
            done = subprocess.run(own, capture_output=True, text=True, check=True)
        for row in map(json.loads, done.stdout.splitlines()):
            if row["method"] != "dense":
                found.setdefault(row["label"], []).append(row)
    lines, worst = [], 0.0
    for label, rows in found.items():
        middle = median(row["speedup"] for row in rows)
        off = [row["speedup"] / middle - 1 for row in rows]
        worst = max(worst, *map(abs, off))
        lines.append([label, f"{middle:.3f}", *(f"{100 * one:+.1f} %" for one in off), _half(rows), _rounds(rows)])
    noisy = sum(row["noisy"] for rows in found.values() for row in rows)
    body = (
        f"{args.backbone}, batch {args.batch}, random weights, {args.processes} processes of "
        f"`tokenbench {' '.join(command[3:])}`, one after the other.\n\n"
        f"The farthest is **{100 * worst:.1f} %** off the median of its setting; {noisy} of "
        f"{sum(map(len, found.values()))} rows said that their speed is less sure than 2 %.\n\n"
        + table(
            ["setting", "speed-up", *(f"process {i + 1}" for i in range(args.processes)), "half interval", "rounds"],
            lines,
        )
    )
    output = args.output or Path(__file__).parent / f"processes_{args.backbone}_b{args.batch}_{args.device}"
    write(output, "Fresh processes", body, {"rows": found}, args.device)


def _half(rows: list[dict[str, Any]]) -> str:
    """Half the width of the 95 % interval that rows have themselves, relative to the speed-up: the median."""
    return f"{100 * median((row['speedup_high'] - row['speedup_low']) / 2 / row['speedup'] for row in rows):.1f} %"


def _rounds(rows: list[dict[str, Any]]) -> str:
    return f"{median(row['runs'] for row in rows):.0f}"


if __name__ == "__main__":
    main()
