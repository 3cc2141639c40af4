"""What people bring works as it is: their classes, their images, their names; or it is refused with the reason."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import tokenbench
from tokenbench import backbones, data
from tokenbench.backbones import SHORT_NAMES, Backbone
from tokenbench.errors import BadData, TokenbenchError, UsageError, WeightsError
from tokenbench.runs.candidates import Plan, prepare
from tokenbench.weights import checkpoints, files, published, sources, told

Tiny = Callable[..., Backbone]
State = dict[str, Tensor]
SIZE: dict[str, Any] = dict(img_size=48, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=10)


def theirs(stored: State, start: str, head: str = "classifier") -> State:
    """timm's tensors under the names of transformers; written down from its models."""
    norms = {"dinov2.": ("norm1", "norm2")}.get(start, ("layernorm_before", "layernorm_after"))
    mlp = {"dinov2.": ("mlp.fc1", "mlp.fc2")}.get(start, ("intermediate.dense", "output.dense"))
    inside = {"norm1": norms[0], "norm2": norms[1], "mlp.fc1": mlp[0], "mlp.fc2": mlp[1]}
    inside |= {"attn.proj": "attention.output.dense", "ls1": "layer_scale1", "ls2": "layer_scale2"}
    top = {"cls_token": "cls_token", "dist_token": "distillation_token", "pos_embed": "position_embeddings"}
    found: State = {}
    for key, value in stored.items():
        stem, _, kind = key.rpartition(".")
        if key in top:
            found[f"{start}embeddings.{top[key]}"] = value
        elif key.startswith("blocks."):
            _, index, part = stem.split(".", 2)
            layer = f"{start}encoder.layer.{index}"
            if part == "attn.qkv":
                for name, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                    found[f"{layer}.attention.attention.{name}.{kind}"] = piece.clone()
            else:
                found[f"{layer}.{inside[part]}.{'lambda1' if kind == 'gamma' else kind}"] = value
        elif stem == "patch_embed.proj":
            found[f"{start}embeddings.patch_embeddings.projection.{kind}"] = value
        elif stem == "norm":
            found[f"{start}layernorm.{kind}"] = value
        else:
            found[f"{head if stem == 'head' else 'distillation_classifier'}.{kind}"] = value
    return found


