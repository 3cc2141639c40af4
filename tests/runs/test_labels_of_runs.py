"""Whose logit an image is scored by, from the folder to the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from femto import Watch, plan
from PIL import Image

from tokenbench import backbones, data
from tokenbench.measure.accuracy import Predictions
from tokenbench.runs import runner
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.tasks.classification import Classification
from tokenbench.weights import checkpoints, files

NAMES = tuple("jihgfedcba")  # of the classes of the weights
HERE = ("a", "c", "h")  # of the folders


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    backbone = backbones.create("deit_femto")
    backbone.vit.head.weight.data.normal_()
    files.save(
        path := tmp_path_factory.mktemp("w") / "dense.safetensors", backbone, {"class_names": NAMES, "classes": 10}
    )
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw, root = np.random.default_rng(0), tmp_path_factory.mktemp("data") / "photos"
    for name in HERE:
        (root / name).mkdir(parents=True)
        for i in range(8):
            Image.fromarray(draw.integers(0, draw.integers(9, 256), (28, 28), np.uint8)).save(root / name / f"{i}.png")
    return root


def run(weights: Path, photos: Path, folder: Path, **changes: Any) -> tuple[Row, Predictions, list[str]]:
    watch, results = Watch(), Results(folder / "results.jsonl")
    knobs = {knob: changes.pop(knob) for knob in Classification.model_fields if knob in changes}
    settings = {"weights": str(weights), "data_dir": photos, "task": Classification(**knobs), **changes}
    (row,) = runner.run(plan("dense", **settings), results, watch)
    return row, Predictions.load(results.predictions(row.id)), watch.said


def logits(weights: Path, photos: Path) -> torch.Tensor:
    backbone = backbones.create("deit_femto")
    checkpoints.load(backbone, weights)
    loader = data.loader(data.open_folder(photos), backbone.config, 8)
    with torch.inference_mode():
        return torch.cat([backbone.vit.eval()(images) for images, _ in loader])


def test_classes_are_found_by_the_names_in_the_header(weights: Path, photos: Path, tmp_path: Path) -> None:
    row, said, told = run(weights, photos, tmp_path)
    assert said.target.tolist() == [NAMES.index(name) for name in HERE for _ in range(8)]
    assert said.top[:, 0].tolist() == logits(weights, photos).argmax(1).tolist()
    assert row.images == 24 and any("3 of its 10 classes are in photos" in line for line in told)


def test_only_the_classes_that_are_there(weights: Path, photos: Path, tmp_path: Path) -> None:
    whole, _, _ = run(weights, photos, tmp_path)
    row, said, told = run(weights, photos, tmp_path, restrict_classes=True)
    kept = sorted(NAMES.index(name) for name in HERE)
    scored = logits(weights, photos)[:, kept]
    assert said.target.tolist() == [kept.index(NAMES.index(name)) for name in HERE for _ in range(8)]
    assert said.top[:, 0].tolist() == scored.argmax(1).tolist()
    assert row.top1 == 100 * np.mean(scored.argmax(1).numpy() == said.target) != whole.top1
    assert (whole.conditions, row.conditions) == (
        {"class_order": "names"},
        {"class_order": "names", "restrict_classes": True, "scored_classes": "3 of the model's"},
    )
    assert row.id != whole.id, "a restricted row stands for no other"
    assert not any("--restrict-classes" in line for line in told)


def test_a_file_of_labels(weights: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"a/{i}.png,{i}\n" for i in range(8)))
    row, said, told = run(weights, photos, tmp_path, labels=str(tmp_path / "labels.csv"))
    assert (row.images, said.target.tolist()) == (8, list(range(8)))
    assert any(line.startswith("16 of 24 images in") for line in told)


def test_the_order_of_folders_is_part_of_the_row(weights: Path, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    files.save(unnamed := tmp_path / "unnamed.safetensors", backbones.create("deit_femto", classes=3), {"classes": 3})
    numbered = tmp_path / "numbered"
    for name, number in zip(HERE, ("1", "2", "10"), strict=True):
        (numbered / number).parent.mkdir(exist_ok=True)
        (numbered / number).symlink_to(photos / name)
    natural, first, warned = run(unnamed, numbered, tmp_path)
    lexical, second, told = run(unnamed, numbered, tmp_path, class_order="lexical")
    assert natural.id != lexical.id
    assert (natural.conditions, lexical.conditions) == ({"class_order": "natural"}, {"class_order": "lexical"})
    assert (
        first.target.tolist() == [0] * 8 + [2] * 8 + [1] * 8 and second.target.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    )
    assert any("--class-order lexical" in line for line in warned) and not any("order" in line for line in told)


def test_unreadable_images_are_listed_beside_the_results(weights: Path, photos: Path, tmp_path: Path) -> None:
    for i in range(9):
        (photos / "a" / f"bad{i}\n.png").write_bytes(b"no image")
    try:
        _, _, told = run(weights, photos, tmp_path)
    finally:
        for bad in photos.glob("a/bad*"):
            bad.unlink()
    listed = tmp_path / "results.unreadable.txt"
    (said,) = (line for line in told if "cannot be read" in line)
    assert said.startswith("9 of 33 images cannot be read") and said.endswith(
        f"and 4 more; all are listed in {listed}."
    )
    lines = [line.split("\t") for line in listed.read_text().splitlines()]
    assert lines == [["photos all", f"a/bad{i}\\n.png", "not an image in a format that can be read"] for i in range(9)]
    run(weights, photos, tmp_path, force=True)
    assert not listed.exists(), "what was mended is no longer listed"


def test_pixels_that_no_patch_sees_are_said(tmp_path: Path) -> None:
    watch = Watch()
    runner.run(plan("dense", image_size=(30, 28)), Results(tmp_path / "r.jsonl"), watch)
    (said,) = (line for line in watch.said if "unseen" in line)
    assert said == (
        "deit_femto: images of 30x28 make 4x4 patches of 7 pixels, which leave the last 2 rows and 0 columns unseen; "
        "--image-size 28x28 sees all."
    )
    assert backbones.create("deit_t", (250, 250)).unseen and backbones.create("deit_t", (240, 240)).unseen is None
