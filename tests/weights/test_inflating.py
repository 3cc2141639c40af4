"""Weights of images in a model of clips, and those of Video Swin's own code."""

from __future__ import annotations

from pathlib import Path

import moving  # noqa: F401  registers a small model
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer import SwinTransformer

from tokenbench import backbones
from tokenbench.errors import WeightsError
from tokenbench.weights import checkpoints


def image_swin(**changes: object) -> SwinTransformer:
    torch.manual_seed(0)
    size = dict(img_size=224, window_size=7, embed_dim=8, depths=(1, 1, 6, 1), num_heads=(1, 1, 1, 1), num_classes=5)
    model = SwinTransformer(**{**size, **changes}).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_bias_table"):
            torch.nn.init.normal_(parameter)
    return model


@torch.inference_mode()
def test_a_clip_that_stands_still_looks_like_its_image(tmp_path: Path) -> None:
    """Inflated as published: the kernel divided over time and equal positions at each distance in time, so attention
    over copies of one frame is attention within it."""
    images = image_swin()
    save_file(images.state_dict(), tmp_path / "swin.safetensors")
    clips = backbones.create("swin3d_femto", classes=5)
    found = checkpoints.load_dense(clips, str(tmp_path / "swin.safetensors"))
    assert "inflated in time" in str(found.note)
    image = torch.randn(1, 3, 224, 224)
    still = image.unsqueeze(2).expand(-1, -1, 16, -1, -1)
    assert torch.allclose(clips.vit.eval()(still), images(image), atol=2e-5)


def test_a_head_of_other_classes_is_new(tmp_path: Path) -> None:
    save_file(image_swin().state_dict(), tmp_path / "swin.safetensors")
    clips = backbones.create("swin3d_femto", classes=2)
    found = checkpoints.load_dense(clips, str(tmp_path / "swin.safetensors"), transfer=True)
    assert found.random_head and clips.vit.head.weight.shape == (2, 64)
    with pytest.raises(WeightsError, match="does not fit"):
        checkpoints.load_dense(clips, str(tmp_path / "swin.safetensors"))


def test_other_windows_are_refused(tmp_path: Path) -> None:
    save_file(image_swin(window_size=4, img_size=128).state_dict(), tmp_path / "swin.safetensors")
    with pytest.raises(WeightsError, match="windows of 4 a side"):
        checkpoints.load_dense(backbones.create("swin3d_femto", classes=5), str(tmp_path / "swin.safetensors"))


def test_makers_names(tmp_path: Path) -> None:
    """Those of Video Swin's checkpoints: merging at the end of a stage, the classifier beside the backbone."""
    clips = backbones.create("swin3d_femto", classes=5)
    theirs = {}
    for key, value in clips.vit.state_dict().items():
        first, *rest = key.split(".")
        if first == "features":
            stage, name = divmod(int(rest[0]), 2)
            middle = ["downsample"] if name else ["blocks"]
            key = ".".join(["layers", str(stage), *middle, *rest[1:]])
        key = key.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
        theirs["cls_head.fc_cls." + key.removeprefix("head.") if first == "head" else f"backbone.{key}"] = value.clone()
    torch.save({"state_dict": theirs}, tmp_path / "video.pth")
    want = {key: value.clone() for key, value in clips.vit.state_dict().items()}
    clips.vit.init_weights()
    checkpoints.load_dense(clips, str(tmp_path / "video.pth"))
    have = clips.vit.state_dict()
    assert all(torch.equal(have[key], value) for key, value in want.items())


def test_timm_knows_them() -> None:
    assert timm.is_model("swin3d_t") and backbones.full_name("swin3d_t") == "swin3d_t"
