"""Models saved to a folder are read again as they were, by one call and as weights of every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from rows import row

import tokenbench
from tokenbench import backbones
from tokenbench.errors import UsageError, WeightsError
from tokenbench.weights import files, sources


def images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("method", "knobs"),
    [("evit", {"keep_rate": 0.5}), ("dynamicvit", {}), ("dense", {}), ("stvit", {})],
)
def test_saved_and_read_again(method: str, knobs: dict[str, Any], tmp_path: Path) -> None:
    model = tokenbench.build(method, "deit_nano", pretrained=False, seed=3, **knobs)
    model.save_pretrained(tmp_path)
    again = tokenbench.Pretrained.from_pretrained(tmp_path)
    assert again.method == model.method and not again.training
    with torch.inference_mode():
        assert torch.equal(again(images()), model(images()))
        used = tokenbench.build(method, "deit_nano", weights=str(tmp_path), **knobs)
        assert torch.equal(used(images()), model(images())), "the folder is weights for every command"
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["method"] == method and told["preprocessing"]["crop"] == [28, 28]


def test_size_pixels_and_classes_are_kept(tmp_path: Path) -> None:
    backbone = backbones.create("deit_nano", (42, 28), classes=3, pixels={"mean": (0.4,)})
    backbone.class_names = ("a", "b", "c")
    tokenbench.Pretrained(backbone, tokenbench.build("topk", "deit_nano", pretrained=False).method).save_pretrained(
        tmp_path
    )
    again = tokenbench.Pretrained.from_pretrained(tmp_path).backbone
    assert again.input_size == (1, 42, 28) and again.vit.num_classes == 3
    assert again.class_names == ("a", "b", "c") and again.config["mean"] == (0.4,)


def test_the_card_has_the_measured_row(tmp_path: Path) -> None:
    model = tokenbench.build("topk", "deit_nano", pretrained=True)
    measured = row(
        "topk",
        model.method.label,
        backbone="deit_nano",
        top1=87.25,
        top1_low=85.1,
        top1_high=89.0,
        speedup=1.5,
        speedup_low=1.4,
        speedup_high=1.6,
    )
    model.save_pretrained(tmp_path / "with", model_card_kwargs={"row": measured, "name": "me/topk"})
    text = (tmp_path / "with" / "README.md").read_text()
    assert "| top-1 | 87.25 % [85.10, 89.00], 100 images of photos (val) |" in text
    assert "| of dense | 1.50 times as fast [1.40, 1.60] |" in text and "Some CPU, 2 cores, fp32, eager" in text
    assert 'from_pretrained("me/topk")' in text and "value: 87.25" in text
    other = {"row": row("topk", "topk[keep_rate=0.5]", backbone="deit_nano")}
    with pytest.raises(
        UsageError, match=r"The row is of topk\[keep_rate=0.5\] on deit_nano, and the model is topk\[keep_rate=0.7\]"
    ):
        model.save_pretrained(tmp_path / "other", model_card_kwargs=other)
    model.save_pretrained(tmp_path / "without")
    assert "Nothing was measured of these weights." in (tmp_path / "without" / "README.md").read_text()


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no model.safetensors; give one that save_pretrained wrote"):
        tokenbench.Pretrained.from_pretrained(tmp_path)
    files.save(tmp_path / "model.safetensors", backbones.create("deit_nano"), {})
    with pytest.raises(WeightsError, match="was not saved by save_pretrained"):
        tokenbench.Pretrained.from_pretrained(tmp_path)
    with pytest.raises(LocalEntryNotFoundError):  # the hub's own client asks first
        tokenbench.Pretrained.from_pretrained("me/none", local_files_only=True, cache_dir=tmp_path / "cache")
    with pytest.raises(UsageError, match=r"pretrained=True and weights='random' both say which weights"):
        tokenbench.build("topk", "deit_nano", pretrained=True, weights="random")


def test_pretrained_is_not_random(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(config: object) -> Path:
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(sources.checkpoints.hub, "pretrained", offline)
    with pytest.raises(WeightsError, match=r"the hub does not answer\), so the weights are random; give a file"):
        tokenbench.build("evit", "deit_t", pretrained=True)


def test_what_is_pushed_is_what_was_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Into a hub that only remembers: the mixin's own upload."""
    pushed: dict[str, Any] = {}

    class Api:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def create_repo(self, repo_id: str, **_: Any) -> Any:
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Any, **_: Any) -> str:
            pushed[repo_id] = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model = tokenbench.build("evit", "deit_nano", pretrained=True)
    model.push_to_hub("me/evit", model_card_kwargs={"name": "me/evit"})
    assert set(pushed["me/evit"]) == {"model.safetensors", "config.json", "README.md"}
    (tmp_path / "model.safetensors").write_bytes(pushed["me/evit"]["model.safetensors"])
    with torch.inference_mode():
        assert torch.equal(tokenbench.Pretrained.from_pretrained(tmp_path)(images()), model(images()))
