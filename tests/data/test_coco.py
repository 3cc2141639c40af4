"""Annotations as COCO has them, and each fault in them named with file and id."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
from PIL import Image
from refusals import refused

from tokenbench.data.coco import decoded, encoded, open_coco
from tokenbench.errors import BadData, UsageError

Change = Callable[[dict[str, Any]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scenes.coco(tmp_path / "disks", val=4)


def change(folder: Path, how: Change) -> Path:
    file = folder / "annotations" / "instances_val.json"
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))
    return folder


def test_what_is_there(folder: Path) -> None:
    found = open_coco(folder, "val")
    assert (found.name, found.split, found.classes, found.categories, found.notes) == (
        "disks",
        "val",
        ("disk",),
        (7,),
        (),
    )
    assert len(found) == 4 and found.things[2] == () and found.ids == (1, 2, 3, 4) and found.sizes[0] == (96, 112)
    for index, (image, masks) in enumerate(scenes.disks(4, 0)):
        assert (np.array(found.open(index)) == image).all()
        for thing, mask in zip(found.things[index], masks, strict=True):
            assert (decoded(thing.outline, found.sizes[index]) == mask).all() and thing.area == mask.sum()


@pytest.mark.parametrize(
    "names",
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("val.json", "images/val"),
        ("val/_annotations.coco.json", "val"),
    ],
)
def test_other_layouts(folder: Path, names: tuple[str, str]) -> None:
    file, images = (folder / name for name in names)
    images.parent.mkdir(exist_ok=True)
    (folder / "val").rename(images)
    (folder / "annotations" / "instances_val.json").rename(file)
    assert len(open_coco(folder, "val")) == 4
    assert len(open_coco(None, "val", images, file)) == 4


def test_polygons_and_crowds(folder: Path) -> None:
    def how(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]], "bbox": [10, 10, 20, 10]}
        content["annotations"][1]["iscrowd"] = 1

    first, second, *_ = open_coco(change(folder, how), "val").things[0]
    assert decoded(first.outline, (96, 112)).sum() == 200 and second.crowd and not first.crowd


@pytest.mark.parametrize("values", [{"segmentation": [[1, 1, 9, 1, 9, 9]]}, {"area": 5}, {"iscrowd": 1}])
def test_other_annotations_are_another_sample(values: dict[str, Any], folder: Path) -> None:
    """What was scored before they were edited does not stand for what would be scored now."""
    before, again = (open_coco(folder, "val").digest([0]) for _ in range(2))
    assert open_coco(change(folder, one(0, **values)), "val").digest([0]) != before == again


def test_compressed_masks_are_those_of_their_runs(folder: Path) -> None:
    """And a size that is not stated is that of the file."""
    found = open_coco(folder, "val")

    def how(content: dict[str, Any]) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = encoded(annotation["segmentation"], (96, 112))
            annotation["segmentation"]["counts"] = annotation["segmentation"]["counts"].decode()
        content["images"][0] |= {"width": None, "height": None}

    again = open_coco(change(folder, how), "val")
    assert not again.notes and len(again.things[0]) == len(found.things[0])
    for one, other in zip(found.things[0], again.things[0], strict=True):
        assert (decoded(one.outline, (96, 112)) == decoded(other.outline, (96, 112))).all()


def one(number: int, **values: Any) -> Change:
    return lambda content: content["annotations"][number].update(values)


FAULTS: dict[str, tuple[Change, str]] = {
    "no area": (
        one(1, bbox=[5, 5, 0, 9]),
        r"1 of \d+ annotations have boxes of no area \(first: id 2 in 0.png\); they are left",
    ),
    "outside": (
        one(1, bbox=[500, 5, 9, 9]),
        "1 of .* have boxes outside their images .first: id 2 in 0.png.; they are left",
    ),
    "over": (
        one(1, bbox=[100, 5, 50, 9]),
        "have boxes that reach over their images .first: id 2 in 0.png.; they are cut",
    ),
    "numbers": (one(1, bbox=[1, 2, "3", 4]), "have no box of four numbers .first: id 2"),
    "nan": (one(1, bbox=[1, 2, float("nan"), 4]), "have no box of four numbers .first: id 2"),
    "points": (one(1, segmentation=[[1, 2, 3, 4]]), "have polygons of fewer than three points .first: id 2"),
    "half": (one(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "have polygons with half a point .first: id 2"),
    "size": (
        one(1, segmentation={"size": [9, 9], "counts": "a"}),
        "have encoded masks of another size than their images",
    ),
    "runs": (one(1, segmentation={"size": [96, 112], "counts": [5, 6]}), "runs are not as long as their images"),
    "negative runs": (one(1, segmentation={"size": [96, 112], "counts": [-6, 10758]}), "runs are not as long as"),
    "compressed": (one(1, segmentation={"size": [96, 112], "counts": "ooo1"}), "runs are not as long as their images"),
    "no counts": (one(1, segmentation={"size": [96, 112], "counts": "no\n"}), "runs are not as long as their images"),
    "far": (one(1, segmentation=[[1, 2, 1e9, 4, 5, 1e9]]), "have polygons far outside their images .first: id 2"),
    "area": (one(1, area="large"), "have areas that are no numbers .first: id 2 in 0.png.; that of the box is taken"),
    "no id": (one(1, id=[2]), "1 of .* annotations have no id .first: id .2. in 0.png.; they are kept"),
    "lists": (one(1, image_id=[1]), "are of images that the file does not have .first: id 2: image .1.."),
    "category": (
        one(1, category_id=9),
        "are of categories that the file does not have .first: id 2 in 0.png: category 9",
    ),
    "image": (one(1, image_id=99), "are of images that the file does not have .first: id 2: image 99"),
    "twice": (one(1, id=1), "have the id of another .first: id 1 in 0.png.; they are kept"),
    "unnamed": (
        lambda c: c["categories"][0].pop("name"),
        "1 of 1 categories have no name .first: id 7.; they are called",
    ),
    "file": (
        lambda c: c["images"][1].update(file_name="no.png"),
        r"1 of 4 images are not in .*val .first: id 2, no.png.",
    ),
    "long": (lambda c: c["images"][1].update(file_name="a" * 5000), "1 of 4 images are not in "),
    "stated": (
        lambda c: c["images"][1].update(width=5),
        "have another size than is stated .first: id 2, 1.png: 112x96, stated 5x96",
    ),
    "crowd": (one(1, iscrowd="0"), "say neither 0 nor 1 of iscrowd .first: id 2 in 0.png: '0'.; they are left out"),
    "below": (one(1, area=-4), "have areas below 0 .first: id 2 in 0.png.; that of the box is taken"),
    "one short": (
        one(1, segmentation=[[1, 2, 3, 4], [1, 2, 3, 4, 5, 9]]),
        "have polygons of fewer than three points beside others .first: id 2 in 0.png.; these polygons are left",
    ),
    "no outline": (
        one(1, segmentation=[]),
        "1 of .* have no outline, as others have .first: id 2 in 0.png.; so masks are neither learned nor scored",
    ),
    "long box": (one(1, bbox=[1, 2, 10**400, 4]), "have no box of four numbers .first: id 2"),
    "same name": (
        lambda c: (c["categories"].append({"id": 8, "name": "disk"}), c["annotations"][0].update(category_id=8)),
        "1 of 2 categories have the name of another .first: id 8, 'disk'.; they stay apart by their ids",
    ),
    "one kind": (
        lambda c: c["categories"].append({"id": 8, "name": "b"}),
        "objects are of 'disk', one of 2 categories",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_told_and_strictly_errors(fault: str, folder: Path) -> None:
    import re

    how, told = FAULTS[fault]
    whole = sum(map(len, open_coco(folder, "val").things))
    found = open_coco(change(folder, how), "val")
    assert len(found.notes) == 1 and re.search(told, found.notes[0]), found.notes
    assert "instances_val.json" in found.notes[0] and found.notes[0].endswith("--strict makes this an error.")
    out = "they are left out" in found.notes[0]
    assert (sum(map(len, found.things)) < whole) == out
    with pytest.raises(BadData, match=told.split("; ")[0]):
        open_coco(folder, "val", strict=True)


def test_a_damaged_picture(folder: Path) -> None:
    (folder / "val" / "1.png").write_bytes(b"\x89PNG cut")
    (note,) = open_coco(folder, "val").notes
    assert "1 of 4 images cannot be read (first: id 2, 1.png: not an image" in note


def _as_corners(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [x, y, x + w, y + h]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _as_shares(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation |= {"bbox": [0.1, 0.2, 0.3, 0.4], "segmentation": []}


ERRORS: dict[str, tuple[Change, str]] = {
    "shares": (_as_shares, "gives boxes as shares of their images, from 0 to 1; COCO's are in pixels, so convert them"),
    "corners": (_as_corners, "gives boxes as x1, y1, x2, y2 .*convert them"),
    "image twice": (lambda c: c["images"][1].update(id=1), "has two images with id 1 .0.png, 1.png."),
    "category twice": (lambda c: c["categories"].append({"id": 7, "name": "b"}), "has two categories with id 7"),
    "no images": (lambda c: c.update(images=[]), "has no image that can be used"),
    "large": (
        lambda c: [image.update(id=2**70) for image in c["images"]],
        "has no image that can be used: 4 of 4 images have no id",
    ),
    "no list": (lambda c: c.update(annotations={}), "annotations is no list"),
    "not COCO": (lambda c: c.pop("images"), "are not COCO's: they have no list of images"),
}


@pytest.mark.parametrize("fault", ERRORS)
def test_what_cannot_be_used(fault: str, folder: Path) -> None:
    how, says = ERRORS[fault]
    with pytest.raises(BadData, match=says):
        open_coco(change(folder, how), "val")


def test_corners_are_told_by_outlines_where_no_box_reaches_over(folder: Path) -> None:
    def how(content: dict[str, Any]) -> None:
        for i, annotation in enumerate(content["annotations"]):
            x, y = 2 + i % 3, 3 + i % 5
            annotation["bbox"], annotation["segmentation"] = [x, y, x + 9, y + 8], [[x, y, x + 9, y, x + 9, y + 8]]

    with pytest.raises(BadData, match="outlines say so"):
        open_coco(change(folder, how), "val")


def test_boxes_alone(folder: Path) -> None:
    """Files of boxes only have an empty outline for each; that no mask is scored is said once."""
    from tokenbench.tasks.detection import Detection

    change(folder, lambda content: [a.update(segmentation=[]) for a in content["annotations"]])  # type: ignore[arg-type]
    assert open_coco(folder, "val", strict=True).notes == ()
    found = Detection().open(folder, None)  # type: ignore[arg-type]
    assert found.notes == ("disks: no object of split 'val' has an outline, so masks are not scored.",)
    assert Detection(masks=False).open(folder, None).notes == ()  # type: ignore[arg-type,union-attr]


def test_a_file_that_is_given_says_its_split(folder: Path) -> None:
    file = folder / "annotations" / "instances_val.json"
    assert open_coco(folder, "val", folder / "val", file.rename(file.with_name("mine.json"))).split == "mine"


def test_training_needs_two_splits(folder: Path) -> None:
    """One file would be trained and scored on."""
    from tokenbench.tasks.detection import Detection
    from tokenbench.tasks.segmentation import Segmentation

    for task in (Detection(annotations="one.json"), Segmentation(annotations="one.json")):
        with refused(
            UsageError,
            "annotations=one.json is of one split, and training needs train and another; lay both out in --data-dir, "
            "as COCO does.",
        ):
            task.open_training(folder)


def test_no_such_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="has no annotations of split 'test'"):
        open_coco(folder, "test")
    with pytest.raises(BadData, match="does not exist"):
        open_coco(tmp_path / "nowhere", "val")
    (folder / "annotations" / "instances_val.json").write_text("{")
    with pytest.raises(BadData, match="cannot be read"):
        open_coco(folder, "val")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(BadData, match="No data was given"):
        open_coco(None, "val")


def test_without_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from tokenbench.tasks.detection import Detection

    for name in ("faster_coco_eval", "faster_coco_eval.core"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"not installed; pip install tokenbench\[dense\]"):
        Detection().open(folder, None)  # type: ignore[arg-type]
