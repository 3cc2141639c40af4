"""Accuracy: one pass over the data, ranked classes, and how sure one can be of a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.errors import DataError, ResultsError, TokenbenchError, UsageError
from tokenbench.measure.accuracy import Predictions, answer, paired, predict
from tokenbench.measure.running import OutOfMemory
from tokenbench.measure.verdicts import wilson


def of(hits: list[bool]) -> Predictions:
    """Predictions of two classes that are right where told."""
    right = np.array(hits)
    return Predictions((~right).astype(np.int32)[:, None], np.zeros(len(right), dtype=np.int32))


def split(both: int, only_a: int, only_b: int, neither: int) -> tuple[Predictions, Predictions]:
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return of(a), of(b)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60).map(
    lambda rows: (of([a for a, _ in rows]), of([b for _, b in rows]))
)


class Const(nn.Module):
    """The same logits for every image."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(images.shape[0], -1)


def one_batch(classes: int, *targets: int) -> list[tuple[Tensor, Tensor]]:
    """Images that are their own logits under `nn.Flatten`: class 0 first, the others in order."""
    logits = torch.linspace(1, 0, classes).expand(len(targets), classes)
    return [(logits[:, :, None, None].clone(), torch.tensor(targets))]


def test_ranks_and_percentages() -> None:
    got = predict({"it": nn.Flatten()}, one_batch(8, 0, 4, 5, 0))["it"]
    assert got.top.tolist() == [[0, 1, 2, 3, 4]] * 4
    assert (got.top.dtype, got.target.dtype) == (np.int32, np.int32)
    assert got.target.tolist() == [0, 4, 5, 0]
    assert got.hits.tolist() == [True, False, False, True]
    assert (got.top1, got.top5) == (50.0, 75.0)


@pytest.mark.parametrize(("classes", "kept"), [(1, 1), (2, 1), (5, 4), (6, 5), (1000, 5)])
def test_top5_only_where_five_guesses_can_miss(classes: int, kept: int) -> None:
    got = predict({"it": nn.Flatten()}, one_batch(classes, 0, 0))["it"]
    assert got.top.shape == (2, kept)
    assert got.top5 == (100.0 if kept == 5 else None)


def test_equal_logits_rank_by_class() -> None:
    images, target = torch.zeros(3, 4, 2, 2), torch.tensor([0, 1, 2])
    assert predict({"it": Const(1.0, 2.0, 2.0, 0.0)}, [(images, target)])["it"].top.tolist() == [[1, 2, 0]] * 3


def test_every_model_sees_each_batch_once(tiny: Callable[..., Backbone], images: Tensor) -> None:
    read: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for start in (0, 2):
            read.append(start)
            yield images[start : start + 2], torch.tensor([1, 2])

    models = {"a": tiny(0).vit, "b": tiny(1).vit}
    seen: list[int] = []
    got = predict(models, batches(), progress=seen.append)
    assert (read, seen) == ([0, 2], [2, 4])
    for name, model in models.items():
        with torch.no_grad():
            assert got[name].top.tolist() == model(images).topk(5).indices.tolist()
        assert got[name].target.tolist() == [1, 2, 1, 2]


