"""Rows of every task are compared by what it measures: paired over images where it can, and never across tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner
from refusals import refused
from rows import row

from tokenbench import tasks
from tokenbench.cli import main
from tokenbench.errors import UnknownName, UsageError
from tokenbench.measure.confusion import Labelled
from tokenbench.measure.detections import Detections, Objects
from tokenbench.measure.verdicts import Difference
from tokenbench.runs.compare import compare
from tokenbench.runs.gates import failing, gate
from tokenbench.runs.results import Results
from tokenbench.tasks.base import Metric, Task
from tokenbench.tasks.detection import Detection
from tokenbench.tasks.segmentation import Segmentation

IMAGES = 40


def labelled(wrong: int, names: tuple[str, ...] = ("a", "b")) -> Labelled:
    """Two classes of 50 pixels in each image, of which `wrong`, one more in every other, are taken for the other."""
    each = [[[50, 0], [wrong + i % 2, 50 - wrong - i % 2]] for i in range(IMAGES)]
    return Labelled(np.array(each), names, tuple(f"{i}.png" for i in range(IMAGES)))


def detections(shift: float, first: int = 0) -> Detections:
    """Two objects an image, found with boxes that are off by so many pixels in every other image."""
    boxes = [(i, (10.0 + 30 * j, 10.0, 20.0, 20.0)) for i in range(IMAGES) for j in range(2)]
    moved = [(i, (x + shift * (i % 2), y, w, h)) for i, (x, y, w, h) in boxes]
    of = [Objects.of([(i, box, 0, 0.9, 400.0, False, b"") for i, box in each]) for each in (moved, boxes)]
    ids = np.arange(first, first + IMAGES)
    return Detections(ids, np.full((IMAGES, 2), 64), np.array([1]), ("disk",), *of)


def write(path: Path, task: Task, **said: Any) -> Path:
    """A row for each method, with the scores of what it said."""
    for method, own in said.items():
        conditions = task.model_dump(mode="json", exclude_defaults=True)
        scores = dict(task.score(own, None, 42))
        metrics = {name: scores.get(name) for name in task.metric_names()}
        made = row(method, task=task.name, metrics=metrics, conditions=conditions, images=len(own))
        Results(path).append(made)
        own.save(Results(path).predictions(made.id))
    return path


def test_segmentation(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", Segmentation(), dense=labelled(2), stvit_r=labelled(10))
    (pair,) = compare([file], ["stvit_r"])
    change, wanted = pair.changes["miou"], labelled(10).change(labelled(2), 42)
    assert (change.value, change.low, change.high, change.p) == (round(wanted[0], 6), *wanted[1:])
    assert change.value == pytest.approx(change.second - change.first) and change.words.startswith("less accurate")
    assert pair.changes["pixel_accuracy"].value == pytest.approx(-8.0) and pair.changes["pixel_accuracy"].p is None
    assert pair.changes["gmacs"].value == 0.5 and "top1" not in pair.changes
    (back,) = compare([file], ["stvit_r", "dense"])
    assert back.changes["miou"].value == -change.value and back.changes["miou"].words == "more accurate"


def test_detection_with_its_cap(tmp_path: Path) -> None:
    """Average precision at the cap of the rows, its interval from the same draws for both."""
    pytest.importorskip("faster_coco_eval")
    task = Detection(cap=2)
    file = write(tmp_path / "a.jsonl", task, dense=detections(0), stvit_r=detections(4))
    (pair,) = compare([file], ["stvit_r"])
    change = pair.changes["box_ap"]
    assert change.first == pytest.approx(100) and change.value == pytest.approx(change.second - 100)
    assert change.low < change.value < change.high < 0 and change.p < 0.05  # type: ignore[operator]
    assert change.words == "less accurate, more than 1.0 lost"
    assert pair.changes["box_ap50"].value == 0 and pair.changes["box_ap50"].low is None
    assert "mask_ap" not in pair.changes, "none of them has masks"
    other = write(tmp_path / "b.jsonl", task, dense=detections(0), stvit_r=detections(4, first=7))
    why = "are of other images (some could be read in one run only); run both again with --force."
    with refused(UsageError, f"The predictions of dense of {other} and stvit_r of {other} {why}"):
        compare([other], ["stvit_r"])
    lost = Results(other).predictions(pair.second.row.id)
    lost.unlink()
    with refused(UsageError, f"stvit_r of {other} cannot be paired image by image: Detections…"):
        compare([other], ["stvit_r"])


def test_conditions_on_metrics_of_any_task(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", Segmentation(), dense=labelled(2), stvit_r=labelled(10))

    def failed(*texts: str) -> list[str]:
        return [one.text for _, one in failing(compare([file], ["stvit_r"]), [gate(text) for text in texts])]

    holds = ["miou<-0.5", "miou_high<0", "p_value<0.05", "pixel_accuracy<-1", "gmacs<0.6"]
    assert failed(*holds, "miou>0", "miou_low>0", "pixel_accuracy>0") == holds
    for name in ("box_ap", "mask_ap_low", "box_ar10", "top1_high", "agreement"):
        assert gate(f"{name}<0").field == name
    with pytest.raises(UnknownName, match="Did you mean box_ap"):
        gate("box_app<0")
    with pytest.raises(UsageError, match="cannot be decided"):
        failed("box_ap<0")
    with pytest.raises(UnknownName, match="Unknown field 'pixel_accuracy_low'"):
        gate("pixel_accuracy_low<0")  # it has no interval


def test_the_command(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", Segmentation(), dense=labelled(2), stvit_r=labelled(10))
    done = CliRunner().invoke(main, ["compare", str(file), "stvit_r", "--fail-if", "miou<-0.5"])
    line = next(line for line in done.stdout.splitlines() if line.startswith("mIoU %"))
    assert done.exit_code == 1 and "less accurate, more than 1.0 lost (p = 0.002)" in line, line
    assert "of mIoU paired (bootstrap)" in " ".join(done.stdout.split())
    done = CliRunner().invoke(main, ["compare", str(file), "stvit_r", "--json"])
    told = json.loads(done.stdout)["changes"]["miou"]
    assert done.exit_code == 0 and told["change"] < -10 and told["low"] < told["change"] < told["high"]


class Errors(Task):
    """A task whose main metric is better when it is less, and which pairs nothing."""

    name = "errors"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("rmse", "RMSE", "error", "px", better="down", interval=True),)

    def load(self, path: Path) -> Any:
        return float(path.read_text())

    def join(self, parts: Any) -> Any:
        raise NotImplementedError

    def score(self, own: float, dense: float | None, seed: int) -> dict[str, float | None]:
        if dense is None:
            return {"rmse": own}
        ends = {"diff_dense_low": own - dense - 0.5, "diff_dense_high": own - dense + 0.5}
        return {"rmse": own, "diff_dense": own - dense, **ends, "p_value": 0.01}


def test_less_may_be_better_and_a_task_may_be_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks._registry, "errors", Errors)
    file = tmp_path / "a.jsonl"
    for method, value in (("dense", 5.0), ("evit", 8.0)):
        made = row(method, task="errors", metrics={"rmse": value, "rmse_low": 0.0, "rmse_high": 9.0})
        Results(file).append(made)
        Results(file).predictions(made.id).parent.mkdir(exist_ok=True)
        Results(file).predictions(made.id).write_text(str(value))
    (pair,) = compare([file], ["evit"])
    assert pair.changes["rmse"].value == 3.0 and pair.changes["rmse"].words == "less accurate, more than 1.0 lost"
    assert Errors().changes(8.0, 5.0, 0) == {"rmse": Difference(3.0, 2.5, 3.5, 0.01)}
    monkeypatch.delitem(tasks._registry, "errors")
    (pair,) = compare([file], ["evit"])
    assert pair.changes["rmse"].value == 3.0 and pair.changes["rmse"].p is None and pair.changes["rmse"].words == ""
