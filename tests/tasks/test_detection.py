"""Detection from files to rows and through training, on disks: losses fall, runs go on bit for bit, rows say it all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scenes import Quiet

from tokenbench.cli import main
from tokenbench.errors import BadData
from tokenbench.heads.recipes import DETECTION
from tokenbench.measure.detections import Detections
from tokenbench.methods.dense import Dense
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.runs.results import load
from tokenbench.tasks.detection import Detection
from tokenbench.training import Job, train
from tokenbench.training import log as logs

SMALL = {"head": "mask", "width": 16, "fc": 32, "mask_convs": 1, "anchor": 8.0, "samples": 2}
TASK = Detection(**SMALL, before=60, after=30, cap=20, short=0)
WRITTEN = "detection[head=mask,width=16,fc=32,mask_convs=1,anchor=8,samples=2,before=60,after=30,cap=20,short=0]"
RECIPE = DETECTION["smoke"].change(
    {"updates": 6, "warmup_updates": 2, "batch": 2, "crop": 64, "before": 60, "after": 30}
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes.coco(tmp_path_factory.mktemp("data") / "disks", train=9, val=4)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, Path]]:
    """A run of a few updates."""
    output = tmp_path_factory.mktemp("runs") / "det"
    job = Job(STViTR(), "swin_nano", RECIPE, folder, output, task=TASK, seed=1, save_every=2)
    train(job, Quiet())
    yield job, output


def call(*args: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, list(args))
    assert done.exit_code == code, done.output
    return done.output


def test_killed_it_goes_on_bit_for_bit(trained: tuple[Job, Path], tmp_path: Path) -> None:
    job, output = trained
    again = replace(job, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train(again, Quiet(until=3))
    watch = Quiet()
    train(again, watch)
    assert any("going on after update 2 of 6." in text for text in watch.said)
    one, other = (load_file(out / "model.safetensors") for out in (output, again.output))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_a_run_says(trained: tuple[Job, Path]) -> None:
    _, output = trained
    rows = logs.read(output / "log.jsonl")
    assert {"loss", "loss_mask", "loss_classifier", "loss_objectness", "layer_scale", "lr"} <= rows[0].keys()
    assert {"box_ap", "mask_ap50", "images"} <= rows[-1].keys() and (output / "curve.png").is_file()


def test_rows(trained: tuple[Job, Path], folder: Path, tmp_path: Path) -> None:
    """Whole and parts, boxes and masks, and what other tools read."""
    out = tmp_path / "r.jsonl"
    text = call(
        "run", "--task", WRITTEN, "--backbone", "swin_nano", "--methods", "dense,stvit_r,stvit",
        "--weights", str(trained[1]), "--data-dir", str(folder), "--image-size", "64x96",
        "--rounds", "3", "-o", str(out),
    )  # fmt: skip
    rows, problems = load(out)
    assert not problems and [row.status for row in rows] == ["ok", "ok", "skipped"]
    dense, own, refused = rows
    assert "makes no pyramid" in refused.reason and "its head is random, so no average precision" in dense.reason
    assert dense.box_ap is None and own.box_ap is not None and own.mask_ap is not None and own.images == 4
    assert own.image_size == (64, 96) and own.conditions["head"] == "mask"
    assert own.conditions["schedule"] == "6 updates of 2 images, lr 0.0015, from random weights"
    for row in (dense, own):
        assert sum(row.gmacs_by_part.values()) == pytest.approx(row.gmacs)
        assert list(row.ms_by_part) == ["backbone", "neck", "rpn", "heads", "post-processing"]
        assert sum(row.params_by_part.values()) == pytest.approx(row.params_m)
        assert 0 < row.gmacs_by_part["backbone"] < row.gmacs and len(row.gmacs_by_block) == 12
    assert "backbone GMAC" in text and "GMAC: backbone + neck + rpn + heads" in text and "box AP %" in text
    saved = Detections.load(tmp_path / "r.predictions" / f"{own.id}.npz")
    listed = json.loads((tmp_path / "r.predictions" / f"{own.id}.results.json").read_text())
    assert len(saved) == 4 and len(listed) == len(saved.found) and {row["category_id"] for row in listed} <= {7}
    listed = (tmp_path / "r.predictions" / f"{own.id}.classes.csv").read_text().splitlines()
    assert listed == ["class,box_ap,mask_ap", f"disk,{own.box_ap:.2f},{own.mask_ap:.2f}"]
    page = call("report", str(out), "-o", str(tmp_path / "reports"))
    assert "box AP %" in page


def test_weights_hold_the_task_to_what_they_are_of(trained: tuple[Job, Path], folder: Path, tmp_path: Path) -> None:
    """The head comes from the file where it is not said; another head, task or class is refused in a sentence."""
    rest = ("--backbone", "swin_nano", "--methods", "stvit_r", "--weights", str(trained[1]), "--rounds", "3")
    rest = (*rest, "-o", str(tmp_path / "r.jsonl"), "--image-size", "32")
    call("run", "--task", "detection[short=0]", *rest)
    row = load(tmp_path / "r.jsonl")[0][1]
    assert row.conditions["width"] == 16 and row.trained is not None
    said = call("run", "--task", "detection[width=32]", *rest, code=2)
    assert "The weights are of detection[width=16], and width=32 was asked for" in " ".join(said.split())
    said = call("run", "--task", "classification", *rest, code=1)
    assert "was trained for detection, not classification" in " ".join(said.split())
    other = scenes.coco(tmp_path / "other", val=2)
    file = other / "annotations" / "instances_val.json"
    file.write_text(file.read_text().replace('"disk"', '"ring"'))
    said = call("run", "--task", "detection[short=0]", "--data-dir", str(other), *rest, code=1)
    assert "The weights are of 1 class and the data of 1: class 0 is disk there and ring here" in " ".join(said.split())


def test_pictures(trained: tuple[Job, Path], folder: Path, tmp_path: Path) -> None:
    said = call(
        *("trace", "--task", "detection[short=0]", "--methods", "stvit_r", "--backbone", "swin_nano", "--limit", "2"),
        *("--weights", str(trained[1]), "--data-dir", str(folder), "-o", str(tmp_path / "maps")),
    )
    assert "scenes.html" in said and len(list((tmp_path / "maps").glob("*.png"))) == 2
    said = call("trace", "--task", "detection", "--backbone", "swin_nano", code=2)
    assert "draws on its own data; give --data-dir" in " ".join(said.split())


def test_what_cannot_be_trained_on(folder: Path, tmp_path: Path) -> None:
    job = Job(Dense(), "swin_nano", RECIPE, tmp_path / "none", tmp_path / "out", task=TASK)
    with pytest.raises(BadData, match="does not exist"):
        train(job, Quiet())
    boxes = scenes.coco(tmp_path / "boxes", train=3, val=2)
    for file in (boxes / "annotations").iterdir():
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        file.write_text(json.dumps(content))
    with pytest.raises(BadData, match="objects without outlines in split 'train'; find boxes only"):
        train(replace(job, data_dir=boxes), Quiet())
    only = TASK.model_copy(update={"masks": False})
    found = train(
        replace(job, data_dir=boxes, task=only, recipe=RECIPE.change({"updates": 1, "warmup_updates": 0})), Quiet()
    )
    assert found.value is not None and found.images == 2


def test_in_bfloat16(trained: tuple[Job, Path], tmp_path: Path) -> None:
    """Losses are those of float32 but for rounding, weights stay in float32, and what is held out is scored so too."""
    job, output = trained
    half = replace(job, output=tmp_path / "half", precision="bf16", recipe=RECIPE.change({"updates": 2}))
    assert train(half, Quiet()).images == 4
    one, other = (logs.read(out / "log.jsonl")[0] for out in (output, half.output))
    for name in ("loss", "loss_mask", "loss_classifier", "loss_objectness"):
        assert other[name] == pytest.approx(one[name], rel=0.05) and other[name] != one[name]
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(half.output / "model.safetensors").values())


@pytest.mark.slow
def test_disks_are_learned(tmp_path: Path) -> None:
    """The smoke recipe: the loss falls, boxes and masks are found, and a killed run ends with the same bits."""
    data = scenes.coco(tmp_path / "disks", train=24, val=6)
    recipe: Any = DETECTION["smoke"].change({"crop": 96})
    job = Job(STViTR(), "swin_nano", recipe, data, tmp_path / "out", task=TASK, save_every=10, evaluate_every=15)
    train(job, Quiet())
    rows = logs.read(tmp_path / "out" / "log.jsonl")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert rows[-1]["box_ap50"] > 5 and rows[-1]["mask_ap50"] > 5
    again = replace(job, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train(again, Quiet(until=105))
    train(again, Quiet())
    one, other = (load_file(out / "model.safetensors") for out in (job.output, again.output))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_two_processes_train_one_model(folder: Path, tmp_path: Path) -> None:
    """All parameters get gradients in both, of images without objects too; one speaks, and `run` reads the result."""
    words = WRITTEN.replace("head=mask", "head=cascade").replace("fc=32", "fc=32,box_convs=1")
    args = ["--task", words, "--backbone", "swin_nano", "--data-dir", str(folder)]
    changes = {**RECIPE.model_dump(include={"crop", "before", "after"}), "updates": 4, "warmup_updates": 1, "batch": 4}
    train_args = ["--method", "stvit_r", "--recipe", "smoke", "--save-every", "2", "-o", str(tmp_path / "two")]
    train_args += [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tokenbench", "train", *args, *train_args, "--device", "cpu"]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("box AP") == 1, "one of them speaks"
    rows = [row for row in logs.read(tmp_path / "two" / "log.jsonl") if "loss" in row]
    assert [row["update"] for row in rows] == [2, 4] and all(row["loss"] > 0 for row in rows)
    rest = ("--methods", "stvit_r", "--weights", str(tmp_path / "two"), "--image-size", "64", "--rounds", "3")
    call("run", *args, *rest, "-o", str(tmp_path / "r.jsonl"))
