"""Exported models have rows of their own, whose speed-ups are over dense in the same runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from femto import Watch, plan
from PIL import Image
from refusals import refused

from tokenbench import backbones
from tokenbench.cli import run as command
from tokenbench.errors import UsageError, WeightsError
from tokenbench.measure import speed
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.runs import exported, runner, runtime
from tokenbench.runs.counting import COSTS
from tokenbench.runs.results import Results
from tokenbench.shipping import exporting, quantising, runtimes
from tokenbench.shipping.header import KEY
from tokenbench.tasks.segmentation import Segmentation
from tokenbench.weights import files
from tokenbench.weights.checkpoints import Weights

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

    def export(model: Model, weights: Weights, path: Path, *how: object, **others: object) -> object:
        done = exporting_before(model, weights, path, *how, **others)
        shutil.copy(path, tmp_path / f"{model.method.name}.onnx")
        return done

    exporting_before = exporting.export
    monkeypatch.setattr(exporting, "export", export)
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
    monkeypatch.setattr(exporting, "export", None)  # from here on what was exported is given, and nothing is made
    both = f"{tmp_path / 'evit.onnx'},{tmp_path / 'dense.onnx'}"
    plan = asked(both, "--data-dir", job.data_dir)
    assert (plan.backbones, [method.name for method in plan.methods]) == (["deit_femto"], ["evit", "dense"])
    given = runner.run(plan, results, Watch())
    assert len({row.id for row in (*exported, *given)}) == 4
    for before, after, name in zip(exported, given, ("dense", "evit"), strict=True):
        assert after.status == "ok", after.reason
        assert (after.metrics, after.gmacs, after.tokens_mean) == (before.metrics, before.gmacs, before.tokens_mean)
        assert after.speedup is not None and (after.weights, after.trained) == (before.weights, None)
        assert after.conditions["file"] == f"{name}.onnx ({files.sha(tmp_path / f'{name}.onnx')})"
        assert after.shared == before.shared, "so that tables have them beside each other"


def asked(weights: object, *words: object, runtime: str = "onnxruntime") -> runner.Plan:
    given = ["--runtime", runtime, "--weights", weights, "-b", 2, "--rounds", 3, *words]
    return command.plan_of(command.run.make_context("run", list(map(str, given))).params)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("runtime", runtimes.RUNTIMES)
def test_int8_keeps_accuracy(runtime: str, tmp_path: Path) -> None:
    """OpenVINO lost 14 points where the convolution of the patches was int8."""
    pytest.importorskip(runtime)
    changes = {"backbones": ["deit_nano"], "weights": "auto", "limit": 200, "precision": "int8", "runtime": runtime}
    (row,) = runner.run(plan("dense", **changes), Results(tmp_path / "results.jsonl"), Watch())
    assert row.top1 >= 86.0, "91.0 of 1,000 images in float32"


def exports(folder: Path, methods: str, backbone: str = "deit_femto", **told: object) -> list[str]:
    """Files that say what `tokenbench export` says, with an empty graph: enough for all that is refused beforehand."""
    onnx = pytest.importorskip("onnx")
    paths = []
    for method in parse(methods):
        model = Model(backbones.create("deit_femto"), method).eval()
        header = exporting.describe(model, Weights("random", "random"), "onnx")
        header = header.model_copy(update={"backbone": backbone, **told})
        made = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
        onnx.helper.set_model_props(made, {KEY: header.model_dump_json()})
        paths.append(folder / f"{backbone}-{method.name}.onnx")
        onnx.save(made, str(paths[-1]))
    return list(map(str, paths))


def test_exported_files_that_do_not_go_with_a_run(job: runner.Plan, tmp_path: Path) -> None:
    dense, evit = exports(tmp_path, "dense,evit")
    results = Results(tmp_path / "results.jsonl")

    def says(text: str, weights: object, *words: object, runtime: str = "onnxruntime") -> None:
        with pytest.raises((UsageError, WeightsError), match=text):
            runner.run(asked(weights, *words, runtime=runtime), results, Watch())

    unasked = (
        r"evit.onnx is of evit\[keep_rate=0.7\] on deit_femto, which this run does not ask for; leave --methods and "
    )
    unasked += r"--backbone out, or ask for it\.$"
    says(unasked, f"{dense},{evit}", "--methods", "dense")
    says(unasked, evit, "--methods", "evit[keep_rate=0.5]")
    says(unasked, evit, "--backbone", "deit_nano", "--methods", "evit")
    fileless = (
        r"^No exported file is of topk\[keep_rate=0.7\] on deit_femto, and deit_femto-dense.onnx has no weights to "
    )
    fileless += r"export it with; give its file, or weights in place of that one\.$"
    says(fileless, f"{dense},{evit}", "--methods", "evit,topk")
    says("evit.onnx is an exported model; add --runtime onnxruntime or openvino", evit, runtime="torch")
    weights, files = exported.read(f"random, {evit},more.safetensors", "onnxruntime")
    assert (weights, list(files)) == ("random,more.safetensors", [Path(evit)])
    again = shutil.copy(evit, tmp_path / "again.onnx")
    says("deit_femto-evit.onnx and .*again.onnx are both of evit.* on deit_femto; give one", f"{evit},{evit},{again}")
    says("would both be the dense deit_femto", f"{dense},{job.weights}")
    says(r"takes images of mean \(0.286,\), and this run brings them to \(0.5,\)", dense, "--mean", 0.5)
    says("takes images of resize 28, and this run brings them to 56", dense, "--image-size", 56)
    says("was exported of something that is not here: .*'deit_none'", *exports(tmp_path, "evit", "deit_none"))
    says("evit.onnx is of a setting that is none here", *exports(tmp_path, "evit", setting={"keep_rate": 7}))
    (tmp_path / "text.onnx").write_text("no weights")
    says("text.onnx is no ONNX file, or is cut or damaged", tmp_path / "text.onnx")
    says(
        r"none.onnx cannot be read \(No such file or directory\); give a file that `tokenbench export` wrote\.$",
        tmp_path / "none.onnx",
    )
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), tmp_path / "others.onnx")
    says("others.onnx was not written by `tokenbench export`", tmp_path / "others.onnx")
    assert not results.path.exists()


def test_costs_that_hang_on_weights_are_not_counted_on_others(tmp_path: Path) -> None:
    given = [*exports(tmp_path, "dense"), *exports(tmp_path, "ats", note=exporting.HIDES)]
    dense, row = runner.run(asked(",".join(given)), Results(tmp_path / "results.jsonl"), Watch())
    assert dense.gmacs is not None and dense.tokens_mean is not None
    assert all(getattr(row, name) is None for name in COSTS) and row.params_m is not None
    assert row.status == "failed" and "ONNX" in str(row.reason), "the graph is empty"


def test_what_a_file_says_of_its_images_is_followed(tmp_path: Path) -> None:
    backbone = backbones.create("deit_femto", (56, 56), 3, pixels={"mean": (0.4,)})
    backbone.class_names = ("a", "b", "c")
    model = Model(backbone, parse("stvit_r[tokens=4,base=0,unit=4]")[0]).eval()  # it wraps the backbone
    header = exporting.describe(model, Weights("random", "random"), "onnx")
    told = json.loads(header.model_dump_json())
    assert told["pixels"] == {"mean": [0.4]} and told["class_names"] == ["a", "b", "c"]
    paths = exports(tmp_path, "evit", **{**dict(header), "method": "evit", "setting": {"keep_rate": 0.5}})
    backbone = exported.given(asked(*paths), "deit_femto").create("deit_femto")
    assert (backbone.input_size, backbone.vit.num_classes, backbone.pixels) == ((1, 56, 56), 3, {"mean": (0.4,)})
    (nano,) = exports(tmp_path, "evit", "deit_nano")
    assert list(exported.given(asked(nano), "deit_nano").own) == [Path(nano)], "files are named, so none that ship"


@pytest.mark.slow
def test_int8_has_rows_of_its_own(job: runner.Plan, tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    for row in runner.run(replace(job, runtime="onnxruntime", precision="int8"), results, Watch()):
        assert row.status == "ok", row.reason
        assert row.precision == "int8" and row.top1 is not None and row.speedup is not None
        assert "int8 ranges are from 10 of the images" in str(row.reason)


@pytest.mark.parametrize("given", [None, Path("given.onnx")])
def test_int8_is_made_of_the_file_with_ranges_of_images(
    given: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    written = SimpleNamespace(header=SimpleNamespace(note="tokens are padded"))
    monkeypatch.setattr(exporting, "export", lambda *how, **more: asked.append((how, more)) or written)
    monkeypatch.setattr(quantising, "quantise", lambda *how: asked.append(how))
    noise = [torch.full((16, 1), float(start)) for start in range(0, 64, 16)]
    task = SimpleNamespace(
        timed=lambda *how: noise[how[3] // 16] if how == (None, "deit", 16, how[3], "size") else None,
        loader=lambda *how: [(noise[1], 0), (noise[2], 0)] if how == ("data", "deit", 16, 0, 64) else None,
    )
    plan = SimpleNamespace(precision="int8", runtime="openvino", exported={given: written.header}, task=task)
    group = SimpleNamespace(plan=plan, data=None, backbone="deit", size="size", weights="dense")
    candidate = SimpleNamespace(file=given, own=None, notes=["first"])
    path, model = tmp_path / "1.onnx", torch.nn.Identity()

    def made() -> Path:
        return runtime._written(group, candidate, model, path)  # type: ignore[arg-type]

    out = tmp_path / "1.int8.onnx"
    assert made() == out
    (source, where, batches, header, by) = asked.pop()  # type: ignore[misc]
    assert (source, where, header, by) == (given or path, out, written.header, "openvino")
    assert len(batches) == 4 and all(map(torch.equal, batches, noise))
    export = ((model, "dense", path, "onnx"), {"force": True})
    assert asked == ([] if given else [export])
    assert candidate.notes == ["first", "tokens are padded", "int8 ranges are from 64 images of noise"]
    group.data, candidate.own = "data", "own"
    made()
    assert all(map(torch.equal, asked[-1][2], noise[1:3]))  # type: ignore[index]
    assert candidate.notes[2:] == ["int8 ranges are from 64 images of noise", "int8 ranges are from 32 of the images"]
    plan.precision = "fp32"
    assert made() == (given or path) and len(candidate.notes) == 4, "what was said is not said again"
    assert given or asked[-1] == ((model, "own", path, "onnx"), {"force": True})


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
