"""What makes two jobs one, whose weights a setting gets, and which jobs a second run measures again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from femto import Watch, plan
from rows import row

from tokenbench import backbones
from tokenbench.errors import BadSetting
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method, make
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.sweep import parse
from tokenbench.methods.topk import TopK
from tokenbench.model import Model
from tokenbench.runs import candidates, environment, runner
from tokenbench.runs.jobs import UNFINISHED
from tokenbench.runs.results import Results
from tokenbench.runs.row import Identity, Row, WeightsId
from tokenbench.weights import files
from tokenbench.weights.checkpoints import SHIPPED
from tokenbench.weights.sources import Sources, find

OTHER = {
    "task": "retrieval",
    "conditions": {"order": "lexical"},
    "method": "tome",
    "setting": {"r": 13},
    "label": "tome[r=13]",
    "backbone": "vit_y",
    "dataset": "paintings",
    "split": "test",
    "sample_hash": "cc",
    "image_size": (224, 225),
    "device": "cuda",
    "hardware": "Some CPU, 3 cores",
    "precision": "bf16",
    "batch": 9,
    "compile": True,
    "seed": 43,
    "version": "0.1.1",
}
WEIGHTS = {"kind": "hub", "name": "v.safetensors", "hash": "ab"}
PLAIN = {"kind": "file", "name": "w.safetensors", "hash": "aa"}


def elsewhere() -> Iterator[dict[str, Any]]:
    """Rows' fields that differ from `row()`'s in one place of their identity."""
    for field in Identity.model_fields:
        if field in ("weights", "trained"):
            yield from ({field: {**PLAIN, part: WEIGHTS[part]}} for part in WeightsId.model_fields)
        else:
            yield {field: OTHER[field]} | ({"metrics": {}} if field == "task" else {})
    yield {"image_size": (225, 224)}
    yield {"trained": PLAIN}
    yield {"weights": {**PLAIN, "hash": None}}
    yield from ({field: None} for field in ("dataset", "split", "sample_hash", "version"))


@pytest.mark.parametrize("change", list(elsewhere()), ids=str)
def test_every_part_of_the_identity_decides_the_id(change: dict[str, Any]) -> None:
    assert row(**change).id != row().id
    others = [row(**other).id for other in elsewhere() if other != change]
    assert row(**change).id not in others


def test_nothing_else_decides_the_id() -> None:
    for field in set(Row.model_fields) - set(Identity.model_fields) - {"status", "time"}:
        value = {
            "env": {"a": 1},
            "reason": "so",
            **{f"{what}_by_part": {"a": 1.0} for what in ("gmacs", "params", "ms")},
            "budget": {"updates": 1, "images": 8, "epochs": 3.0, "data": "photos", "start": None},
            "imagenet_val": True,
            "metrics": {"top1": 1.0},
            "intervals": {"top1": "guessed"},
            "noisy": True,
            "machine": {"steal": 0.5},
        }.get(field, 5)
        changed = row(**{field: [value] if "tokens" in field or field == "gmacs_by_block" else value})
        assert changed.id == row().id and changed != row(), field
    assert row(status="failed", reason="it broke").id == row().id


def test_a_knob_that_came_later_leaves_rows_from_before_their_ids() -> None:
    (plain,), (given,) = parse("dynamicvit"), parse("dynamicvit[ratios=0.8/0.6/0.4]")
    before = {"keep_rate": 0.7, "fall": 0.2, "blocks": None, "ratio_weight": None, "distill_weight": 0.5}
    before |= {"class_weight": 1.0, "token_mse": True, "batch_ratio": False}
    assert plain.model_dump(mode="json") == before and plain.label == "dynamicvit[keep_rate=0.7]"
    assert given.model_dump(mode="json") == before | {"ratios": [0.8, 0.6, 0.4]}
    assert make(DynamicViT, given.model_dump(mode="json")) == given
    assert given.label == "dynamicvit[keep_rate=0.7,ratios=0.8/0.6/0.4]"


# weights trained for one setting


TOGETHER = {"prune": "merge", "merge": "prune"}  # lists of which neither goes without the other


def others(method: Method, knob: str) -> Iterator[Method]:
    """The method with other values of one knob."""
    now, annotation = getattr(method, knob), type(method).model_fields[knob].annotation
    words = [word for kind in (annotation, *get_args(annotation)) for word in get_args(kind) if isinstance(word, str)]
    numbers = [now / 2, now + 1, now - 1, 4 * now] if isinstance(now, int | float) else []
    for value in (*numbers, not now, *words, (1, 2), (2, 2), (0.5, 0.25), 3, 0.5, "deit_s-2.3"):
        try:
            changed = make(type(method), {**method.model_dump(), knob: value, **{TOGETHER.get(knob, knob): value}})
        except BadSetting:
            continue
        if getattr(changed, knob) != now:
            yield changed


@pytest.mark.parametrize("name", [name for name, cls in all_methods().items() if cls.model_fields])
def test_weights_of_one_setting_are_of_no_other(name: str) -> None:
    method = all_methods()[name]()
    header = {"method": name, "setting": method.model_dump(mode="json"), "backbone": "deit_nano"}
    file = Path("own.safetensors")
    assert Sources("auto", {file: header}).trained(method, "deit_nano") == file
    for knob in type(method).model_fields:
        changed = list(others(method, knob))
        assert changed, f"no other value of {knob} is known here"
        for other in changed:
            wanted = file if knob in method.in_training else None
            assert Sources("auto", {file: header}).trained(other, "deit_nano") == wanted, other
            back = {**header, "setting": other.model_dump(mode="json")}
            assert Sources("auto", {file: back}).trained(method, "deit_nano") == wanted, other
    assert Sources("auto", {file: header}).trained(method, "deit_s") is None
    assert Sources("auto", {file: {**header, "backbone": "deit_s"}}).trained(method, "deit_nano") is None


def test_of_several_files_each_setting_gets_its_own() -> None:
    rates = (0.9, 0.7, 0.5)
    own = {Path(f"{r}"): {"method": "topk", "setting": {"keep_rate": r}, "backbone": "deit_s"} for r in rates}
    sources = Sources("auto", own)
    assert [sources.trained(TopK(keep_rate=r), "deit_s") for r in rates] == list(own)
    assert sources.trained(TopK(keep_rate=0.6), "deit_s") is None
    assert sources.trained(all_methods()["random"](keep_rate=0.7), "deit_s") is None
    full = backbones.SHORT_NAMES["deit_s"]
    assert sources.trained(TopK(), full) == Path("0.7"), "whatever its name is written like"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return write(tmp_path / "own.safetensors")


def write(path: Path, seed: int = 0) -> Path:
    """Weights trained for topk[keep_rate=0.7]."""
    torch.manual_seed(seed)
    vit = backbones.create("deit_femto")
    (method,) = parse("topk[keep_rate=0.7]")
    header = {"method": "topk", "setting": method.model_dump(mode="json"), "backbone": "deit_femto", "classes": 10}
    files.save(path, Model(vit, method), header)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl")


def test_a_run_gives_weights_to_the_setting_they_are_of(trained: Path, results: Results) -> None:
    rows = runner.run(plan("topk[keep_rate=0.7,0.5],evit", weights=str(trained)), results, Watch())
    own = WeightsId(kind="file", name="own.safetensors", hash=files.sha(trained))
    assert {r.label: r.trained for r in rows} == {
        "dense": None,
        "topk[keep_rate=0.7]": own,
        "topk[keep_rate=0.5]": None,
        "evit[keep_rate=0.7]": None,
    }
    assert find(str(trained), "deit_femto").trained(TopK(keep_rate=0.5), "deit_femto") is None
    said: list[str] = []
    other = SHIPPED / "deit_nano.safetensors"
    candidates.prepare(plan("topk[keep_rate=0.5]", weights=f"{trained},{other}"), {"hardware": "any"}, said.append)
    assert said[1:] == [
        f"{other} is not used: it is of the dense deit_nano.",
        f"{trained} is not used: it was trained for topk[keep_rate=0.7] on deit_femto.",
    ]


def test_other_weights_are_another_job(trained: Path, results: Results) -> None:
    job = plan("topk", weights=str(trained))
    first = runner.run(job, results, Watch())
    again = runner.run(job, results, Watch())
    assert again == first
    write(trained, seed=1)
    dense, topk = runner.run(job, results, Watch())
    assert dense.id == first[0].id and topk.id != first[1].id and topk.time > first[1].time
    assert topk.trained != first[1].trained
    _, without = runner.run(replace(job, weights="dense"), results, Watch())
    assert without.trained is None and without.id not in (topk.id, first[1].id)


# what a second run measures


def test_what_was_skipped_is_measured_once_it_is_supported(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    job = plan("topk")
    with monkeypatch.context() as patch:
        patch.setattr(TopK, "supports", lambda self, vit: "not yet")
        _, skipped = runner.run(job, results, Watch())
        assert (skipped.status, skipped.reason) == ("skipped", "not yet")
        assert runner.run(job, results, Watch())[1] == skipped, "still so, and no row is added"
        done = [line for line in results.path.read_text().splitlines() if UNFINISHED not in line]
        assert len(done) == 2
    _, topk = runner.run(job, results, Watch())
    assert topk.id == skipped.id and topk.status == "ok" and topk.gmacs and topk.images_per_s
    assert {r.method: r.status for r in results.rows()} == {"dense": "ok", "topk": "ok"}


@pytest.mark.parametrize("status", ["skipped", "failed", "oom"])
def test_only_ok_is_done(status: str, results: Results) -> None:
    job = plan("topk")
    rows = runner.run(job, results, Watch())
    results.path.unlink()
    for old in rows:
        changes = {} if old.method == "dense" else {"status": status, "reason": "it was so", "gmacs": None}
        results.append(old.model_copy(update=changes))
    _, topk = runner.run(job, results, Watch())
    assert topk.status == "ok" and topk.gmacs is not None and topk.reason == rows[1].reason


def test_attention_that_is_not_fused_is_another_job(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    (fused,) = runner.run(plan("dense"), results, Watch())
    monkeypatch.setattr("timm.layers.use_fused_attn", lambda: False)
    (written,) = runner.run(plan("dense"), results, Watch())
    assert fused.conditions == {} and written.conditions == {"fused_attention": False} and written.id != fused.id


def test_what_a_skip_relies_on_is_said(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    now: dict[str, Any] = {"hardware": "Abacus X, 2 cores", "cpu": "Abacus X @ 2 GHz", "session": "a"}
    now |= {"torch": "2.1", "timm": "1.0", "threads": 2}

    def told(rounds: int = 3, goal: float = 0.02, **changes: Any) -> list[str]:
        monkeypatch.setattr(environment, "describe", lambda device: now | changes)
        watch = Watch()
        runner.run(plan("dense", rounds=rounds, precision_goal=goal), results, watch)
        return [text for text in watch.said if "measured under" in text]

    assert told() == [] == told() == told(rounds=2)
    assert told(torch="2.2", threads=1) == [
        "deit_femto: some of these were measured under torch 2.1 (now 2.2), threads 2 (now 1)."
    ]
    assert told(cpu="Abacus X @ 3 GHz") == [
        "deit_femto: some of these were measured under cpu Abacus X @ 2 GHz (now Abacus X @ 3 GHz)."
    ]
    (row,) = results.rows()
    assert told(rounds=9999) == [f"deit_femto: some of these were measured under {row.runs} rounds (now 9999)."]
    assert told(goal=0.01) == ["deit_femto: some of these were measured under --precision-goal 0.02 (now 0.01)."]
    results.append(row.model_copy(update={"env": now | {"cpu": "Abacus X"}, "time": datetime.now(UTC)}))
    assert told() == [], "as earlier versions wrote it"