@pytest.mark.parametrize(
    ("make", "start", "head", "options"),
    [
        (VisionTransformer, "vit.", "classifier", {}),
        (VisionTransformer, "vit.", "classifier", {"qkv_bias": False}),
        (VisionTransformer, "deit.", "classifier", {}),
        (VisionTransformerDistilled, "deit.", "cls_classifier", {}),
        (VisionTransformer, "dinov2.", "classifier", {"init_values": 0.5}),
        (VisionTransformer, "", "classifier", {"num_classes": 0}),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_transformers_names_compute_the_same(
    tmp_path: Path, make: Any, start: str, head: str, options: Any, wrapped: bool
) -> None:
    def model(seed: int) -> Any:
        torch.manual_seed(seed)
        return make(**{**SIZE, **options}).eval()

    mine, other, images = model(1), model(2), torch.randn(2, 3, 48, 48)
    stored = theirs(mine.state_dict(), start, head)
    assert not any("blocks" in key or "qkv" in key for key in stored)
    if wrapped:
        torch.save({"state_dict": {f"model.{k}": v for k, v in stored.items()}}, tmp_path / "a.ckpt")
    else:
        save_file(stored, tmp_path / "a.ckpt")
    assert checkpoints.load(Backbone(other), tmp_path / "a.ckpt").note is None
    torch.testing.assert_close(other(images), mine(images))
    assert not torch.equal(model(2)(images), mine(images))


def test_what_transformers_keeps_beside_is_said(tmp_path: Path) -> None:
    mine = VisionTransformer(**SIZE)
    stored = theirs(mine.state_dict(), "vit.") | {"vit.pooler.dense.weight": torch.ones(32, 32)}
    save_file(stored | {"vit.embeddings.mask_token": torch.ones(1, 1, 32)}, tmp_path / "a.safetensors")
    note = checkpoints.load(Backbone(VisionTransformer(**SIZE)), tmp_path / "a.safetensors").note
    assert note == "the pooler is left out, which classifies nothing; timm leaves out mask_token"


def test_a_folder_of_transformers_tells_classes_and_pixels(tmp_path: Path) -> None:
    mine = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    save_file(theirs(mine.state_dict(), "vit."), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViTForImageClassification"]}))
    processor = {
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2] * 3,
        "resample": 2,
        "size": {"height": 224, "width": 224},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    given = sources.find(str(tmp_path), "vit_ti")
    backbone = given.create("vit_ti")
    assert backbone.pixels == {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2), "interpolation": "bilinear"}
    assert backbone.config["mean"] == (0.4, 0.5, 0.6) and backbone.config["crop_pct"] == 0.9
    assert given.load(backbone).name == "model.safetensors" and backbone.vit.num_classes == 5
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"has a config\.json but none of model\.safetensors"):
        sources.find(str(tmp_path), "vit_ti")


def test_a_folder_of_timms_save_is_found_by_name_and_as_weights(tmp_path: Path) -> None:
    torch.manual_seed(1)
    overlay = dict(mean=(0.1, 0.2, 0.3), crop_pct=0.8)
    mine = timm.create_model("vit_tiny_patch16_224", num_classes=5, pretrained_cfg_overlay=overlay)
    save_for_hf(mine, tmp_path, safe_serialization=True)
    named = backbones.create(f"local-dir:{tmp_path}")
    weights = checkpoints.load_dense(named, "auto")
    assert (weights.kind, weights.name, weights.note) == ("file", "model.safetensors", None)
    assert named.vit.num_classes == 5 and torch.equal(named.vit.head.weight, mine.head.weight)
    assert tuple(named.config["mean"]) == (0.1, 0.2, 0.3) and named.config["crop_pct"] == 0.8
    given = sources.find(str(tmp_path), "vit_ti")
    other = given.create("vit_ti")
    given.load(other)
    assert torch.equal(other.vit.head.weight, mine.head.weight)
    assert other.pixels["mean"] == (0.1, 0.2, 0.3) and other.pixels["crop_pct"] == 0.8
    with pytest.raises(UsageError, match=r"there is no config\.json in that folder"):
        backbones.create(f"local-dir:{tmp_path / 'none'}")


@pytest.mark.parametrize("name", ["hf-hub:owner/model", "hf_hub:owner/model@abc"])
def test_names_of_the_hub_are_answered_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for offline, says in ((True, "HF_HUB_OFFLINE is set"), (False, "does not answer")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        start = time.perf_counter()
        with pytest.raises(UsageError, match=rf"cannot be served: its config\.json cannot be had \(.*{says}"):
            backbones.create(name)
        assert time.perf_counter() - start < 6.0


def test_a_model_of_the_hub_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "models--owner--model"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c" * 40)
    mine = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    save_for_hf(mine, repo / "snapshots" / ("c" * 40), safe_serialization=True)
    backbone = backbones.create("hf-hub:owner/model")
    weights = checkpoints.load_dense(backbone, "auto")
    assert (weights.kind, weights.name) == ("hub", "owner/model@cccccccccccc")
    assert torch.equal(backbone.vit.head.weight, mine.head.weight)


def test_a_fine_tuned_file_tells_classes_size_and_pixels(tmp_path: Path) -> None:
    """As timm's train.py saves it, and as DeiT's code does."""
    path, mine = tmp_path / "a.pth.tar", timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=96)
    args = argparse.Namespace(mean=[0.5, 0.4, 0.3], std=None, crop_pct=1.0, img_size=None, input_size=(3, 96, 96))
    torch.save({"state_dict": mine.state_dict(), "args": args, "metric": 91.0}, path)
    given = sources.find(str(path), "vit_ti")
    backbone = given.create("vit_ti")
    assert given.load(backbone).note is None
    assert (backbone.vit.num_classes, backbone.input_size) == (3, (3, 96, 96))
    assert backbone.pixels == {"mean": (0.5, 0.4, 0.3), "crop_pct": 1.0}
    assert given.create("vit_ti", (64, 64), pixels={"crop_pct": 0.9}).pixels == {"mean": (0.5, 0.4, 0.3)}
    args = argparse.Namespace(mean="half", std=[0.2], crop_pct=7, interpolation="random", input_size=96)
    torch.save({"model": mine.state_dict(), "args": args}, path)
    assert sources.find(str(path), "vit_ti").told == told.Told(3, None, (96, 96), {"std": (0.2,)})


def test_pixels_are_conditions_of_a_row() -> None:
    usual, other = (
        prepare(Plan([], ["deit_nano"], pixels=pixels), {"hardware": "x"}, lambda text: None)[0]
        for pixels in ({"mean": (0.2860,)}, {"mean": (0.5,), "interpolation": "bilinear"})
    )
    a, b = (group.row(group.candidates[0], 32) for group in (usual, other))
    assert a.conditions == {} and b.conditions == {"mean": [0.5], "interpolation": "bilinear"} and a.id != b.id
    assert other.loader is not None and usual.loader is not None
    first, second = (next(iter(group.loader))[0] for group in (usual, other))
    torch.testing.assert_close(second.mean(), (first.mean() * 0.3530 + 0.2860 - 0.5) / 0.3530)


def test_which_of_two_sets_is_measured_is_in_the_row(tmp_path: Path) -> None:
    path, names = tmp_path / "a.pth", set()
    one = backbones.create("deit_nano").vit.state_dict()
    torch.save({"model": one, "model_ema": {key: value + 1 for key, value in one.items()}}, path)
    for take in (sources.ALL, sources.Take(averaged=True), sources.Take(key="model_ema")):
        said: list[str] = []
        (group,) = prepare(Plan([], ["deit_nano"], weights=str(path), take=take), {"hardware": "x"}, said.append)
        assert any("weights (" in text or "under the key" in text for text in said), said
        names.add(group.row(group.candidates[0], 32).weights.name)
    assert names == {"a.pth#model", "a.pth#model_ema"}


def test_classifiers_fine_tuned_from_mae_pool_the_mean(tmp_path: Path) -> None:
    torch.manual_seed(1)
    mine = timm.create_model("vit_tiny_patch16_224", global_pool="avg", num_classes=7).eval()
    assert "fc_norm.weight" in mine.state_dict() and "norm.weight" not in mine.state_dict()
    torch.save({"model": mine.state_dict(), "epoch": 99}, tmp_path / "a.pth")
    images = torch.randn(1, 3, 224, 224)
    want = tokenbench.build("tome", mine, prop_attn=False)(images)
    torch.testing.assert_close(
        tokenbench.build("tome", "vit_ti", weights=str(tmp_path / "a.pth"), prop_attn=False)(images), want
    )
    out = tmp_path / "b.safetensors"
    found = published.convert(tmp_path / "a.pth", out, "tome[prop_attn=false]", "vit_ti")
    assert files.header(out)["pool"] == "avg"
    torch.testing.assert_close(found.model()(images), want)
    torch.testing.assert_close(tokenbench.build("tome", "vit_ti", weights=str(out), prop_attn=False)(images), want)


@pytest.mark.parametrize("classes", [3, 10, 12])
def test_weights_of_other_classes_get_a_new_head_where_asked_for(tiny: Tiny, tmp_path: Path, classes: int) -> None:
    torch.save({"model": tiny(seed=1).vit.state_dict()}, tmp_path / "a.pth")
    a, b = tiny(seed=2, num_classes=classes), tiny(seed=3, num_classes=classes)
    found = [checkpoints.load_dense(x, str(tmp_path / "a.pth"), seed=5, transfer=True) for x in (a, b)]
    assert all(torch.equal(x, y) for x, y in zip(a.vit.parameters(), b.vit.parameters(), strict=True))
    assert torch.equal(a.vit.blocks[3].mlp.fc1.weight, tiny(seed=1).vit.blocks[3].mlp.fc1.weight)
    assert (
        a.vit.head.weight.std() > 0
        if classes == 10
        else not torch.equal(a.vit.head.weight[:3], tiny(seed=1).vit.head.weight[:3])
    )
    assert found[0].random_head == (classes != 10)
    assert found[0].note == (None if classes == 10 else f"the head of {classes} classes is new, the file has 10")
    if classes != 10:
        with pytest.raises(WeightsError, match="does not fit"):
            checkpoints.load_dense(tiny(num_classes=classes), str(tmp_path / "a.pth"))


def test_weights_without_a_head_get_one_where_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(tiny(seed=1, num_classes=0).vit.state_dict(), tmp_path / "a.pth")
    note = checkpoints.load_dense(tiny(seed=2), str(tmp_path / "a.pth"), transfer=True).note
    assert note == "the head of 10 classes is new, the file has none"


def test_short_names_are_of_the_weights_that_papers_began_from() -> None:
    want = {f"vit_{size}": "augreg_in21k_ft_in1k" for size in ("ti", "s", "b", "l")}
    want |= {f"swin_{size}": "ms_in1k" for size in ("t", "s", "b")} | {
        f"deit_{size}": "fb_in1k" for size in ("t", "s", "b")
    }
    assert {name: SHORT_NAMES[name].partition(".")[2] for name in want} == want
    untagged = [name for name, full in SHORT_NAMES.items() if "." not in full]
    assert untagged == [
        "deit_nano",
        "swin_nano",
        *(f"swin3d_{size}" for size in ("nano", "t", "s", "b")),  # torchvision's
        *(f"lvvit_{size}" for size in "tsml"),
    ]  # or timm's next default would be another
    assert all(timm.models.is_model_pretrained(full) for name, full in SHORT_NAMES.items() if name not in untagged)


def test_a_name_without_a_tag_goes_with_every_tag() -> None:
    assert backbones.is_same("vit_b", "vit_base_patch16_224")
    assert backbones.is_same("vit_base_patch16_224.mae", "mae_b") and not backbones.is_same("vit_b", "mae_b")
    assert not backbones.is_same("vit_b", "deit_b")


@pytest.mark.parametrize(
    "header",
    [
        {"method": 3, "backbone": "deit_nano"},
        {"method": "evit"},
        {"method": "evit", "backbone": "deit_nano", "setting": {"keep_rate": "much"}},
        {"method": "evit", "backbone": "deit_nano", "setting": [1]},
        {"method": "evit", "backbone": 5},
        {"method": "nobody's", "backbone": "deit_nano"},
        {"method": "dense", "backbone": ["deit_nano"]},
        {"backbone": "resnet_of_tomorrow"},
        {"classes": "ten", "pool": 3, "pixels": [0.5]},
    ],
    ids=str,
)
def test_an_odd_header_is_one_sentence_or_nothing(tmp_path: Path, header: dict[str, Any]) -> None:
    path = tmp_path / "a.safetensors"
    files.save(path, backbones.create("deit_nano"), header)
    try:
        given = sources.find(str(path), "deit_nano")
        given.create("deit_nano")
    except TokenbenchError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert "method" not in header and "backbone" not in header


def test_no_file_is_a_mistake_in_the_command() -> None:
    for text in ("", " , "):
        with pytest.raises(UsageError, match="--weights names no file"):
            sources.find(text, "deit_nano")


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"class_to_idx": {"dog": 0, "cat": 1}}, ("dog", "cat")),
        ({"idx_to_class": {0: "dog", 1: "cat"}}, ("dog", "cat")),
        ({"classes": ["dog", "cat"]}, ("dog", "cat")),
        ({"class_names": ("LABEL_0", "LABEL_1")}, None),
        ({"class_names": ("dog", "dog")}, None),
        ({"classes": 2, "class_names": ["dog", "cat", "emu"]}, None),
        ({"class_to_idx": {"dog": 1, "cat": 2}}, None),
        ({"classes": torch.zeros(2)}, None),
    ],
)
def test_names_of_classes_are_read_where_training_scripts_keep_them(
    tmp_path: Path, said: dict[str, Any], names: tuple[str, ...] | None
) -> None:
    model = {"patch_embed.proj.weight": torch.zeros(4, 3, 2, 2), "head.weight": torch.zeros(2, 4)}
    torch.save({"model": model, **said}, tmp_path / "a.pth")
    assert sources.find(str(tmp_path / "a.pth"), "vit_ti").class_names("vit_ti") == names


