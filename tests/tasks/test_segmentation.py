"""Segmentation from files to rows and through training, on disks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scenes
import torch
from click.testing import CliRunner
from conftest import tiny_swin
from PIL import Image
from refusals import refused
from safetensors.torch import load_file
from scenes import Quiet

from tokenbench.backbones import Backbone
from tokenbench.cli import main
from tokenbench.data.coco import open_coco
from tokenbench.data.labelled import from_objects, open_masks
from tokenbench.errors import BadData, Unsupported, UsageError, WeightsError
from tokenbench.heads.recipes import SEGMENTATION
from tokenbench.heads.segmenter import UPerNet
from tokenbench.measure.confusion import Labelled
from tokenbench.methods.dense import Dense
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.model import Model
from tokenbench.runs.results import load
from tokenbench.tasks.detection import Detection
from tokenbench.tasks.segmentation import Segmentation
from tokenbench.training import Job, train
from tokenbench.training import log as logs
from tokenbench.training.task import HeadedTask
from tokenbench.weights import files

TASK = Segmentation(head="light", width=16, short=0)
RECIPE = SEGMENTATION["mini"].change({"updates": 12, "warmup_updates": 2, "batch": 4, "crop": 64})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A run of a few updates."""
    root = tmp_path_factory.mktemp("seg")
    folder = scenes.masked(root / "disks", train=8, val=3)
    job = Job(Dense(), "swin_nano", RECIPE, folder, root / "out", task=TASK, save_every=6)
    found = train(job, Quiet())
    assert found.images == 3 and found.value is not None and found.value > 30
    return job, root / "out"


def test_killed_it_goes_on_bit_for_bit(trained: tuple[Job, Path], tmp_path: Path) -> None:
    job, output = trained
    again = replace(job, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train(again, Quiet(until=8))
    train(again, Quiet())
    one, other = (load_file(out / "model.safetensors") for out in (output, again.output))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_methods_own_losses_and_a_teachers_maps(trained: tuple[Job, Path], tmp_path: Path) -> None:
    """DynamicSwin learns what to choose from the head's losses and its ratio's, and maps from the dense model."""
    job, output = trained
    teacher, two = str(output / "model.safetensors"), RECIPE.change({"updates": 2, "teacher": "dense"})
    job = replace(job, method=DynamicViT(), recipe=two, output=tmp_path / "own", teacher=teacher)
    train(job, Quiet())
    row = logs.read(tmp_path / "own" / "log.jsonl")[0]
    assert row["loss_ratio"] > 0 and row["loss_distill"] > 0
    terms = ("pixels", "auxiliary", "ratio", "distill")
    assert row["loss"] == pytest.approx(sum(row[f"loss_{name}"] for name in terms), rel=1e-4)
    assert files.header(tmp_path / "own" / "model.safetensors")["teacher"]["hash"] == files.sha(Path(teacher))
    own = load_file(tmp_path / "own" / "model.safetensors")
    assert any(name.startswith("body.blocks.5.reducers.0.predictor") for name in own)
    with pytest.raises(WeightsError, match=r"a dense swin_nano trained for segmentation, and --teacher auto is none"):
        train(replace(job, output=tmp_path / "none", teacher="auto"), Quiet())


def test_each_term_reaches_predictors() -> None:
    """The ratio's alone too."""
    model = TASK.model(Model(Backbone(tiny_swin()), DynamicViT()).train(), 2)
    task = HeadedTask(model, TASK).train()
    found = task(torch.randn(2, 3, 70, 90), torch.zeros(2, 70, 90, dtype=torch.int64))
    weights = [p for name, p in model.named_parameters() if ".predictor." in name]
    for name in ("ratio", "pixels"):
        grads = torch.autograd.grad(found[name], weights, retain_graph=True)
        assert len(grads) == 30 and all(bool(grad.isfinite().all() & (grad != 0).any()) for grad in grads), name


def test_in_bfloat16(trained: tuple[Job, Path], tmp_path: Path) -> None:
    job, output = trained
    half = replace(job, output=tmp_path / "half", precision="bf16", recipe=RECIPE.change({"updates": 2}))
    assert train(half, Quiet()).images == 3
    one, other = (logs.read(out / "log.jsonl")[0] for out in (output, half.output))
    assert one["update"] == other["update"] == 2
    for name in ("loss_pixels", "loss_auxiliary"):
        assert other[name] == pytest.approx(one[name], rel=0.05) and other[name] != one[name]
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(half.output / "model.safetensors").values())


