"""A pass over the data by many processes gives what one process finds, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenbench import data
from tokenbench.measure.accuracy import Predictions
from tokenbench.runs.results import load, predictions_path

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


@pytest.mark.slow
def test_torchrun_scores_what_one_process_scores(photos: Path, tmp_path: Path) -> None:
    asked = [
        "--methods",
        "evit,tome",
        "-b",
        "4",
        "--rounds",
        "3",
        "--max-seconds",
        "0",
        "--threads",
        "1",
        "--data-dir",
        str(photos),
    ]
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
