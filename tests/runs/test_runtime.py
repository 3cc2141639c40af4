"""Exported models have rows of their own, whose speed-ups are over dense in the same runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from femto import Watch, plan
from PIL import Image
from refusals import refused

from tokenbench import backbones
from tokenbench.errors import UsageError
from tokenbench.measure import speed
from tokenbench.runs import runner, runtime
from tokenbench.runs.results import Results
from tokenbench.shipping import runtimes
from tokenbench.tasks.segmentation import Segmentation
from tokenbench.weights import files

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def job(tmp_path: Path) -> runner.Plan:
    torch.manual_seed(0)
    files.save(tmp_path / "femto.safetensors", backbones.create("deit_femto"), {})
    random = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "photos" / str(label)).mkdir(parents=True)
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / "photos" / str(label) / "a.png")
    return plan("evit", weights=str(tmp_path / "femto.safetensors"), data_dir=tmp_path / "photos")


def test_rows_of_a_runtime(job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[tuple[set[str], object]] = []
    original = speed.measure

    def measure(models: dict, *args: object, **how: object) -> object:
        timed.append(({type(model).__name__ for model in models.values()}, how["shaped"]))
        return original(models, *args, **how)

    monkeypatch.setattr(speed, "measure", measure)
    results = Results(tmp_path / "results.jsonl")
    eager = runner.run(job, results, Watch())
    exported = runner.run(replace(job, runtime="onnxruntime"), results, Watch())
    assert timed == [({"Model"}, False), ({"OnnxRuntime"}, True)], "dense too runs in the runtime"
    assert len({row.id for row in (*eager, *exported)}) == 4
    for before, after in zip(eager, exported, strict=True):
        assert after.status == "ok", after.reason
        assert (after.metrics, after.gmacs) == (before.metrics, before.gmacs)
        assert after.conditions["runtime"].startswith("onnxruntime 1") and after.mode == "exported"
        assert after.speedup is not None and after.peak_memory_mb is None
    assert runner.run(replace(job, runtime="onnxruntime"), results, Watch()) == exported


@pytest.mark.slow
def test_int8_has_rows_of_its_own(job: runner.Plan, tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for row in runner.run(replace(job, runtime="onnxruntime", precision="int8"), results, Watch()):
        assert row.status == "ok", row.reason
        assert row.precision == "int8" and row.top1 is not None and row.speedup is not None
        assert "int8 ranges are from 10 of the images" in str(row.reason)


def test_what_a_runtime_cannot_do_is_refused(job: runner.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "results.jsonl")
    for changes, says in (
        (
            {"precision": "int8", "runtime": "torch"},
            "--precision int8 is of exported models; add --runtime onnxruntime or openvino.",
        ),
        (
            {"compile": True},
            "--compile is for models in torch; with --runtime onnxruntime give --precision fp32 or int8.",
        ),
        (
            {"precision": "bf16"},
            "--precision bf16 is for models in torch; with --runtime onnxruntime give --precision fp32 or int8.",
        ),
        ({"device": "cuda"}, "--runtime onnxruntime runs on the CPU here; give --device cpu."),
        (
            {"task": Segmentation()},
            "--runtime onnxruntime runs classifiers, and --task segmentation has models of another kind.",
        ),
    ):
        with refused(UsageError, says):
            runtime.check(replace(job, **{"runtime": "onnxruntime", **changes}))
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = "start it without torchrun, or divide the settings by --shard."
    with refused(UsageError, f"--runtime onnxruntime runs in one process; {alone}"):
        runtime.check(replace(job, runtime="onnxruntime"))
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with refused(UsageError, "--runtime openvino…, which is not installed; pip install 'tokenbench[openvino]'…"):
        runner.run(replace(job, runtime="openvino"), results, Watch())
    assert not results.path.exists()


@pytest.mark.slow  # its import and compilation take seconds
@pytest.mark.filterwarnings("ignore")
def test_openvino(job: runner.Plan, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    results = Results(tmp_path / "results.jsonl")
    eager = runner.run(job, results, Watch())
    rows = runner.run(replace(job, runtime="openvino"), results, Watch())
    assert [row.top1 for row in rows] == [row.top1 for row in eager]
    assert all(row.speedup is not None and row.conditions["runtime"].startswith("openvino") for row in rows)
    assert set(runtimes.RUNTIMES) == {"onnxruntime", "openvino"}
