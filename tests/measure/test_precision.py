"""COCO's twelve numbers equal pycocotools' to the last digit, and the bootstrap resamples what they are made of."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from refusals import refused

from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure import precision
from tokenbench.measure.detections import Detections, Objects, joined
from tokenbench.measure.precision import NAMES, Matches, Precision, Sure, bootstrap, evaluate, weighted

SIDE = 80


def made(images: int = 12, seed: int = 0, classes: int = 3, crowd: bool = True, digits: int = 2) -> Detections:
    """Random boxes and masks, found ones near true ones and elsewhere; the second image has nothing in it."""
    from faster_coco_eval.core import mask as api

    draw = np.random.default_rng(seed)

    def box(near: Any = None) -> list[float]:
        if near is not None:
            return [max(0.0, v + d) for v, d in zip(near, draw.normal(0, 3, 4), strict=True)]
        return [*draw.uniform(0, 50, 2).round(2).tolist(), *draw.uniform(3, 60, 2).round(2).tolist()]

    def counts(b: list[float]) -> bytes:
        pixels = np.zeros((SIDE, SIDE), np.uint8, order="F")
        x, y, w, h = (int(v) for v in b)
        pixels[y : y + max(1, h), x : x + max(1, w)] = 1
        found: bytes = api.encode(pixels)["counts"]
        return found

    truth, found = [], []
    for image in range(images):
        for _ in range(0 if image == 1 else draw.integers(1, 15)):
            b, label = box(), int(draw.integers(classes - 1))
            truth.append((image, b, label, 1.0, b[2] * b[3] * 0.8, crowd and draw.random() < 0.1, counts(b)))
            for _ in range(draw.integers(0, 3)):
                near = box(b)
                found.append((image, near, label, round(draw.random(), digits), 0.0, False, counts(near)))
        for _ in range(draw.integers(0, 8)):
            other = box()
            found.append((image, other, int(draw.integers(classes)), draw.random(), 0.0, False, counts(other)))
    ids = np.arange(images) * 3 + 5
    return Detections(
        ids, np.full((images, 2), SIDE), np.arange(classes) * 10 + 1, tuple("abc"[:classes]),
        Objects.of(found), Objects.of(truth),
    )  # fmt: skip


def by_pycocotools(detections: Detections, kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def rows(objects: Objects, true: bool) -> list[dict[str, Any]]:
        made = []
        for i in range(len(objects)):
            row: dict[str, Any] = {
                "image_id": int(objects.image[i]),
                "category_id": int(objects.labels[i]),
                "id": i + 1,
            }
            if kind == "bbox" or true:
                row["bbox"] = objects.boxes[i].tolist()
            row["segmentation"] = {"size": [SIDE, SIDE], "counts": objects.masks[i]}
            row |= {"area": float(objects.areas[i]), "iscrowd": int(objects.crowds[i])} if true else {}
            made.append(row if true else row | {"score": float(objects.scores[i])})
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(len(detections))],
            "categories": [{"id": k} for k in range(len(detections.names))],
            "annotations": rows(detections.truth, True),
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(rows(detections.found, False)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    found: list[float] = judge.stats.tolist()
    return found


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pycocotools(kind: Any, seed: int) -> None:
    detections = made(seed=seed)
    whole = evaluate(detections, kind)
    found, wanted = whole.numbers, by_pycocotools(detections, kind)
    assert whole.images == 12 and whole.by_class[2] is None, "of the third class nothing is there"
    assert np.mean([mean for mean in whole.by_class if mean is not None]) == pytest.approx(found["ap"])
    for name, want in zip(NAMES, wanted, strict=True):
        if want < 0:
            assert found[name] is None, name
        else:
            assert found[name] == pytest.approx(100 * want, rel=1e-13), name


def test_unit_weights_give_the_average_precision() -> None:
    detections = made()
    boxes = evaluate(detections, "bbox")
    assert weighted(boxes.matches, np.ones(len(detections), np.int64)) == pytest.approx(boxes.numbers["ap"], abs=1e-9)


def test_weights_are_images_that_are_there_twice_or_not_at_all() -> None:
    """A weight of two for each image of one half, none for the other: as if the set were that half, twice."""
    parts = [made(6, seed, digits=9) for seed in (3, 4)]  # of equal scores it matters which stands first
    both = joined(parts)
    assert (both.names, both.categories.tolist()) == (parts[0].names, [1, 11, 21])
    assert both.ids.tolist() == [*parts[0].ids, *parts[1].ids] and both.sizes.tolist() == [[SIDE, SIDE]] * 12
    for name in ("found", "truth"):
        one, two, of_both = (getattr(part, name) for part in (*parts, both))
        assert of_both.image.tolist() == [*one.image, *(6 + two.image)] and of_both.masks == one.masks + two.masks
        for field in ("boxes", "labels", "scores", "areas", "crowds"):
            assert np.array_equal(getattr(of_both, field), [*getattr(one, field), *getattr(two, field)]), field
    whole = evaluate(both, "bbox")
    twice = evaluate(joined([parts[0], parts[0]]), "bbox").numbers["ap"]
    assert weighted(whole.matches, np.array([2] * 6 + [0] * 6)) == pytest.approx(twice, abs=1e-9)


def test_bootstrap_of_a_difference() -> None:
    good, poor = made(20, 5), made(20, 5)
    keep = np.arange(len(poor.found)) % 3 > 0
    rows = [
        (poor.found.image[i], poor.found.boxes[i], poor.found.labels[i], poor.found.scores[i], 0.0, False, b"")
        for i in np.flatnonzero(keep)
    ]
    poor = Detections(poor.ids, poor.sizes, poor.categories, poor.names, Objects.of(rows), poor.truth)
    one, other = evaluate(good, "bbox"), evaluate(poor, "bbox")
    sure, draw = bootstrap(one, other, 1), np.random.default_rng(1)
    weights = [np.bincount(draw.integers(0, 20, 20), minlength=20) for _ in range(1000)]
    mine, theirs = ([weighted(each.matches, drawn) for drawn in weights] for each in (one, other))
    ends = [*np.percentile(mine, (2.5, 97.5)), *np.percentile(np.subtract(mine, theirs), (2.5, 97.5))]
    assert sure == Sure(*map(float, ends), 2 / 1000)
    assert sure.low < one.numbers["ap"] < sure.high and sure.change_low > 0
    assert bootstrap(one, None, 1) == Sure(*map(float, ends[:2]))
    same = bootstrap(one, one, 1)
    assert same is not None and (same.change_low, same.change_high, same.p) == (0, 0, 1)


def by_hand(*found: tuple[int, str], true: tuple[int, ...]) -> Matches:
    """Of one class: in which image each was found, and whether it is right, wrong or aside, the best score first."""
    right, wrong = ([[kind == which for _, kind in found]] * 10 for which in ("right", "wrong"))
    return Matches(np.array([i for i, _ in found]), np.array(right), np.array(wrong), np.array(true))


def test_average_precision_by_hand() -> None:
    """Of four objects three are found, after a wrong one; of another class nothing is there, of a third none found."""
    first = by_hand((0, "wrong"), (0, "right"), (1, "aside"), (1, "right"), (2, "right"), true=(1, 1, 2))
    nothing, missed = by_hand((0, "wrong"), true=(0, 0, 0)), by_hand((1, "wrong"), true=(0, 1, 0))
    once = np.array([1, 1, 1])
    # precision 1/2, 2/3 and 3/4 at recalls 1/4, 1/2 and 3/4, so 3/4 at the 76 recalls up to 3/4, and 0 beyond
    assert weighted([first], once) == pytest.approx(100 * 76 * 0.75 / 101)
    assert weighted([nothing, first, missed], once) == pytest.approx(100 * 76 * 0.75 / 101 / 2)
    # of the first image twice: 2 wrong, then 2, 3 and 4 right of five; recalls 2/5, 3/5 and 4/5
    assert weighted([first], np.array([2, 1, 1])) == pytest.approx(100 * 81 * (4 / 6) / 101)
    assert weighted([nothing], once) is None and weighted([], once) is None


def test_draws_without_anything_to_find_are_left_out_and_there_are_as_many_as_time_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = by_hand((0, "right"), (2, "wrong"), (1, "right"), true=(1, 2, 0))
    own = Precision({}, (), (one,), 3)
    other = Precision({}, (), (by_hand((0, "right"), (2, "wrong"), true=(1, 2, 0)),), 3)
    monkeypatch.setattr(precision, "RESAMPLED", 160)
    for work, times in ((1e9, 160), (0, 100), (150 * 60, 150)):  # 60 each time
        monkeypatch.setattr(precision, "WORK", float(work))
        draw = np.random.default_rng(4)
        drawn = [np.bincount(draw.integers(0, 3, 3), minlength=3) for _ in range(times)]
        pairs = [(weighted([one], d), weighted(other.matches, d)) for d in drawn]
        values = [(mine, mine - theirs) for mine, theirs in pairs if mine is not None and theirs is not None]
        assert 0 < len(values) < times, "some draws are of the third image alone"
        ends = np.percentile(values, (2.5, 97.5), axis=0)
        never = max(1 / len(values), sum(change <= 0 for _, change in values) / len(values))
        sure = bootstrap(own, other, 4)
        assert sure == Sure(*map(float, (*ends[:, 0], *ends[:, 1])), min(1.0, 2 * never))
        asked: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(precision, "weighted", lambda *given, asked=asked: asked.append(given) or 1.0)
            patch.setattr(precision, "WORK", work / 2)  # one alone takes half as long
            assert bootstrap(own, None, 4) == Sure(1.0, 1.0) and len(asked) == times


def test_without_the_library_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    says = "Detection needs faster-coco-eval, which is not installed; pip install tokenbench[dense]."
    with refused(UsageError, says):
        evaluate(made(2), "bbox")


def test_more_than_a_hundred_an_image_count_where_they_are_asked_for() -> None:
    """150 objects found in one image: the cap decides what is recalled."""
    rows = [(0, [(i % 15) * 5, (i // 15) * 5, 4, 4], 0, 1 - i / 1000, 16.0, False, b"") for i in range(150)]
    every = Detections(np.array([1]), np.array([[80, 80]]), np.array([1]), ("a",), Objects.of(rows), Objects.of(rows))
    assert evaluate(every, "bbox", 300).numbers["ar"] == 100
    for cap, share in (((100,), 100 / 150), ((), 100 / 150), ((101,), 101 / 150)):
        assert evaluate(every, "bbox", *cap).numbers["ar"] == pytest.approx(100 * share, abs=0.01)
    few = evaluate(every, "bbox", 5).numbers
    assert (few["ar1"], few["ar10"], few["ar"]) == pytest.approx((100 / 150, 500 / 150, 500 / 150))
    assert evaluate(every, "bbox", 20).numbers["ar10"] == pytest.approx(1000 / 150)


def test_nothing_found_and_nothing_there() -> None:
    empty = Objects.of([])
    there = made(4)
    none = Detections(there.ids, there.sizes, there.categories, there.names, empty, there.truth)
    assert evaluate(none, "bbox").numbers["ap"] == 0
    blank = evaluate(Detections(there.ids, there.sizes, there.categories, there.names, there.found, empty), "bbox")
    assert blank.numbers["ap"] is None and bootstrap(blank, None, 0) is None


def test_saved_and_read_back(tmp_path: Any) -> None:
    detections = made(5)
    detections.save(tmp_path / "d.npz")
    again = Detections.load(tmp_path / "d.npz")
    assert again.names == detections.names and again.found.masks == detections.found.masks
    assert evaluate(again, "segm").numbers == evaluate(detections, "segm").numbers
    detections.write_coco(tmp_path / "r.json")
    import json

    found = detections.found
    for part, other in ((again, detections), (again.found, found), (again.truth, detections.truth)):
        for name in vars(part).keys() - {"found", "truth"}:
            assert np.array_equal(getattr(part, name), getattr(other, name)), name
    assert json.loads((tmp_path / "r.json").read_text()) == [
        {
            "image_id": 3 * int(found.image[i]) + 5,
            "category_id": 10 * int(found.labels[i]) + 1,
            "bbox": found.boxes[i].round(3).tolist(),
            "score": found.scores[i],
            "segmentation": {"size": [SIDE, SIDE], "counts": found.masks[i].decode()},
        }
        for i in range(len(found))
    ]
    bare = Objects.of([(0, [1, 2, 3, 4], 1, 0.5, 0.0, False, b"")])
    Detections(detections.ids, detections.sizes, detections.categories, ("a",), bare, bare).write_coco(tmp_path / "r")
    assert json.loads((tmp_path / "r").read_text()) == [
        {"image_id": 5, "category_id": 11, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5}
    ]
    kinds = {"image": "int64", "boxes": "float64", "labels": "int64", "scores": "float64", "areas": "float64"}
    kinds |= {"crowds": "bool"}
    for given in ([], [(0, [1, 2, 3, 4], 1, 1, 16, 0, b"")]):
        of = Objects.of(given)
        assert {name: str(getattr(of, name).dtype) for name in kinds} == kinds
        assert of.boxes.shape == (len(given), 4) and of.masks == (b"",) * len(given) and len(of) == len(given)
        saved = {name: str(array.dtype) for name, array in of.arrays("a_").items()}
        assert saved == {f"a_{name}": kind for name, kind in {**kinds, "masks": "uint8", "ends": "int64"}.items()}
    for write in (detections.save, detections.write_coco):
        where = tmp_path / "d.npz" / "file"
        with refused(ResultsError, f"{where} cannot be written (…); free some space or give another path."):
            write(where)
    (tmp_path / "d.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:100])
    with refused(ResultsError, f"Detections '{tmp_path / 'd.npz'}' cannot be read (…); run the job again."):
        Detections.load(tmp_path / "d.npz")
    with refused(UsageError, "Detections in 5 and 4 images cannot be paired; run both on the same images."):
        detections.same_images(made(4))
    with refused(
        UsageError, "Detections that are held to other annotations cannot be paired; run both on the same annotations."
    ):
        detections.same_images(replace(detections, truth=made(5, seed=1).truth))