def test_runs_in_eval_mode_without_gradients_and_restores_each_mode() -> None:
    class Probe(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((self.training, torch.is_inference_mode_enabled()))
            return images.flatten(1)

    seen: list[tuple[bool, bool]] = []
    model = nn.Sequential(Probe(), nn.Dropout()).train()
    model[1].eval()
    predict({"it": model}, one_batch(3, 0))
    assert seen == [(False, True)]
    assert [m.training for m in model.modules()] == [True, True, False]
    with pytest.raises(DataError):
        predict({"it": model}, one_batch(3, 9))
    assert model.training


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision_is_autocast(precision: str, dtype: str) -> None:
    seen: list[torch.dtype] = []
    linear = nn.Linear(6, 6)
    linear.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    predict({"it": nn.Sequential(nn.Flatten(), linear)}, one_batch(6, 0), precision=precision)
    assert (seen, linear.weight.dtype) == ([getattr(torch, dtype)], torch.float32)


@pytest.mark.parametrize(
    ("models", "batches", "words"),
    [
        ({}, one_batch(3, 0), "No model was given to predict with; give at least one."),
        ({"it": nn.Flatten()}, [], "The data holds no image; give at least one."),
        (
            {"fine": nn.Flatten(), "broken": Const(1.0, math.nan, 0.0)},
            one_batch(3, 0),
            "broken gave logits that are NaN or infinite; check its weights and precision.",
        ),
        (
            {"it": Const(1.0, math.inf, 0.0)},
            one_batch(3, 0),
            "it gave logits that are NaN or infinite; check its weights and precision.",
        ),
        (
            {"it": nn.Flatten()},
            one_batch(3, 0, 3),
            "Class 3 is none of the 3 of it; check data and weights.",
        ),
        (
            {"it": nn.Flatten()},
            one_batch(3, 0, -1, 3),
            "Class -1 is none of the 3 of it; check data and weights.",
        ),
        (
            {"it": nn.Flatten()},
            [(one_batch(3, 0)[0][0], torch.rand(1, 3))],
            "Targets are float32 (1, 3); give one class index an image, (B,) and whole numbers.",
        ),
        (
            {"it": nn.Flatten()},
            [(one_batch(3, 0)[0][0], torch.zeros(1, 3, dtype=torch.int64))],
            "Targets are int64 (1, 3); give one class index an image, (B,) and whole numbers.",
        ),
        (
            {"it": nn.Flatten()},
            [(one_batch(3, 0)[0][0], torch.zeros(1))],
            "Targets are float32 (1,); give one class index an image, (B,) and whole numbers.",
        ),
        (
            {"it": nn.Identity()},
            one_batch(3, 0),
            "it gave float32 (1, 3, 1, 1) for 1 image; it must give logits (B, classes).",
        ),
        (
            {"it": nn.Flatten()},
            [(one_batch(3, 0)[0][0], torch.zeros(2, dtype=torch.int64))],
            "it gave float32 (1, 3) for 2 images; it must give logits (B, classes).",
        ),
    ],
)
def test_refuses_what_cannot_be_scored(
    models: dict[str, nn.Module], batches: list[tuple[Tensor, Tensor]], words: str
) -> None:
    with pytest.raises(TokenbenchError) as error:
        predict(models, batches)
    assert str(error.value) == words


def test_refuses_a_precision_that_is_none() -> None:
    with refused(UsageError, "Precision 'int8' is not served; choose fp32, bf16, fp16."):
        predict({"it": nn.Flatten()}, one_batch(3, 0), precision="int8")


def test_one_batch_is_answered_alone() -> None:
    """In float32 unless told otherwise, by the model's class where it has no name, among some classes if asked."""
    ((images, target),) = one_batch(8, 0, 2)
    assert answer(nn.Flatten(), images, target).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert answer(nn.Flatten(), images, target, among=(6, 3, 5)).tolist() == [[1, 2]] * 2
    said = "Identity gave float32 (2, 8, 1, 1) for 2 images; it must give logits (B, classes)."
    with refused(UsageError, said):
        answer(nn.Identity(), images, target)


def test_no_memory_is_its_own_error() -> None:
    class Huge(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.empty(1 << 50)

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("something else")

    with refused(OutOfMemory, "huge ran out of memory on cpu at batch 2, use a smaller batch."):
        predict({"huge": Huge()}, one_batch(3, 0, 0))
    with refused(RuntimeError, "something else"):
        predict({"wrong": Wrong()}, one_batch(3, 0))


@pytest.mark.parametrize("classes", [10, 2**15, 2**15 + 1])
def test_save_and_load(tmp_path: Path, classes: int) -> None:
    rng = np.random.default_rng(0)
    made = Predictions(rng.integers(0, classes, (200, 5), np.int32), rng.integers(0, classes, 200, np.int32))
    made.top[0, 0], made.top[0, 1] = classes - 1, -(2**15)
    made.save(tmp_path / "p.npz")
    back = Predictions.load(tmp_path / "p.npz")
    assert np.array_equal(back.top, made.top) and np.array_equal(back.target, made.target)
    assert (back.top.dtype, back.target.dtype) == (np.int32, np.int32)
    assert [f.name for f in tmp_path.iterdir()] == ["p.npz"]
    with np.load(tmp_path / "p.npz") as kept:  # small where classes fit
        assert kept["top"].dtype == (np.int16 if made.top.max() < 2**15 else np.int32)
        assert kept["target"].dtype == (np.int16 if made.target.max() < 2**15 else np.int32)


def test_a_broken_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "p.npz"
    of([True]).save(path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(ResultsError, match="No space left"):
        of([False]).save(path)
    assert Predictions.load(path).top1 == 100.0
    assert [f.name for f in tmp_path.iterdir()] == ["p.npz"]
    with pytest.raises(ResultsError, match="cannot be written"):
        of([True]).save(tmp_path / "nowhere" / "p.npz")


def test_load_refuses_what_holds_no_predictions(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with refused(ResultsError, f"There are no predictions at {path}; run the job that makes them."):
        Predictions.load(path)
    of([True, False]).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", top=np.array([{}]), target=np.zeros(1))
    np.savez(tmp_path / "unfit.npz", top=np.zeros((3, 1)), target=np.zeros(2))
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "text.npz").write_bytes(b"hello")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for bad in ("other.npz", "pickled.npz", "unfit.npz", "array.npy", "empty.npz", "text.npz", "cut.npz"):
        with refused(ResultsError, f"{tmp_path / bad} holds no predictions (…); delete it and run its job again."):
            Predictions.load(tmp_path / bad)


def test_shapes_must_fit() -> None:
    for top, target in (((3,), (3,)), ((3, 1), (2,)), ((0, 1), (0,)), ((2, 0), (2,))):
        with pytest.raises(UsageError) as error:
            Predictions(np.zeros(top, np.int32), np.zeros(target, np.int32))
        assert str(error.value) == (
            f"Predictions of shape {top} do not fit targets of shape {target}; "
            "give (N, k) and (N,) with N and k at least 1."
        )


def test_agreement_counts_equal_guesses_right_or_wrong() -> None:
    target = np.zeros(4, np.int32)
    a = Predictions(np.array([[0], [1], [2], [3]], np.int32), target)
    b = Predictions(np.array([[0], [1], [3], [0]], np.int32), target)
    assert a.agreement(b) == b.agreement(a) == 50.0
    assert a.agreement(a) == 100.0


def test_different_images_cannot_be_paired() -> None:
    a = of([True, False])
    for other in (of([True]), Predictions(a.top, a.target + 1)):
        for pair in (paired, Predictions.agreement):
            with pytest.raises(UsageError) as error:
                pair(a, other)
            assert str(error.value) == (
                f"Predictions of 2 and {len(other)} images with different targets cannot be paired; "
                "predict both on the same images in the same order."
            )


@given(pairs)
def test_pairs_are_counted(pair: tuple[Predictions, Predictions]) -> None:
    a, b = pair
    found = paired(a, b)
    sides = list(zip(a.hits.tolist(), b.hits.tolist(), strict=True))
    assert (found.gained, found.lost, found.images) == (
        sides.count((True, False)),
        sides.count((False, True)),
        len(sides),
    )
    assert found.difference == pytest.approx(a.top1 - b.top1, abs=1e-5)
    assert paired(a, a).difference == 0 and paired(a, a).p == 1
    assert a.interval == wilson(sum(x for x, _ in sides), len(sides))


def test_a_difference_shows_the_same_digits_everywhere() -> None:
    a, b = split(0, 19, 0, 1981)
    assert a.top1 - b.top1 == paired(a, b).difference == 0.95