def test_rows(trained: tuple[Job, Path], tmp_path: Path) -> None:
    job, output = trained
    out = tmp_path / "r.jsonl"
    done = CliRunner().invoke(
        main,
        ["run", "--task", "segmentation[short=0,flip=true,ratios=1/1.5,slide=64]", "--backbone", "swin_nano",
         "--methods", "dense", "--weights", str(output), "--data-dir", str(job.data_dir), "--image-size", "64",
         "--rounds", "3", "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = load(out)[0]
    assert row.status == "ok" and row.miou_low <= row.miou <= row.miou_high and row.images == 3
    assert row.reason == (
        "GMACs and times are of one pass over one whole image, and mIoU is of 4 passes by windows of 64 pixels; "
        "GMACs and times are of 64x64 pixels, and scores are of images at their own sizes"
    )
    assert list(row.ms_by_part) == ["backbone", "heads", "post-processing"] and row.conditions["head"] == "light"
    assert sum(row.gmacs_by_part.values()) == pytest.approx(row.gmacs)
    listed = (tmp_path / "r.predictions" / f"{row.id}.classes.csv").read_text().splitlines()
    assert listed[0] == "class,iou" and [line.split(",")[0] for line in listed[1:]] == ["background", "disk"]
    saved = Labelled.load(tmp_path / "r.predictions" / f"{row.id}.npz")
    assert saved.names == ("background", "disk") and saved.total.sum() == 3 * 96 * 111, "the first column is ignored"


def test_one_image_is_too_few_for_upernet_to_learn_from() -> None:
    maps = [torch.rand(1, 4, side, side) for side in (8, 4, 2, 1)]
    with pytest.raises(Unsupported, match=r"^UPerNet cannot learn from one image at a time.* --batch-size of 2 or"):
        UPerNet([4] * 4, 4).train()(maps)
    assert UPerNet([4] * 4, 4).eval()(maps).shape == (1, 4, 8, 8)


def test_masks(tmp_path: Path) -> None:
    folder = scenes.masked(tmp_path / "disks", val=2)
    found = open_masks(folder, "val")
    assert (found.name, len(found), found.classes) == ("disks", 2, ("background", "disk"))
    labels = found.mask(0, (96, 112))
    assert set(np.unique(labels)) == {0, 1, 255} and (labels[:, 0] == 255).all()
    shifted = open_masks(folder, "val", shift=True).mask(0, (96, 112))
    assert ((shifted == 255) == (labels != 1)).all() and (shifted[labels == 1] == 0).all()


def test_masks_of_objects(tmp_path: Path) -> None:
    found = from_objects(open_coco(scenes.coco(tmp_path / "disks", val=2), "val"))
    image, masks = scenes.disks(2, 0)[0]
    assert found.classes == ("background", "disk")
    assert (found.mask(0, image.shape[:2]) == np.any(masks, axis=0)).all()


def test_faults_of_masks_name_the_file(tmp_path: Path) -> None:
    folder = scenes.masked(tmp_path / "disks", val=2)
    found, file = open_masks(folder, "val"), folder / "masks" / "val" / "0.png"
    for array, says in (
        (np.full((96, 112), 7, np.uint8), "mask 0.png has class 7, and there are 2 classes"),
        (np.zeros((9, 9), np.uint8), "mask 0.png is 9x9 and its image 112x96"),
        (np.zeros((96, 112, 3), np.uint8), "mask 0.png is no picture of class indices"),
    ):
        Image.fromarray(array).save(file)
        with pytest.raises(Exception, match=says):
            found.mask(0, (96, 112))
    with refused(BadData, f"{folder}/images/val/0.png: mask 0.png is no picture of class indices, one number a pixel."):
        Segmentation(strict=True).open(folder, None)  # type: ignore[arg-type]
    file.unlink()
    with pytest.raises(BadData, match=r"1 of 2 images have no mask .*first: 0.png"):
        open_masks(folder, "val")
    (folder / "classes.txt").write_text("background\n\ndisk\n\n")
    with refused(
        BadData,
        f"{folder}/classes.txt has nothing on line 2, so which indices the names below have is not clear; give each "
        "line a name.",
    ):
        open_masks(folder, "val")
    (folder / "classes.txt").unlink()
    with pytest.raises(BadData, match=r"has no classes\.txt"):
        open_masks(folder, "val")


def test_what_objects_can_be_scored(tmp_path: Path) -> None:
    """Nothing is, where all would be background; and labels of objects neither run over nor into the ignored one."""
    folder = scenes.coco(tmp_path / "disks", train=2, val=2)
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    test = {key: value for key, value in content.items() if key != "annotations"}
    many = [{"id": i, "name": f"kind {i}"} for i in range(255)]
    for changed, says in (
        (test, "disks has no annotations of split 'val', so nothing can be scored on it."),
        (
            {**test, "categories": [], "annotations": []},
            "disks has no categories in split 'val'; give annotations that…",
        ),
        (content | {"categories": many}, "disks has 255 categories, and masks have room for 254; give annotations of…"),
    ):
        file.write_text(json.dumps(changed))
        with refused(BadData, says):
            Segmentation().open(folder, None)  # type: ignore[arg-type]
    file.write_text(json.dumps(content).replace('"disk"', '"ring"'))
    with refused(BadData, "disks has other categories in split 'train' than in 'val'; mend one."):
        Segmentation().open_training(folder)
    file.rename(folder / "val" / "_annotations.coco.json")
    (folder / "annotations" / "instances_train.json").unlink()
    assert Segmentation().open(folder, None).classes == ("background", "ring")  # type: ignore[arg-type,union-attr]


def test_what_must_be_known_of_costs() -> None:
    """Nothing, where they are of what is scored."""
    assert Segmentation().caveats(None) == [] == Detection().caveats((800, 1333))
    assert Detection().caveats((512, 640)) == [
        "GMACs and times are of 512x640 pixels, and scores are of images brought to 800 pixels a short side and 1333 a "
        "long one at most"
    ]
    (one,) = Segmentation(ratios=(0.5,)).caveats(None)
    assert one == "GMACs and times are of one pass over one whole image, and mIoU is at 0.5 of its size"
    (both,) = Segmentation(flip=True).caveats(None)
    assert both == "GMACs and times are of one pass over one whole image, and mIoU is of 2 passes"


def test_options_that_say_nothing(tmp_path: Path) -> None:
    objects, masks = scenes.coco(tmp_path / "objects", val=2), scenes.masked(tmp_path / "masks", val=2)
    with refused(UsageError, f"reduce_zero_label is of masks, and {objects} has COCO's objects, …; leave it out."):
        Segmentation(reduce_zero_label=True).open(objects, None)  # type: ignore[arg-type]
    with refused(UsageError, f"images=there is of COCO's annotations, and {masks} has masks; leave it out, or give…"):
        Segmentation(images="there").open(masks, None)  # type: ignore[arg-type]


def test_a_bad_mask_is_passed_over_in_training(tmp_path: Path) -> None:
    """And named, as an image that cannot be read is."""
    folder = scenes.masked(tmp_path / "disks", train=3)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(folder / "masks" / "train" / "1.png")
    lessons = TASK.lessons(open_masks(folder, "train"), Backbone(tiny_swin()), RECIPE, 0)
    image, labels, skipped = lessons[0, 0, 1]
    assert image.shape == (3, 64, 64) and labels.shape == (64, 64)
    assert skipped == {"1.png": "mask 1.png is 9x9 and its image 112x96"}
