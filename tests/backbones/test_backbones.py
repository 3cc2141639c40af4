"""Every accepted family is bit-equal to timm without reduction; what is not served says why."""

import pytest
import timm
import torch
from reducing import Threshold

from tokenbench import backbones
from tokenbench.backbones import SHORT_NAMES, Backbone
from tokenbench.errors import UnknownName, Unsupported
from tokenbench.methods import get
from tokenbench.model import Model

# timm's own models of each family, made small: width, heads and depth only, so that every switch stays as timm sets it
FAMILIES = {
    "deit": "deit_tiny_patch16_224",
    "deit distilled": "deit_tiny_distilled_patch16_224",
    "deit III": "deit3_small_patch16_224",
    "augreg": "vit_tiny_patch16_224",
    "dinov2": "vit_small_patch14_dinov2",
    "dinov2 registers": "vit_small_patch14_reg4_dinov2",
    "clip": "vit_base_patch16_clip_224",
    "clip quickgelu": "vit_base_patch16_clip_quickgelu_224",
    "siglip": "vit_base_patch16_siglip_224",
    "siglip gap": "vit_base_patch16_siglip_gap_224",
    "mae": "vit_base_patch16_224.mae",
    "q/k norm": "vit_base_patch16_rpn_224",
    "registers, mean pooling": "vit_medium_patch16_reg4_gap_256",
    "swiglu": "vit_giant_patch14_dinov2",
}
REFUSED = {
    "swinv2_tiny_window8_256": "not a timm SwinTransformer or VisionTransformer",
    "vit_base_patch16_rpn_224": "ResPostBlock",
    "resnet18": "not a timm SwinTransformer or VisionTransformer",
}


def small(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model(name, embed_dim=32, depth=12, num_heads=2, num_classes=10, **options).eval()
    with torch.no_grad():  # layer scales and registers start at zero: make them count
        for parameter in vit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return vit


@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f] not in REFUSED])
def test_bit_equal_to_timm(family: str) -> None:
    """The plain block is called as it is, and attention written out gives the same bits."""
    vit = small(FAMILIES[family], img_size=(56, 84) if "14" in FAMILIES[family] else (64, 96))
    backbone = Backbone(vit, family)
    images = torch.randn(2, *backbone.input_size)
    with torch.inference_mode():
        want = vit(images)
        dense = Model(backbone, get("dense")())(images)
        model = Model(backbone, get("tome")(r=1))
        for block in model.blocks:
            for reducer in block.reducers:
                reducer.r = 0  # a reducer that asks nothing: attention is written out in every block
        written_out = model(images)
    assert torch.equal(dense, want)
    assert torch.equal(written_out, want)


@pytest.mark.parametrize("method", ["tome", "random", "topk", "evit", "dynamicvit", "stvit"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f] not in REFUSED])
def test_every_method_runs_or_says_why(family: str, method: str) -> None:
    backbone = Backbone(small(FAMILIES[family], img_size=(84, 112) if "14" in FAMILIES[family] else (64, 96)), family)
    setting = get(method)() if method != "tome" else get(method)(r=2)
    reason = setting.refusal(backbone)
    if reason:
        assert method in ("topk", "evit", "stvit")
        with pytest.raises(Unsupported, match="cannot run on"):
            Model(backbone, setting)
        return
    images = torch.randn(2, *backbone.input_size)
    with torch.inference_mode():
        out = Model(backbone, setting).eval().run(images, trace=True)
    assert out.logits.shape == (2, 10)
    assert out.logits.isfinite().all()
    assert out.tokens.prefix == (0 if method == "stvit" else backbone.prefix)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("family", [f for f in FAMILIES if FAMILIES[f] not in REFUSED])
@torch.inference_mode()
def test_padding_is_seen_by_none(family: str, fused: bool) -> None:
    vit = small(FAMILIES[family], img_size=(56, 84) if "14" in FAMILIES[family] else (64, 96))
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    model = Model(Backbone(vit, family), Threshold()).eval()
    images = torch.randn(3, *model.backbone.input_size, generator=torch.Generator().manual_seed(2))
    together = model.run(images)
    assert len(set(together.tokens.counts.tolist())) > 1
    torch.testing.assert_close(together.logits, torch.cat([model(x) for x in images.split(1)]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_with_the_reason(name: str) -> None:
    with pytest.raises(Unsupported, match=REFUSED[name]):
        backbones.create(name)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean deit_s"):
        backbones.create("deit_ss")


def test_short_names_exist_in_timm() -> None:
    for full in SHORT_NAMES.values():
        assert timm.is_model(full.split(".")[0])


def test_dynamic_image_size() -> None:
    vit = small("deit_tiny_patch16_224", img_size=64, dynamic_img_size=True)
    images = torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        assert torch.equal(Model(Backbone(vit), get("dense")())(images), vit(images))
        out = Model(Backbone(vit), get("evit")()).run(images)
    assert out.tokens.grid == (6, 4)


def test_weighted_mean_pooling() -> None:
    """A mean-pooled model weighs merged tokens by their size, so merging equal tokens changes nothing."""
    vit = small("vit_base_patch16_siglip_gap_224", img_size=64)
    with torch.no_grad():
        vit.pos_embed.zero_()
    images = torch.randn(1, 3, 16, 16).repeat(1, 1, 4, 4)  # sixteen equal patches
    with torch.inference_mode():
        merged = Model(Backbone(vit), get("tome")(r=3)).run(images)
        assert merged.tokens.count < 16
        torch.testing.assert_close(merged.logits, vit(images), rtol=1e-4, atol=1e-5)
