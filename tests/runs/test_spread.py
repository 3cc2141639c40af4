"""A pass over the data by many processes gives what one process finds, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from femto import FEWEST, plan
from PIL import Image
from refusals import refused

from tokenbench import backbones, data
from tokenbench.core.processes import Processes
from tokenbench.errors import DataError, UsageError
from tokenbench.measure.accuracy import Predictions
from tokenbench.runs import candidates, spread
from tokenbench.runs.candidates import Candidate, Group
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import load, predictions_path
from tokenbench.tasks.classification import Classification
from tokenbench.weights import files

ROOT = Path(__file__).parents[2]
CONFIG = {"input_size": (1, 28, 28), "mean": (0.3,), "std": (0.3,), "crop_pct": 1.0, "interpolation": "bicubic"}
SAME = ("metrics", "images", "images_total", "skipped", "sample_hash", "gmacs", "tokens_mean", "status", "reason")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """23 images of ten classes; of the second batch of four none can be read, of the fourth one cannot."""
    random = np.random.default_rng(0)
    for index in range(23):
        folder = tmp_path / "photos" / str(index % 10)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(folder / f"{index:02}.png")
    images = data.open_folder(tmp_path / "photos")
    for position in (4, 5, 6, 7, 13):
        (tmp_path / "photos" / images.label(position)).write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_each_batch_is_that_of_one_process(photos: Path, count: int, start: int) -> None:
    whole = data.loader(data.open_folder(photos), CONFIG, 4).after(start)
    wanted = list(whole.batches())
    parts = [list(whole.every(rank, count).batches()) for rank in range(count)]
    order = [parts[k % count][k // count] for k in range(len(wanted))]
    assert sum(map(len, parts)) == len(wanted) == len(whole)
    for (pixels, targets, skipped), (own, right, missed) in zip(order, wanted, strict=True):
        assert torch.equal(pixels, own) and torch.equal(targets, right) and skipped == missed


class Threads:
    """What of `torch.distributed` the processes use, which are threads here."""

    def __init__(self, count: int) -> None:
        self.local, self.barrier = threading.local(), threading.Barrier(count, timeout=20)
        self.box: Any = None
        self.found: list[Any] = [None] * count

    def broadcast_object_list(self, box: list[Any], src: int) -> None:
        if self.local.rank == src:
            self.box = box[0]
        self.barrier.wait()
        box[0] = self.box
        self.barrier.wait()

    def gather_object(self, value: Any, found: list[Any] | None) -> None:
        self.found[self.local.rank] = value
        self.barrier.wait()
        assert (found is None) == (self.local.rank > 0)
        if found is not None:
            found[:] = self.found
        self.barrier.wait()


@pytest.fixture
def job(photos: Path, tmp_path: Path) -> Plan:
    torch.manual_seed(0)
    files.save(tmp_path / "femto.safetensors", backbones.create("deit_femto"), {})
    return plan("evit,topk", weights=str(tmp_path / "femto.safetensors"), data_dir=photos, batches=[4])


def groups(job: Plan) -> list[Group]:
    return candidates.prepare(job, {"hardware": "any"}, lambda text: None)


Told = list[tuple[int, list[int], list[tuple[str, str]], list[Any]]]


def told(batches: Any) -> Told:
    """What was said of each batch; the message in place of an answer that is an error."""

    def of(answer: Callable[[], Any]) -> Any:
        try:
            return answer().tolist()
        except ValueError as error:
            return str(error)

    return [
        (
            said.done,
            [] if said.targets is None else said.targets.tolist(),
            [*said.skipped],
            [of(a) for a in said.answers],
        )
        for said in batches
    ]


def alone(job: Plan, start: int) -> Told:
    (group,) = groups(job)
    assert group.loader is not None
    return told(spread.answers(asked_of(group), group.loader.after(start), start, None))  # type: ignore[attr-defined]


def asked_of(group: Group) -> Sequence[tuple[Group, Candidate]]:
    """All but the first setting, so that places are told by more than their order."""
    return [(group, candidate) for candidate in group.candidates[1:]]


def together(job: Plan, start: int, count: int, monkeypatch: pytest.MonkeyPatch) -> Told:
    world, made = Threads(count), [groups(job) for _ in range(count)]
    monkeypatch.setattr(spread, "dist", world)

    def serve(rank: int) -> None:
        world.local.rank = rank
        spread.serve(made[rank], Processes(rank, count))

    others = [threading.Thread(target=serve, args=(rank,)) for rank in range(1, count)]
    for thread in others:
        thread.start()
    world.local.rank = 0
    (group,) = made[0]
    assert group.loader is not None
    try:
        with spread.leading(Processes(0, count)) as pool:
            pool.know(made[0])
            loader: Any = group.loader.after(start) if start else group.loader  # type: ignore[attr-defined]
            return told(spread.answers(asked_of(group), loader, start, pool))
    except BaseException:
        world.barrier.abort()
        raise
    finally:
        for thread in others:
            thread.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("start", "count"), [(0, 2), (4, 3)])
def test_threads_say_what_one_process_says(start: int, count: int, job: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Classification.answer

    def answer(self: Any, model: Any, images: Any, targets: Any, precision: str, name: str) -> Any:
        if name.startswith("topk") and 8 in targets.tolist():
            raise ValueError("eight")
        return original(self, model, images, targets, precision, name)

    monkeypatch.setattr(Classification, "answer", answer)
    found = together(job, start, count, monkeypatch)
    assert found == alone(job, start)
    assert found[-1][0] == 23 and found[-1][1:2] + found[-1][3:] == ([], [])
    assert len(found) == 6 - start // 4 and {len(one[3]) for one in found[:-1]} == {2}
    assert any("eight" in one[3] for one in found)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_one_of_many_cannot_load_is_told_by_the_first(
    job: Plan, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for broken in photos.glob("*/*.png"):
        broken.write_bytes(b"no image")
    with refused(DataError, "None of the 23 images of photos can be read; the first, …"):
        together(job, 0, 2, monkeypatch)

    def die(self: Any) -> Any:
        raise RuntimeError("DataLoader worker is killed.\nmore")
        yield

    monkeypatch.setattr(data.Loader, "batches", die)
    with refused(DataError, "Images cannot be loaded (DataLoader worker is killed); try --workers 0."):
        together(job, 0, 2, monkeypatch)
    (group,) = groups(job)
    pool = spread.Pool(Processes())
    pool.know([group])
    monkeypatch.setattr(spread, "_tell", lambda order: order)
    with refused(UsageError, "--task classification is scored by one process; start it without torchrun."):
        list(spread.answers(asked_of(group), [], 0, pool))  # type: ignore[arg-type]


@pytest.mark.slow
def test_torchrun_scores_what_one_process_scores(photos: Path, tmp_path: Path) -> None:
    asked = ["--methods", "evit,tome", "-b", "4", *FEWEST, "--data-dir", str(photos)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    starts = {"one": ["-m"], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m"]}
    for name, start in starts.items():
        command = [sys.executable, *start, "tokenbench", "run", *asked, "-o", str(tmp_path / f"{name}.jsonl"), "--json"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3, "one process speaks"
    one, two = (load(tmp_path / f"{name}.jsonl")[0] for name in starts)
    for first, second in zip(one, two, strict=True):
        assert first.id == second.id and first.images == 18 and first.skipped == 5
        for name in SAME:
            assert getattr(first, name) == getattr(second, name), name
        pair = [Predictions.load(predictions_path(tmp_path / f"{name}.jsonl", first.id)) for name in starts]
        assert np.array_equal(pair[0].top, pair[1].top) and np.array_equal(pair[0].target, pair[1].target)
    listed = [(tmp_path / f"{name}.unreadable.txt").read_text() for name in starts]
    assert listed[0] == listed[1]
