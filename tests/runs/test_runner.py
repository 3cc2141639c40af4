"""The run: what is measured, what is skipped, and that one failure costs one row."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused
from timm.models import register_model
from torch import nn

from tokenbench import backbones, data
from tokenbench.core.processes import Processes
from tokenbench.errors import DataError, ResultsError, UsageError
from tokenbench.measure import accuracy, memory, speed
from tokenbench.measure.running import OutOfMemory
from tokenbench.methods.evit import Attentive
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.runs import candidates, runner
from tokenbench.runs.jobs import UNFINISHED
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.tasks.classification import Classification
from tokenbench.weights import files

NO_BACKBONE = "No backbone was given; write one or more as deit_s,vit_b. See `tokenbench list --backbones`."


@register_model
def deit_pico(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Four blocks and 16 tokens: a run is as fast as its overhead."""
    return backbones.vit.deit_nano(pretrained, **{**kwargs, "patch_size": 7, "depth": 4, "embed_dim": 32})


@register_model
def deit_pico_twin(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return deit_pico(pretrained, **kwargs)


@register_model
def deit_pico_dark(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    model = deit_pico(pretrained, **kwargs)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.1,)}
    return model


class Seen:
    """A watch that remembers; `stop_at` presses Ctrl-C when that stretch begins."""

    def __init__(self, stop_at: str = "") -> None:
        self.stretches: list[str] = []
        self.totals: list[int] = []
        self.steps: list[list[int]] = []
        self.said: list[str] = []
        self.stop_at = stop_at

    def stretch(self, what: str, total: int) -> None:
        self.stretches.append(what)
        self.totals.append(total)
        self.steps.append([])
        if self.stop_at and self.stop_at in what:
            raise KeyboardInterrupt

    def step(self, done: int) -> None:
        self.steps[-1].append(done)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "pico.safetensors"
    torch.manual_seed(0)
    files.save(path, backbones.create("deit_pico"), {})
    return str(path)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten classes of one image each."""
    random = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "photos" / str(label) / "a.png")
    return tmp_path / "photos"


@pytest.fixture
def real(weights: str, photos: Path) -> dict[str, Any]:
    """Settings with which accuracy is measured."""
    return {"weights": weights, "data_dir": photos}


def plan(methods: str = "evit", **changes: Any) -> runner.Plan:
    settings = {"backbones": ["deit_pico"], "weights": "random", "batches": [2], "rounds": 3, **changes}
    return runner.Plan(parse(methods), **settings)


def run(plan: runner.Plan, results: Results, watch: Seen | None = None) -> list[Row]:
    return runner.run(plan, results, watch or Seen())


def by(rows: list[Row]) -> dict[tuple[str, int], Row]:
    return {(row.method, row.batch): row for row in rows}


def written(results: Results) -> list[tuple[str, int, str]]:
    """Every line of the file that is no stage on the way to a row, in order."""
    rows = map(json.loads, results.path.read_text().splitlines())
    done = [row for row in rows if UNFINISHED not in (row["reason"] or "")]
    return [(row["method"], row["batch"], row["status"]) for row in done]


def test_every_metric_of_a_row(weights: str, real: dict[str, Any], results: Results) -> None:
    watch = Seen()
    dense, evit = run(plan(**real), results, watch)
    what = "counting", "accuracy on 10 images", "memory at batch 2", "speed at batch 2"
    assert watch.stretches == [f"deit_pico: {text}" for text in what] and watch.totals == [2, 10, 2, 3]
    assert watch.steps == [[1, 2], [0, 2, 4, 6, 8, 10, 10], [1, 2], [1, 2, 3]] and not watch.said
    for row in (dense, evit):
        assert row.status == "ok" and row.reason is None
        assert (row.dataset, row.images, row.skipped) == ("photos", 10, 0) and 3 <= row.runs <= 30
        assert row.weights.kind == "file" and row.weights.hash
        for value in (row.top1, row.top5, row.images_per_s, row.latency_p50, row.spread, row.peak_memory_mb):
            assert value is not None
        assert row.latency_p10 <= row.latency_p50 <= row.latency_p90
        assert len(row.tokens_mean) == 4
    assert dense.speedup == 1 and dense.agreement is None and dense.reduction_share is None
    assert evit.gmacs < dense.gmacs and evit.tokens_mean[-1] < dense.tokens_mean[-1] == 17
    assert evit.agreement is not None and 0 < evit.reduction_share < 1
    assert evit.diff_dense == pytest.approx(evit.top1 - dense.top1, abs=1e-5)
    own = accuracy.Predictions.load(results.predictions(evit.id))
    assert own.top1 == evit.top1 and len(own.target) == 10


def test_dense_is_measured_beside_whatever_is_asked_for(results: Results) -> None:
    assert [row.method for row in run(plan("evit"), results)] == ["dense", "evit"]
    assert [row.method for row in run(plan("dense", seed=1), results)] == ["dense"]


def test_no_accuracy_without_weights_or_training(weights: str, real: dict[str, Any], results: Results) -> None:
    for row in run(plan("evit"), results):
        assert row.top1 is None and row.dataset is None and row.status == "ok"
        assert row.reason == "random weights, so no accuracy"
        assert row.gmacs and row.images_per_s
    dense, stvit, dynamicvit = run(plan("stvit,dynamicvit", **real), results)
    assert dense.top1 is not None
    for row in (stvit, dynamicvit):
        assert row.top1 is None and row.agreement is None and row.status == "ok" and row.gmacs
        assert row.reason == "needs its own training, so no accuracy"


def test_what_is_done_is_skipped_and_still_returned(results: Results) -> None:
    first = run(plan("evit,random", batches=[1, 2]), results)
    lines = results.path.read_bytes()
    watch = Seen()
    again = run(plan("evit,random", batches=[1, 2]), results, watch)
    assert again == first and len(first) == 6, "ids of a method that draws at random are stable"
    assert results.path.read_bytes() == lines and not watch.stretches
    assert watch.said == ["deit_pico: 6 of 6 jobs are done already; --force runs them again."]


def test_force_runs_it_again(results: Results) -> None:
    first = run(plan(), results)
    second = run(plan(force=True), results)
    assert [row.id for row in second] == [row.id for row in first]
    assert all(new.time > old.time for new, old in zip(second, first, strict=True))
    assert len(written(results)) == 4


def test_only_what_is_new_is_measured_with_dense_beside_it(results: Results) -> None:
    (_, evit) = run(plan("evit", batches=[1]), results)
    rows = by(run(plan("evit,topk", batches=[1]), results))
    assert written(results) == [(m, 1, "ok") for m in ("dense", "evit", "topk")], "dense has its row"
    assert rows["evit", 1] == evit and rows["topk", 1].speedup is not None
    run(plan("evit", batches=[1, 2]), results)
    assert written(results)[3:] == [("dense", 2, "ok"), ("evit", 2, "ok")]


def test_other_conditions_are_other_jobs(results: Results) -> None:
    ids = {row.id for row in run(plan("evit"), results)}
    ids |= {row.id for row in run(plan("evit", seed=7), results)}
    ids |= {row.id for row in run(plan("evit", image_size=(35, 21)), results)}
    ids |= {row.id for row in run(plan("evit", precision="bf16"), results)}
    assert len(ids) == 8 and len(results.rows()) == 8


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    opened: list[int] = []
    original = data.Images.open

    def open(self: data.Images, index: int, mode: str) -> Any:
        opened.append(index)
        return original(self, index, mode)

    monkeypatch.setattr(data.Images, "open", open)
    return opened


@pytest.mark.parametrize(("second", "passes"), [("deit_pico_twin", 1), ("deit_pico_dark", 2)])
def test_backbones_that_see_the_same_pixels_share_one_pass(
    second: str, passes: int, weights: str, real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = counting(monkeypatch)
    rows = run(plan("evit,topk", **real, backbones=["deit_pico", second]), results)
    counted_on = 10 * 2  # the first of them, for each backbone
    assert len(opened) - counted_on == 10 * passes, "each image is decoded once a pass, whatever the number of models"
    assert len(rows) == 6 and all(row.images == 10 and row.top1 is not None for row in rows)
    alone = {row.method: row.top1 for row in rows[:3]}
    if passes == 1:  # the same weights and pixels
        assert {row.method: row.top1 for row in rows[3:]} == alone


def test_unreadable_images_are_counted_and_named(real: dict[str, Any], results: Results, photos: Path) -> None:
    whole = (photos / "4" / "a.png").read_bytes()
    (photos / "4" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "7" / "junk.jpg").write_bytes(b"no image")
    watch = Seen()
    rows = run(plan("evit", **real), results, watch)
    assert all((row.status, row.images, row.skipped) == ("ok", 10, 2) for row in rows)
    (said,) = watch.said
    assert said.startswith("2 of 12 images cannot be read and are left out: 4/cut.png: ")
    assert "7/junk.jpg: not an image" in said


def test_data_that_cannot_be_used_stops_the_run(real: dict[str, Any], results: Results, photos: Path) -> None:
    for image in photos.glob("*/a.png"):
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 10 images of photos can be read; the first, 0/a.png"):
        run(plan("evit", **real), results)
    assert {row.status for row in results.rows()} == {"failed"}
    assert all("None of the 10 images" in row.reason and row.gmacs for row in results.rows())
    with pytest.raises(DataError, match="does not exist"):
        run(plan("evit", data_dir=photos / "nowhere"), results)


@pytest.mark.parametrize("kind", [RuntimeError, OSError])
def test_a_worker_that_dies_is_an_error_of_the_data(
    kind: type[Exception], real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(self: data.Loader) -> Iterator[Any]:
        raise kind("DataLoader worker (pid 1) is killed by signal: Bus error.\nmore")
        yield

    monkeypatch.setattr(data.Loader, "__iter__", die)
    why = "DataLoader worker (pid 1) is killed by signal: Bus error"
    with refused(DataError, f"Images cannot be loaded ({why}); try --workers 0."):
        run(plan("evit", **real), results)


def raising(monkeypatch: pytest.MonkeyPatch, error: Exception, from_batch: int = 1) -> None:
    """EViT fails on batches of that size and larger."""
    original = Attentive.forward

    def forward(self: Attentive, tokens: Any, attn: Any) -> Any:
        if tokens.x.shape[0] >= from_batch:
            raise error
        return original(self, tokens, attn)

    monkeypatch.setattr(Attentive, "forward", forward)


@pytest.mark.parametrize(
    ("error", "status", "from_batch"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), "oom", 1),
        (torch.OutOfMemoryError("CUDA out of memory."), "oom", 2),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "oom", 2),
        (IndexError("index 9 is out of range"), "failed", 1),
        (ValueError("two\nlines"), "failed", 2),
    ],
)
def test_a_method_that_fails_costs_its_own_row_only(
    error: Exception,
    status: str,
    from_batch: int,
    real: dict[str, Any],
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raising(monkeypatch, error, from_batch)  # from 1 it fails in counting, from 2 in the pass over the data
    rows = by(run(plan("evit,topk", **real), results))
    evit = rows["evit", 2]
    assert evit.status == status and evit.reason and "\n" not in evit.reason
    assert evit.top1 is None and evit.images_per_s is None
    assert (evit.gmacs is not None) == (from_batch == 2), "what was measured before it failed is kept"
    for method in ("dense", "topk"):
        row = rows[method, 2]
        assert row.status == "ok" and row.top1 is not None and row.images_per_s and row.speedup


def test_a_batch_that_does_not_fit_costs_that_batch_only(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, torch.OutOfMemoryError("out of memory"), from_batch=4)
    rows = by(run(plan("evit", batches=[2, 4]), results))
    assert rows["evit", 2].status == "ok" and rows["evit", 2].images_per_s
    oom = rows["evit", 4]
    assert oom.status == "oom" and "out of memory on cpu at batch 4" in oom.reason
    assert oom.images_per_s is None and oom.peak_memory_mb is None, "nothing of batch 2 is passed off as batch 4"
    assert oom.gmacs and rows["dense", 4].status == "ok"


def test_dense_that_fails_leaves_the_others_without_a_reference(
    real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Model.forward

    def forward(self: Any, images: torch.Tensor) -> torch.Tensor:
        if self.method.name == "dense" and len(images) > 1:
            raise RuntimeError("broken")
        return original(self, images)

    monkeypatch.setattr(Model, "forward", forward)
    dense, evit = run(plan("evit", **real), results)
    assert (dense.status, dense.reason) == ("failed", "RuntimeError: broken")
    assert evit.status == "ok" and evit.top1 is not None
    assert evit.agreement is None and evit.diff_dense is None and evit.speedup is None


def test_logits_that_are_not_finite_fail(
    real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Attentive.forward

    def forward(self: Attentive, tokens: Any, attn: Any) -> Any:
        return original(self, tokens.with_x(tokens.x * float("nan")), attn)

    monkeypatch.setattr(Attentive, "forward", forward)
    dense, evit = run(plan("evit", **real), results)
    assert dense.status == "ok" and evit.status == "failed"
    assert evit.reason == f"{evit.label} gave logits that are NaN or infinite; check its weights and precision"


def test_a_method_that_cannot_be_timed_does_not_spoil_the_round(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = speed.measure, list[tuple[list[str], dict[str, Any]]]()

    def measure(models: dict[str, nn.Module], *args: Any, **options: Any) -> Any:
        asked.append(([model.method.name for model in models.values()], options))  # type: ignore[union-attr]
        if any(name.startswith("evit") for name in models):
            raise RuntimeError("cannot compile")
        return original(models, *args, **options)

    monkeypatch.setattr(speed, "measure", measure)
    rows = by(run(plan("evit,topk"), results))
    assert [names for names, _ in asked] == [["dense", "evit", "topk"], ["dense"], ["dense", "evit"], ["dense", "topk"]]
    (_, together), *pairs = asked
    labels = [row.label for row in rows.values()]
    assert together["before"] == {label: [] for label in labels} and together["keep"] is not None
    for _, options in pairs:
        assert options["before"] is None and options["keep"] is None, "rounds of other rounds are none of its own"
    assert {(options["warmup"], options["shaped"], options["compile"]) for _, options in asked} == {(2, False, False)}
    assert (rows["evit", 2].status, rows["evit", 2].reason) == ("failed", "RuntimeError: cannot compile")
    assert rows["dense", 2].speedup == 1 and rows["topk", 2].speedup is not None


def test_an_unsupported_setting_is_a_row_with_the_reason(results: Results) -> None:
    watch = Seen()
    dense, evit = run(plan("evit[blocks=2/99]"), results, watch)
    assert dense.status == "ok" and evit.status == "skipped"
    assert evit.reason == "block 99 does not exist, blocks are 0 to 3" and evit.gmacs is None
    assert watch.said == [
        "evit[keep_rate=0.7,blocks=2/99] skips deit_pico: block 99 does not exist, blocks are 0 to 3."
    ]
    again = run(plan("evit[blocks=2/99]"), results)
    assert [row.status for row in again] == ["ok", "skipped"] and len(written(results)) == 2


def test_interrupted_it_keeps_what_it_has_and_goes_on_later(
    real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = plan("evit", **real, batches=[1, 2])
    with pytest.raises(KeyboardInterrupt):
        run(job, results, Seen(stop_at="speed at batch 2"))
    first = by(results.rows())
    assert [first[m, 1].status for m in ("dense", "evit")] == ["ok", "ok"]
    for method in ("dense", "evit"):
        row = first[method, 2]
        assert (row.status, row.reason) == ("failed", "stopped before it was finished: interrupted")
        assert row.top1 is not None and row.gmacs and row.images_per_s is None
    watch = Seen()
    rows = by(run(job, results, watch))
    assert all(row.status == "ok" for row in rows.values())
    assert rows["evit", 1] == first["evit", 1], "not measured again"
    assert "deit_pico: speed at batch 2" in watch.stretches and "deit_pico: speed at batch 1" not in watch.stretches
    assert by(results.rows()) == rows, "the ok row takes the place of the one that was cut short"


def test_a_failure_before_an_interruption_keeps_its_reason(
    real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    raising(monkeypatch, ValueError("broken"), from_batch=2)
    with pytest.raises(KeyboardInterrupt):
        run(plan("evit", **real), results, Seen(stop_at="speed at batch 2"))
    assert [(row.method, row.reason) for row in results.rows()] == [
        ("dense", "stopped before it was finished: interrupted"),
        ("evit", "ValueError: broken"),
    ]


def test_a_method_that_cannot_be_built_is_a_failed_row(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, vit: Any) -> Any:
        raise TypeError("no such thing")

    for method in parse("dense,evit"):
        monkeypatch.setattr(type(method), "reducers", broken)
    rows = run(plan("evit"), results)
    assert [(row.status, row.reason) for row in rows] == [("failed", "TypeError: no such thing")] * 2


def test_a_full_disk_is_one_error_and_the_rows_before_it_stay(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = os.fsync

    def fsync(descriptor: int) -> None:
        if results.path.is_file() and len(written(results)) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ResultsError, match=r"cannot be written \(No space left on device\); free some space"):
        run(plan("evit", batches=[1, 2]), results)
    monkeypatch.undo()
    kept = [row for row in results.rows() if row.status == "ok"]
    assert {("dense", 1), ("evit", 1)} <= {(row.method, row.batch) for row in kept}


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    watch = Seen()
    with pytest.raises(ResultsError, match="cannot be written"):
        run(plan(), Results(tmp_path), watch)
    assert not watch.stretches


def test_damaged_lines_are_named_and_do_not_count_as_done(results: Results) -> None:
    run(plan(), results)
    lines = results.path.read_bytes().splitlines(keepends=True)
    results.path.write_bytes(lines[0] + lines[1][: len(lines[1]) // 2])
    watch = Seen()
    rows = run(plan(), results, watch)
    assert watch.said[0] == f"Left out {results.path}:2: the line is cut or damaged."
    assert [row.status for row in rows] == ["ok", "ok"] and len(results.rows()) == 2


@pytest.mark.parametrize(("fits", "batch", "tried"), [(256, 256, 0), (64, 64, 2), (0, 1, 8)])
def test_auto_halves_the_batch_until_it_fits(
    fits: int, batch: int, tried: int, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak(model: nn.Module, images: torch.Tensor, precision: str = "fp32") -> int:
        assert isinstance(model, Model) and precision == "bf16"
        if len(images) > fits:
            raise OutOfMemory("too large")
        return 1

    monkeypatch.setattr(memory, "peak", peak)
    said: list[str] = []
    (group,) = candidates.prepare(plan(batches=[], precision="bf16"), {"hardware": "any"}, said.append)
    assert group.batches == [batch] and len(said) == tried
    if tried:
        assert said[0] == "deit_pico: batch 256 does not fit, trying 128."


def test_a_fixed_batch_is_never_changed(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    def peak(model: nn.Module, images: torch.Tensor, precision: str = "fp32") -> int:
        raise OutOfMemory("ran out of memory")

    monkeypatch.setattr(memory, "peak", peak)
    assert [(row.status, row.batch) for row in run(plan(), results)] == [("oom", 2), ("oom", 2)]


def test_of_several_processes_one_leads_and_the_others_score_with_it(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    @contextmanager
    def joined(device: str, waiting: bool) -> Iterator[Processes]:
        seen.append((device, waiting))
        yield here

    @contextmanager
    def leading(processes: Processes) -> Iterator[str]:
        seen.append(processes)
        yield "pool"

    monkeypatch.setattr(runner.processes, "joined", joined)
    monkeypatch.setattr(runner.spread, "leading", leading)
    monkeypatch.setattr(runner.spread, "serve", lambda groups, processes: seen.append((groups, processes)))
    monkeypatch.setattr(runner.environment, "describe", lambda device: f"described {device}")
    monkeypatch.setattr(runner, "prepare", lambda plan, env, say: say("nobody looks on") or (plan, env))
    monkeypatch.setattr(runner, "_run", lambda *given: seen.append(given) or ["row"])
    asked, watch = plan(), Seen()
    for here, again, wanted in (
        (Processes(), (), [(asked, results, watch, True)]),
        (Processes(), (False,), [(asked, results, watch, False)]),
        (Processes(0, 2), (False,), [Processes(0, 2), (asked, results, watch, False, "pool")]),
        (Processes(1, 2), (), [((asked, "described cpu"), Processes(1, 2))]),
    ):
        seen.clear()
        assert runner.run(asked, results, watch, *again) == (["row"] if here.leads else [])
        assert seen == [("cpu", True), *wanted] and not watch.said


def test_a_pool_knows_the_groups_and_scores_them(
    real: dict[str, Any], results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[Any] = []
    pool, watch = SimpleNamespace(know=lambda groups: scored.append(groups)), Seen()
    monkeypatch.setattr(runner, "score", lambda *given: scored.append(given))
    runner._run(plan(**real), results, watch, True, pool)  # type: ignore[arg-type]
    groups, (shared, where, note, looks_on, by) = scored
    assert [group.backbone.name for group in groups] == ["deit_pico"] and shared == groups
    assert (where, note.__name__, looks_on, by) == (results, "note", watch, pool)
    run(plan(**real, batches=[1]), results, watch)
    assert len(scored) == 3 and scored[2][4] is None


def test_where_other_jobs_have_the_device_nothing_is_timed(results: Results) -> None:
    watch = Seen()
    rows = run(plan("evit", timed=False, batches=[1, 2]), results, watch)
    why = "random weights, so no accuracy; speed is not measured, its device had other jobs"
    told = [(row.status, row.reason, row.images_per_s, row.peak_memory_mb) for row in rows]
    assert told == [("ok", why, None, None)] * 4 and watch.stretches == ["deit_pico: counting"]
    with refused(UsageError, NO_BACKBONE):
        run(plan("evit", backbones=[]), results, watch)


@pytest.mark.parametrize(
    ("batches", "limit", "wanted"),
    [
        ([2, 300], None, [(128, 1, None), (32, 0, 32)]),
        ([2, 5], 40, [(5, 1, 40), (32, 0, 32)]),
        ([2], 7, [(2, 1, 7), (7, 0, 7)]),
    ],
)
def test_data_is_loaded_as_the_plan_says(
    batches: list[int], limit: int | None, wanted: list[Any], real: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch at a time but 128 at most, and few of it to count with, which are loaded without workers."""
    asked: list[Any] = []
    original = Classification.loader

    def loader(self: Any, images: Any, backbone: Any, *how: Any) -> Any:
        asked.append(how)
        return original(self, images, backbone, *how)

    monkeypatch.setattr(Classification, "loader", loader)
    job = plan("evit", **real, batches=batches, limit=limit, workers=1)
    (group,) = candidates.prepare(job, {"hardware": "any"}, lambda text: None)
    assert asked == wanted and [candidate.batches for candidate in group.candidates] == [batches] * 2


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, None),
        ({"loader": None}, "no --data-dir, so no recall"),
        ({"kind": "random"}, "random weights, so no recall"),
        ({"kind": "random", "own": "own", "trained": True}, None),
        ({"random_head": True}, "its head is random, so no recall"),
        ({"random_head": True, "reads_head": False}, None),
        ({"random_head": True, "own": "own"}, None),
        ({"trained": True}, "needs its own training, so no recall"),
        ({"trained": True, "own": "own"}, None),
        ({"has_head": True, "kind": "random"}, "its head is random, so no recall"),
        ({"has_head": True, "own": "own"}, None),
        ({"has_head": True, "own": "own", "loader": None}, "no --data-dir, so no recall"),
    ],
)
def test_why_nothing_is_scored(changes: dict[str, Any], why: str | None) -> None:
    told: dict[str, Any] = {"kind": "file", "random_head": False, "own": None, "trained": False, "loader": "data"}
    told |= {"has_head": False, "reads_head": True, **changes}
    of = SimpleNamespace(**told)
    task = SimpleNamespace(scored="recall", has_head=of.has_head, reads_head=of.reads_head)
    group: Any = candidates.Group(SimpleNamespace(task=task), {}, None, of, of.loader, [], [])  # type: ignore[arg-type]
    candidate: Any = candidates.Candidate(SimpleNamespace(trained=of.trained), None, [], own=of.own)  # type: ignore[arg-type]
    assert group.no_accuracy(candidate) == why