def test_images_are_labelled_by_the_names_that_a_folder_of_transformers_has(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2, 4)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "dog", "1": "cat"}}))
    names = sources.find(str(tmp_path), "vit_ti").class_names("vit_ti")
    assert names == ("dog", "cat")
    images = data.Images("pets", "val", ("cat", "dog"), np.zeros((2, 4, 4), np.uint8), (0, 1), order="natural")
    assert [*data.match(images, 2, "vit_ti", names).targets] == [1, 0]
    with pytest.raises(BadData, match="has a class 'cat' but the weights of vit_ti were trained on 'Hund'"):
        data.match(images, 2, "vit_ti", ("Hund", "Katze"))
    wnids = data.Images("in", "val", ("n01440764",), images.items, (0, 0), order="imagenet")
    assert data.match(wnids, 1, "vit_ti", ("tench",)) is not None, "words say nothing of wnids, whose order is known"


def test_a_configuration_that_says_another_model_than_the_tensors_can_tell_is_refused(tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(2, 192)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12, "hidden_act": "gelu"}))
    with pytest.raises(WeightsError, match=r"12 attention heads by its config.json, and vit_ti has 3; give"):
        sources.find(str(tmp_path), "vit_ti").create("vit_ti")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_act": "relu"}))
    with pytest.raises(WeightsError, match=r"with activation relu by its config.json, and timm's have gelu"):
        sources.find(str(tmp_path), "vit_ti")
