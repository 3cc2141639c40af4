"""Semantic tokens: the generating blocks against their equations, pooling, centres and maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from equations import ffn, mha
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.errors import Unsupported
from tokenbench.methods.stvit.semantic import LearnedPool
from tokenbench.methods.stvit.stvit import STViT
from tokenbench.model import Model

Tiny = Callable[..., Backbone]


@torch.inference_mode()
def by_hand(model: Model, images: Tensor, generating: int, side: int = 4) -> tuple[Tensor, Tensor]:
    """Section 3.2 line by line: logits and the map from patches to semantic tokens."""
    vit = model.vit
    x = vit._pos_embed(vit.patch_embed(images))[:, 1:]
    for block in vit.blocks[:4]:
        x = block(x)
    block = vit.blocks[4]
    p = F.adaptive_max_pool2d(x.transpose(1, 2).reshape(len(x), -1, 6, 6), side).flatten(2).transpose(1, 2)
    out, source = mha(block, p, x)
    s = ffn(block, p + out)
    for i in range(5, 4 + generating):
        block = vit.blocks[i]
        queries = s + model.blocks[i].reducers[0].centres.weight
        out, weights = mha(block, queries, torch.cat([s, x], 1))
        source = weights[:, :, : side**2] @ source + weights[:, :, side**2 :]
        s = ffn(block, queries + out)
    for block in vit.blocks[4 + generating :]:
        s = block(s)
    return vit.head(vit.norm(s).mean(1)), source


@pytest.mark.parametrize("generating", [1, 2, 3, 4])
def test_by_hand(generating: int, tiny: Tiny, images: Tensor) -> None:
    model = Model(tiny(), STViT(generating=generating)).eval()
    with torch.inference_mode():
        out = model.run(images, trace=True)
    logits, source = by_hand(model, images, generating)
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.tokens.source, source, rtol=1e-4, atol=1e-6)
    assert [step.count for step in out.trace] == [36] * 4 + [16] * 8


@pytest.mark.parametrize("pool", ["max", "avg", "learned"])
@pytest.mark.parametrize("centres", ["both", "spatial", "global"])
@pytest.mark.parametrize("tokens", [4, 9])
def test_every_setting(pool: Any, centres: Any, tokens: int, tiny: Tiny, images: Tensor) -> None:
    method = STViT(pool=pool, centres=centres, tokens=tokens)
    model = Model(tiny(), method).train()
    out = model.run(images)
    assert out.tokens.count == tokens
    sum(method.losses(out, torch.tensor([0, 1, 2, 3])).values()).backward()
    own = {name: p for name, p in model.named_parameters() if ".reducers." in name}
    assert any("centres" in name for name in own) == (centres != "spatial")
    assert any("pool" in name for name in own) == (pool == "learned" and centres != "global")
    for name, parameter in own.items():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_learned_pool_is_the_window_mean_while_it_has_learned_nothing() -> None:
    """With no mask and no offset, windows that divide the map give average pooling."""
    torch.manual_seed(0)
    pool = LearnedPool(8, 3)
    torch.nn.init.zeros_(pool.point.weight)
    torch.nn.init.zeros_(pool.point.bias)
    grid = torch.randn(2, 8, 6, 12)
    torch.testing.assert_close(pool(grid), F.adaptive_avg_pool2d(grid, 3), rtol=1e-4, atol=1e-5)


def test_learned_pool_offset_moves_the_window() -> None:
    """A full offset down and right reads the next window; the last ones stop at the border."""
    pool = LearnedPool(8, 3)
    torch.nn.init.zeros_(pool.point.weight)
    pool.point.bias.data = torch.tensor([0.0, 50.0, 50.0])
    grid = torch.randn(2, 8, 6, 6)
    moved, means = pool(grid), F.adaptive_avg_pool2d(grid, 3)
    torch.testing.assert_close(moved[:, :, :2, :2], means[:, :, 1:, 1:], rtol=1e-4, atol=1e-5)


def test_image_tokens_are_dropped(tiny: Tiny, images: Tensor) -> None:
    out = Model(tiny(), STViT()).eval().run(images)
    assert out.tokens.context is None and out.tokens.prefix == 0


def test_refusals(tiny: Tiny) -> None:
    for backbone, method, reason in (
        (tiny(), STViT(tokens=49), "49 tokens need 7 patches a side"),
        (tiny(), STViT(base=11), "block 12 does not exist"),
        (tiny(class_token=False, global_pool="map"), STViT(), "pools by 'map'"),
    ):
        with pytest.raises(Unsupported, match=reason):
            Model(backbone, method)


def test_a_traced_pass_can_go_on(tiny: Tiny, images: Tensor) -> None:
    """The map belongs to the tokens: taking it away mid-way leaves the features alone."""
    model = Model(tiny(), STViT()).eval()
    with torch.inference_mode():
        step = model.run(images, trace=True).trace[3]
        plain = replace(step, source=None)
        for block in list(model.blocks)[4:]:
            plain = block(plain)
        assert torch.equal(model.backbone.head(plain)[0], model(images))
