"""One call gives a model, and each thing that cannot be is refused with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tokenbench
from tokenbench import backbones
from tokenbench.backbones import Backbone, hub
from tokenbench.errors import BadSetting, UnknownName, Unsupported, WeightsError
from tokenbench.weights import files, sources
from tokenbench.weights.checkpoints import SHIPPED

Tiny = Callable[..., Backbone]


def test_from_names_to_logits() -> None:
    model = tokenbench.build("evit", "deit_nano", weights="random", keep_rate=0.5)
    assert not model.training and model.method.keep_rate == 0.5
    with torch.inference_mode():
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_model_of_ones_own_keeps_its_weights(tiny: Tiny) -> None:
    vit = tiny().vit
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    model = tokenbench.build("tome", vit, r=2)
    assert model.vit is vit
    assert all(torch.equal(before[key], value) for key, value in vit.state_dict().items())


def test_the_seed_decides_every_weight_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (tokenbench.build("dynamicvit", "deit_nano", weights="random", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    assert all(same)
    own = [name for name, _ in first.named_parameters() if ".reducers." in name and name.endswith("weight")]
    changed = [not torch.equal(first.state_dict()[name], other.state_dict()[name]) for name in own]
    assert own and any(changed)


def test_weights_of_a_file(tmp_path: Path) -> None:
    stored = backbones.create("deit_nano")
    files.save(tmp_path / "nano.safetensors", stored, {})
    model = tokenbench.build("topk", "deit_nano", weights=str(tmp_path / "nano.safetensors"))
    assert torch.equal(model.vit.head.weight, stored.vit.head.weight)
    with pytest.raises(WeightsError, match=r"does not exist; give a \.safetensors or \.pth file"):
        tokenbench.build("topk", "deit_nano", weights=str(tmp_path / "none.safetensors"))


def test_random_weights_in_place_of_the_hubs_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(config: object) -> Path:
        raise ConnectionError("the hub does not answer")

    monkeypatch.setattr(hub, "pretrained", offline)
    with pytest.warns(UserWarning, match="the hub does not answer"):
        tokenbench.build("evit", "deit_t")


@pytest.mark.parametrize(
    ("method", "backbone", "knobs", "error", "says"),
    [
        ("evti", "deit_nano", {}, UnknownName, "Unknown method 'evti'. Did you mean evit? See `tokenbench list`."),
        ("evit", "deit_nan", {}, UnknownName, "Unknown backbone 'deit_nan'. Did you mean deit_nano?"),
        ("evit", "deit_nano", {"keep_rat": 1}, BadSetting, "evit has no knob 'keep_rat'; it has keep_rate"),
        ("evit", "deit_nano", {"keep_rate": 2}, BadSetting, "keep_rate=2 is not allowed"),
        ("evit", "resnet18", {}, Unsupported, "resnet18 cannot be served: ResNet is not a timm SwinTransformer or"),
        ("evit", "vit_base_patch16_siglip_224", {}, Unsupported, "this backbone has none"),
    ],
)
def test_what_cannot_be_is_refused(method: str, backbone: str, knobs: dict, error: type[Exception], says: str) -> None:
    with torch.device("meta"), pytest.raises(error) as raised:
        tokenbench.build(method, backbone, weights="random", **knobs)
    assert says in str(raised.value)


def test_weights_of_another_setting_are_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"has no weights for evit\[keep_rate=0.5\] on deit_nano"):
        tokenbench.build("evit", "deit_nano", keep_rate=0.5, weights=str(SHIPPED / "deit_nano-topk-0.7.safetensors"))


def test_dense_weights_of_other_classes_make_a_model_of_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {"method": "dense", "setting": {}, "backbone": "deit_nano", "classes": 3}
    files.save(path, backbones.create("deit_nano", classes=3), header)
    assert tokenbench.build("topk", "deit_nano", weights=str(path)).vit.num_classes == 3
    assert sources.find(str(path), "deit_t").others == (path,)
