"""Mean IoU is of one matrix over all pixels, without classes that are nowhere and pixels that are ignored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refused

from tokenbench.errors import ResultsError, UsageError
from tokenbench.measure.confusion import Labelled, count, ious, joined, mean_iou


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1, 255], [1, 1, 2, 255]])
    found = np.array([[0, 1, 1, 0], [1, 2, 2, 1]])
    matrix = count(found, truth, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert ious(matrix)[:3] == pytest.approx([50, 50, 50]) and np.isnan(ious(matrix)[3])
    assert mean_iou(matrix) == pytest.approx(50)


def test_it_is_no_mean_of_images() -> None:
    draw = np.random.default_rng(0)
    truth, found = draw.integers(0, 3, (2, 6, 50))
    matrices = np.stack([count(f, t, 3) for f, t in zip(found, truth, strict=True)])
    whole = Labelled(matrices, ("a", "b", "c"), tuple("123456"))
    assert whole.total.sum() == truth.size
    assert float(mean_iou(whole.total)) == pytest.approx(float(mean_iou(count(found, truth, 3))))
    assert float(mean_iou(whole.total)) != pytest.approx(float(mean_iou(matrices).mean()), abs=1e-3)
    assert whole.accuracy == pytest.approx(100 * (truth == found).mean())
    draws = np.random.default_rng(0).multinomial(6, [1 / 6] * 6, 1000)
    means = [float(mean_iou((drawn[:, None, None] * matrices).sum(0))) for drawn in draws]
    assert whole.interval(0) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    low, high = whole.interval(0)
    assert low < float(mean_iou(whole.total)) < high


def test_paired_with_another(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 3, (30, 80))
    better, worse = (
        np.where(draw.random(truth.shape) < share, truth, draw.integers(0, 3, truth.shape)) for share in (0.8, 0.5)
    )
    one, other = (
        Labelled(
            np.stack([count(f, t, 3) for f, t in zip(found, truth, strict=True)]),
            tuple("abc"),
            tuple(map(str, range(30))),
        )
        for found in (better, worse)
    )
    value, low, high, p = one.change(other, 0)
    assert 0 < low < value < high and p == 2 / 1000
    assert value == float(mean_iou(one.total) - mean_iou(other.total))
    back = other.change(one, 0)
    assert back == pytest.approx((-value, -high, -low, p)) and one.change(one, 0) == (0, 0, 0, 1)
    close = np.where(draw.random(truth.shape) < 0.01, draw.integers(0, 3, truth.shape), better)
    near = replace(one, matrices=np.stack([count(f, t, 3) for f, t in zip(close, truth, strict=True)]))
    draws = np.random.default_rng(0).multinomial(30, [1 / 30] * 30, 1000)
    mine, theirs = ([float(mean_iou((d[:, None, None] * of.matrices).sum(0))) for d in draws] for of in (one, near))
    beyond = sum(a <= b for a, b in zip(mine, theirs, strict=True))
    value, *_, p = one.change(near, 0)
    assert 0 < value < 1 and 1 < beyond < 500 and p == pytest.approx(2 * beyond / 1000)
    one.save(tmp_path / "l.npz")
    again = Labelled.load(tmp_path / "l.npz")
    assert (again.matrices == one.matrices).all() and (again.images, again.names) == (one.images, one.names)
    both = joined([one, other])
    assert len(both) == 60 and both.images == one.images + other.images and both.names == one.names
    assert np.array_equal(both.matrices, [*one.matrices, *other.matrices])
    blank = Labelled(np.zeros((1, 3, 3), np.int64), one.names, ("none",))
    assert blank.accuracy is None and np.isnan(mean_iou(blank.total))
    assert (blank.miou, blank.interval(0), blank.change(blank, 0)) == (None, (None, None), None)
    with refused(UsageError, "Labels of other images cannot be paired; run both on the same images."):
        one.change(Labelled(one.matrices, one.names, tuple("x" * 30)), 0)
    (tmp_path / "l.npz").write_bytes(b"PK")
    inside = tmp_path / "l.npz" / "l.npz"
    with refused(ResultsError, f"{inside} cannot be written (…); free some space or give another path."):
        one.save(str(inside))
    with refused(ResultsError, f"Labels '{tmp_path / 'l.npz'}' cannot be read (…); run the job again."):
        Labelled.load(tmp_path / "l.npz")