def test_conditions_and_sources_that_are_not_the_usual_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"fused_attention": True, "matmul_precision": "high", "threads": 3}
    monkeypatch.setattr(candidates, "conditions", lambda: now)
    monkeypatch.setattr(candidates, "source", {int: "hash", str: None}.__getitem__)
    assert candidates.unusual(method=int, task=str) == {"matmul_precision": "high", "method_source": "hash"}
    now |= {"fused_attention": False, "matmul_precision": "highest"}
    assert candidates.unusual() == {"fused_attention": False}


def test_all_that_rows_were_measured_under_otherwise_is_said() -> None:
    env = {"torch": "2.2", "timm": "1.0", "threads": 2, "cpu": "Abacus X @ 2 GHz", "hardware": "Abacus X, 2 cores"}

    def measured(runs: int | None, goal: float | None, status: str = "ok", **changes: Any) -> Any:
        return SimpleNamespace(status=status, runs=runs, speed_goal=goal, env={**env, **changes})

    rows = [measured(8, 0.03, torch="2.1", cpu="Abacus X"), measured(9, 0.05, torch="2.0"), measured(10, 0.02)]
    rows += [measured(1, 0.9, "failed", torch="1.0"), measured(None, None)]
    rows[2].env = {"timm": "1.0"}
    asked = SimpleNamespace(rounds=10, precision_goal=0.02)
    group: Any = SimpleNamespace(env=env, plan=asked, backbone=SimpleNamespace(name="vit_x"))
    torch_says = "torch 2.0 (now 2.2), torch 2.1 (now 2.2)"
    assert candidates.otherwise(group, rows) == [
        f"vit_x: some of these were measured under {torch_says}, 8 rounds (now 10), --precision-goal 0.05 (now 0.02)."
    ]
    assert candidates.otherwise(group, rows[2:]) == []


def test_nothing_global_is_left_behind(results: Results) -> None:
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    run(plan(), results)
    assert (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()) == before
