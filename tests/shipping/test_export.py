"""Exported files give the logits of the model at any batch size, or the method is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from conftest import FAMILIES, served
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.cli import main
from tokenbench.errors import Unsupported, UsageError, WeightsError
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method
from tokenbench.model import Model
from tokenbench.shipping import exporting, formats, runtimes
from tokenbench.shipping.header import Header, beside
from tokenbench.weights.checkpoints import Weights

RANDOM = Weights("random", "random")
QUICK = ("vit-stvit",)


def tiny(family: str, method: Method) -> Model:
    """Half as deep where the setting fits it: graphs of all blocks take long."""
    half = Backbone(FAMILIES[family](**({} if family == "swin" else {"depth": 6})), "tiny")
    backbone = Backbone(FAMILIES[family](), "tiny") if method.refusal(half) else half
    torch.manual_seed(3)
    return Model(backbone, method).eval()


def cases() -> Iterator[Any]:
    """Every method on the first family that serves it, those of windows on Swin too, and every family; a few in every
    run of the tests, for each takes seconds.
    """
    seen: set[str] = set()
    for given in served():
        family, method = given.values
        if method.name not in seen or family == "swin" or method.name == "dense":
            seen.add(method.name)
            yield pytest.param(family, method, id=given.id, marks=[] if given.id in QUICK else [pytest.mark.slow])


@pytest.mark.parametrize(("family", "method"), list(cases()))
def test_onnx_equals_the_model_at_two_batch_sizes(family: str, method: Method, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = tiny(family, method)
    done = exporting.export(model, RANDOM, tmp_path / "model.onnx", "onnx")
    run = runtimes.load("onnxruntime", done.path)
    seed = 8 if method.name == "evovit" else 7  # with 7 two of its tokens are equally attended to
    for batch in (1, 3):
        images = torch.randn(batch, *model.backbone.input_size, generator=torch.Generator().manual_seed(seed + batch))
        with torch.inference_mode():
            torch.testing.assert_close(run(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("format", [pytest.param("pt2", marks=pytest.mark.slow), "torchscript"])
def test_torch_formats_equal_the_model(format: Any, tmp_path: Path) -> None:
    model = tiny("vit", all_methods()["topk"]())
    done = exporting.export(model, RANDOM, tmp_path / "model.pt", format)
    run, header = formats.open_file(format, done.path)
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-5)
    assert header == done.header
    told = json.loads(beside(done.path).read_text())
    assert Header.model_validate(told) == header and told["label"] == "topk[keep_rate=0.7]"


def test_what_is_written_is_compared_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :10]

    model = tiny("vit", all_methods()["topk"]())
    wrong = torch.export.export(
        Wrong(), (torch.zeros(2, 3, 48, 48),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )
    monkeypatch.setattr(formats, "capture", lambda *_: wrong)
    with pytest.raises(Unsupported, match=r"topk.* on tiny cannot be exported to pt2: .* of the largest apart"):
        exporting.export(model, RANDOM, tmp_path / "model.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_holds_for_one_batch_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("vit", all_methods()["topk"]())
    monkeypatch.setattr(formats, "capture", lambda model, images: torch.export.export(model, (images,)))
    with pytest.raises(Unsupported, match=r"cannot be exported to pt2: what was written does not run at batch 1"):
        exporting.export(model, RANDOM, tmp_path / "model.pt2", "pt2")


def test_adaptive_methods_say_that_nothing_is_saved(tmp_path: Path) -> None:
    hiding = exporting.describe(tiny("vit", all_methods()["ats"]()), RANDOM, "pt2")
    assert hiding.note is not None and "hides tokens in place of removing them" in hiding.note
    assert exporting.describe(tiny("vit", all_methods()["topk"]()), RANDOM, "pt2").note is None


def test_bad_targets(tmp_path: Path) -> None:
    model = tiny("vit", all_methods()["topk"]())
    there = tmp_path / "there.onnx"
    there.write_bytes(b"before")
    with pytest.raises(UsageError, match=r"there.onnx exists; give another name, or --force to replace it"):
        exporting.export(model, RANDOM, there, "onnx")
    with pytest.raises(WeightsError, match="is no folder"):
        exporting.export(model, RANDOM, there / "model.onnx", "onnx")
    with pytest.raises(WeightsError, match=r"there.onnx cannot be run by ONNX Runtime"):
        runtimes.load("onnxruntime", there)
    assert there.read_bytes() == b"before"


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call("export", "--method", "topk", "--backbone", "deit_nano", "-o", "m.pt")
    assert (code, err) == (0, "")
    assert out.startswith("Logits are within ") and out.endswith("Written: m.pt, m.pt.json\n")
    told = json.loads(Path("m.pt.json").read_text())
    assert told["preprocessing"] == {
        "channels": "L",
        "resize": 28,
        "interpolation": "bicubic",
        "crop_mode": "center",
        "crop": [28, 28],
        "mean": [0.286],
        "std": [0.353],
    }
    assert told["weights"]["name"] == "deit_nano-topk-0.7.safetensors" and told["format"] == "torchscript"
    code, _, err = call("export", "--method", "topk", "-o", "m.pt")
    assert code == 2 and "m.pt exists; give another name, or --force" in err
    code, _, err = call("export", "--method", "evit[keep_rate=0.5,0.7]")
    assert code == 2 and "is 2 settings; give one" in err


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    code, _, err = call("export", "--method", "topk", "-o", str(tmp_path / "m.onnx"))
    assert code == 2 and "onnxruntime, which is not installed; pip install 'tokenbench[onnx]'" in err


def test_what_a_trace_takes_for_constant_is_found_out(tmp_path: Path) -> None:
    """Of a method whose counts follow from the images."""
    with pytest.raises(
        Unsupported, match=r"ats.* on tiny cannot be exported to torchscript: .* apart from the model's"
    ):
        exporting.export(tiny("vit", all_methods()["ats"]()), RANDOM, tmp_path / "model.pt", "torchscript")
    assert not list(tmp_path.iterdir())


class Adds(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        rows = images.flatten(1)
        return rows.index_add(0, torch.zeros_like(rows[:, 0]).long(), rows)


def test_sums_that_threads_would_lose_rows_of_are_refused(tmp_path: Path) -> None:
    """ONNX Runtime's issue 18048: with many rows to a place, 42 of 100 passes on two threads were wrong."""
    pytest.importorskip("onnxscript")
    header = exporting.describe(tiny("vit", all_methods()["topk"]()), RANDOM, "onnx")
    with pytest.raises(Unsupported, match="it adds rows by index_add or index_put, of which ONNX Runtime"):
        formats.write("onnx", Adds(), torch.randn(2, 3, 8, 8), header, tmp_path / "adds.onnx")
    assert not list(tmp_path.iterdir())


def test_a_name_of_another_format_is_refused() -> None:
    done = CliRunner().invoke(main, ["export", "--method", "topk", "--format", "pt2", "-o", "model.onnx"])
    told = "model.onnx is no name for --format pt2; end it in .pt2, or leave the format out."
    assert done.exit_code == 2 and told in done.stderr
