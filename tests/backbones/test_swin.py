"""Swin under the same loop: bit-equal to timm, costs as published, maps through patch merging, refusals."""

from __future__ import annotations

import costs
import pytest
import torch
from conftest import counting
from timm.models.swin_transformer import SwinTransformer

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import Swin, semantic_window, shifted
from tokenbench.core.windows import crops, cut, lay, own, spread
from tokenbench.errors import Unsupported
from tokenbench.methods import get
from tokenbench.model import Model

SIZES = {
    "window 7": dict(img_size=112),
    "window 4, oblong": dict(img_size=(96, 160), window_size=4),
    "padded windows and odd grids": dict(img_size=(100, 132)),
    "any size": dict(img_size=112, dynamic_img_size=True),
    "three stages": dict(img_size=112, depths=(2, 2, 2), num_heads=(1, 2, 4)),
    "always shifted": dict(img_size=56, always_partition=True),
}


def swin(seed: int = 0, **options: object) -> SwinTransformer:
    torch.manual_seed(seed)
    size = dict(img_size=112, embed_dim=16, depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8), num_classes=10)
    return SwinTransformer(**{**size, **options}).eval()


@pytest.mark.parametrize("size", SIZES)
def test_bit_equal_to_timm(size: str) -> None:
    vit = swin(**SIZES[size])
    backbone = Backbone(vit)
    assert isinstance(backbone, Swin)
    shape = (3, 132, 100) if "any" in size else backbone.input_size
    images = torch.randn(2, *shape)
    with torch.inference_mode():
        model = Model(backbone, get("dense")())
        assert torch.equal(model(images), vit(images))
        out = model.run(images, trace=True)
    for step in out.trace:
        assert step.count == step.layout[0] * step.layout[1]
        assert (step.source.sum(1) == 1).all(), "every patch is in one token"
    torch.testing.assert_close(out.features.unflatten(1, out.tokens.layout), vit.forward_features(images))


def test_patch_merging_joins_the_patches_of_four_tokens() -> None:
    backbone = Backbone(swin())
    step = Model(backbone, get("dense")()).run(torch.randn(1, *backbone.input_size), trace=True).trace[2]
    assert step.layout == (14, 14)
    patches = step.source[0, 14 + 1].reshape(28, 28)
    assert patches.nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]


@pytest.mark.parametrize(("name", "want"), [("swin_t", 4.491), ("swin_s", 8.741), ("swin_b", 15.431)])
def test_gmacs(name: str, want: float) -> None:
    """Papers print 4.51, 8.77 and 15.47, with norms."""
    with counting() as counter:
        backbone = backbones.create(name)
        assert all(block.attn.fused_attn for layer in backbone.vit.layers for block in layer.blocks)
        Model(backbone, get("dense")()).eval()(torch.empty(1, *backbone.input_size))
    assert counter.get_total_flops() == 2 * costs.swin(name)
    assert costs.swin(name) / 1e9 == pytest.approx(want, abs=0.001)


def test_other_image_sizes() -> None:
    """timm's default window of 7 goes on at 448 pixels; what timm cannot build is an error of ours."""
    with torch.device("meta"):
        assert backbones.create("swin_t", (448, 224)).grid == (112, 56)


@pytest.mark.parametrize("method", ["random", "topk", "tome", "evit"])
def test_methods_that_thin_out_refuse(method: str) -> None:
    with pytest.raises(Unsupported, match="windows need all tokens of a grid"):
        Model(Backbone(swin()), get(method)())


def test_a_forward_pass_of_its_own_is_refused() -> None:
    class Other(SwinTransformer):
        pass

    with pytest.raises(Unsupported, match="Other has a forward pass of its own"):
        Backbone(Other(img_size=56, embed_dim=8, depths=(1, 1), num_heads=(1, 2)))


@pytest.mark.parametrize("shift", [False, True])
def test_windows_written_out_are_timms(shift: bool) -> None:
    """On the stage's own map, the windows semantic tokens attend in give what timm's block gives."""
    block = swin(img_size=224).layers[2].blocks[int(shift)]
    x = torch.randn(2, 196, 64)
    with torch.inference_mode():
        ours = shifted(block.attn, x, (14, 14), (7, 7), shift)
        torch.testing.assert_close(ours.unflatten(1, (14, 14)), block._attn(x.unflatten(1, (14, 14))))


def test_semantic_windows_divide_the_map() -> None:
    sides = {6: 6, 8: 4, 4: 4, 3: 3, 2: 2, 12: 6, 9: 3}
    assert {n: semantic_window((n, n), (7, 7))[0] for n in sides} == sides


def test_windows() -> None:
    x = torch.arange(196.0).reshape(1, 196, 1)
    assert torch.equal(lay(cut(x, (14, 14), (7, 7)), (14, 14), (7, 7)), x)
    assert torch.equal(x[0, own((14, 14), (7, 7)), 0], cut(x, (14, 14), (7, 7))[:, :, 0])
    enlarged = crops((14, 14), (7, 7), 3)
    assert enlarged.shape == (4, 100)
    assert enlarged[:, 0].tolist() == [0, 4, 4 * 14, 4 * 14 + 4], "10x10 at stride 4"
    middle = crops((21, 21), (7, 7), 3).reshape(3, 3, 100)
    assert middle[1, 1, 0] == 6 * 21 + 6
    weights = torch.rand(4, 9, 100)
    full = spread(weights, enlarged, (6, 6), (3, 3), 196)
    assert full.shape == (1, 36, 196)
    torch.testing.assert_close(full[0, 3, enlarged[1]], weights[1, 0])  # the first token of the second window
    torch.testing.assert_close(full.sum(), weights.sum())
