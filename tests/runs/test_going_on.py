"""A run that is stopped at any moment goes on from there, and ends with the table of one that was not."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from femto import FEWEST, Watch, plan
from PIL import Image

from tokenbench import backbones
from tokenbench.data import Images
from tokenbench.measure import flops, memory, speed
from tokenbench.runs import runner, unfinished
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.tasks.classification import Classification
from tokenbench.weights import files

SAME = ("id", "status", "reason", "metrics", "images", "skipped", "gmacs", "tokens_mean", "params_m", "runs")
METHODS = "evit[keep_rate=0.5,0.7],topk"


@pytest.fixture
def job(tmp_path: Path) -> runner.Plan:
    """Four settings on 12 images, one of which cannot be read, six batches a pass."""
    torch.manual_seed(0)
    files.save(tmp_path / "femto.safetensors", backbones.create("deit_femto"), {})
    random = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "photos" / str(index % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "photos" / "3" / "3.png").write_bytes(b"no image")
    return plan(METHODS, weights=str(tmp_path / "femto.safetensors"), data_dir=tmp_path / "photos")


class Work:
    """What was done: counted settings, answers by batch, runs that were timed; presses Ctrl-C after so many."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: Counter[str] = Counter()
        self.left = 10**9
        for where, name in ((flops, "over"), (Classification, "answer"), (memory, "peak"), (Images, "open")):
            self._watched(monkeypatch, where, name)
        self._watched(monkeypatch, speed, "_time")
        monkeypatch.setattr(speed, "reduction_share", lambda *args: speed.Share(0.25, 0.0, 3))

    def _watched(self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
        original = getattr(where, name)

        def watched(*args: Any, **options: Any) -> Any:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.done[name] += 1
            return original(*args, **options)

        monkeypatch.setattr(where, name, watched)


def measured(job: runner.Plan, path: Path) -> list[Row]:
    return runner.run(job, Results(path), Watch())


def told(rows: list[Row]) -> list[dict[str, Any]]:
    """What does not depend on the clock."""
    return [{name: getattr(row, name) for name in SAME} for row in rows]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is written as it comes."""
    monkeypatch.setattr(unfinished, "SHARE", math.inf)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("step", [7, 1])
def test_stopped_again_and_again(step: int, job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    whole = measured(job, tmp_path / "whole.jsonl")
    needed, work.done = work.done, Counter()
    assert all(row.status == "ok" and row.top1 is not None for row in whole)
    starts = 0
    while True:
        work.left, starts = 5 + step * starts, starts + 1
        try:
            rows = measured(job, tmp_path / "parts.jsonl")
            break
        except KeyboardInterrupt:
            pass
    assert starts > 5
    assert told(rows) == told(whole) == told(Results(tmp_path / "parts.jsonl").rows())
    assert work.done["over"] <= needed["over"] + starts and work.done["peak"] <= needed["peak"] + starts
    assert work.done["answer"] <= needed["answer"] + starts
    for name in ("whole", "parts"):
        kept = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith((name, f".{name}")))
        assert kept == [f"{name}.jsonl", f"{name}.predictions", f"{name}.unreadable.txt"], "nothing is left lying about"


@pytest.mark.usefixtures("at_once")
def test_a_pass_goes_on_at_its_image(job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work, path = Work(monkeypatch), tmp_path / "r.jsonl"
    work.left = 12 + 4 + 3 * (2 + 4)  # images to count on, settings that are counted, three batches of the pass
    with pytest.raises(KeyboardInterrupt):
        measured(job, path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["status"] for row in rows} == {"failed"} and all(row["gmacs"] for row in rows)
    assert {row["reason"] for row in rows[-4:]} == {"stopped before it was finished: interrupted"}
    assert (work.done["open"], work.done["answer"]) == (12 + 6, 12)
    work.left = 10**9
    measured(job, path)
    assert (work.done["open"], work.done["answer"]) == (12 + 12, 24), "no image is opened twice, no batch asked twice"


def test_what_other_versions_measured_is_not_gone_on_with(
    job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenbench.runs import environment

    original = environment.describe
    work = Work(monkeypatch)
    work.left = 40
    with pytest.raises(KeyboardInterrupt):
        measured(job, tmp_path / "r.jsonl")
    work.done, work.left = Counter(), 10**9
    monkeypatch.setattr(environment, "describe", lambda device: {**original(device), "torch": "9.9"})
    rows = measured(job, tmp_path / "r.jsonl")
    assert work.done["over"] == len(rows) and all(row.env["torch"] == "9.9" for row in rows)


def test_forced_nothing_is_taken_up(job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch)
    first = measured(job, tmp_path / "r.jsonl")
    needed, work.done = work.done, Counter()
    again = runner.run(job.__class__(**{**vars(job), "force": True}), Results(tmp_path / "r.jsonl"), Watch())
    assert work.done == needed
    assert all(new.time > old.time for new, old in zip(again, first, strict=True))


def test_a_session_is_that_in_which_timing_began(
    job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SHARE", math.inf)
    work = Work(monkeypatch)
    measured(job, tmp_path / "whole.jsonl")
    work.left = sum(work.done.values()) - 3
    with pytest.raises(KeyboardInterrupt):
        measured(job, tmp_path / "r.jsonl")
    timed = {json.loads(path.read_text())["session"] for path in (tmp_path / "r.unfinished").glob("*.rounds")}
    work.left = 10**9
    rows = measured(job, tmp_path / "r.jsonl")
    assert {row.env["session"] for row in rows} == timed and len(timed) == 1
    assert all(row.speedup for row in rows)


SWEEP = "evit[keep_rate=0.5,0.6,0.7,0.8],topk[keep_rate=0.5,0.6,0.7,0.8],tome[r=1,2,3]"


def started(path: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tokenbench.cli", "run", "--methods", SWEEP, "-o", str(path), "--limit", "60"]
    return subprocess.Popen(
        [*command, "-b", "4", *FEWEST, *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_killed(number: signal.Signals, tmp_path: Path) -> None:
    path, draw = tmp_path / "r.jsonl", np.random.default_rng(int(number))
    for _ in range(5):
        process = started(path)
        time.sleep(4 + 8 * draw.random())
        process.send_signal(number)
        _, said = process.communicate()
        assert "Traceback" not in said
        if number != signal.SIGKILL and process.returncode:
            assert process.returncode == 128 + number
    process = started(path)
    process.communicate()
    assert process.returncode == 0
    rows = Results(path).rows()
    assert len(rows) == 12 and all(row.status == "ok" and row.top1 is not None for row in rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.predictions"]


@pytest.mark.slow
def test_three_processes_share_the_jobs(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    processes = [started(path) for _ in range(3)]
    time.sleep(10)
    processes[1].kill()
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, -signal.SIGKILL, 0]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    done = Counter(row["id"] for row in lines if row["status"] == "ok")
    assert len(done) == 12 and set(done.values()) == {1}, "each job was measured once"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.jsonl", "r.predictions"]
