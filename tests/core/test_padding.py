"""Images that keep different numbers of tokens: padded and masked, so that each gives what it gives alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_vit
from reducing import Above, Half, Threshold
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.maps import files
from tokenbench.maps.following import follow
from tokenbench.measure.flops import count
from tokenbench.measure.tokens import per_block
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.model import Model
from tokenbench.reports.maps import numbers, overlays, viewer

Tiny = Callable[..., Backbone]


SETTINGS = [Threshold(), Threshold(fuse=True), Threshold(near=0.0), Threshold(prop_attn=False)]
POOLS: dict[str, dict[str, object]] = {
    "token": {},
    "registers": {"reg_tokens": 2},
    "avg": {"global_pool": "avg"},
    "avg, no class token": {"global_pool": "avg", "class_token": False},
    "avg with prefix": {"global_pool": "avg", "reg_tokens": 2, "pool_include_prefix": True},
    "avgmax": {"global_pool": "avgmax"},
    "max": {"global_pool": "max"},
    "map": {"global_pool": "map", "class_token": False},
    "prr": {"global_pool": "prr", "class_token": False},
}


def made(method: Method, **options: object) -> Model:
    return Model(Backbone(tiny_vit(**options), "tiny"), method).eval()


def equal(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", SETTINGS, ids=lambda m: m.label)
@torch.inference_mode()
def test_an_image_alone_equals_itself_in_a_batch(method: Method, pool: str, images: Tensor) -> None:
    model = made(method, **POOLS[pool])
    together = model.run(images, trace=True)
    assert len(set(together.tokens.counts.tolist())) > 1, "the images do differ"
    assert torch.equal(model(images), together.logits)
    for i in range(4):
        alone = model.run(images[i : i + 1], trace=True)
        equal(together.logits[i], alone.logits[0])
        for step, own in zip(together.trace, alone.trace, strict=True):
            n = int(step.counts[i])
            assert own.present is None and own.count == n
            equal(step.x[i, :n], own.x[0])
            assert torch.equal(step.source[i, : n - step.prefix], own.source[0])
            assert not step.source[i, n - step.prefix :].any()
    least = together.trace[-1]
    assert least.count == int(least.counts.max()), "no more padding than the fullest image needs"


@torch.inference_mode()
def test_neutral_setting_equals_dense(images: Tensor) -> None:
    model = made(Threshold(**Threshold.neutral))
    assert torch.equal(model(images), model.vit(images))


@torch.inference_mode()
def test_reducers_of_fixed_counts_after_it(images: Tensor) -> None:
    """Padding has no attention, so it is the last that a ranking takes."""

    class Both(Threshold):
        name = "both"

        def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
            return {2: [Above("before")], 4: [Best()], 6: [Half()]}

    class Best(Reducer):
        def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
            assert attn is not None
            return tokens.keep(attn.class_row().topk(10, dim=1).indices)

    model = made(Both())
    out = model.run(images)
    assert out.trace[2].present is not None and out.trace[4].present is None and out.tokens.count == 6
    equal(out.logits, torch.cat([model(x) for x in images.split(1)]))


@torch.inference_mode()
def test_an_image_that_keeps_nothing(images: Tensor) -> None:
    """Its prefix goes on alone; without prefix its first token does."""
    mask = torch.tensor([[False], [True]]).expand(2, 36)
    tokens = Tokens(torch.randn(2, 37, 4), 1, (6, 6)).traced().keep_where(mask)
    assert tokens.counts.tolist() == [1, 37] and not tokens.source[0].any()
    tokens = Tokens(torch.randn(2, 36, 4), 0, (6, 6)).traced().keep_where(mask)
    assert tokens.counts.tolist() == [1, 36] and tokens.source[0].sum() == tokens.source[0, 0, 0] == 1
    nothing = Tokens(torch.randn(2, 37, 4), 1, (6, 6)).keep_where(torch.zeros(2, 36, dtype=torch.bool))
    assert nothing.count == 1 and nothing.present is None
    for options in ({}, {"global_pool": "avg", "class_token": False}):
        assert made(Threshold(threshold=1e9, near=0.0), **options)(images).isfinite().all()


def test_joined_tokens_are_packed() -> None:
    mask = torch.arange(6) < torch.tensor([[2], [5]])
    tokens = Tokens(torch.arange(14.0).view(2, 7, 1), 1, (2, 3)).traced()
    back = tokens.keep_where(mask).join(tokens.keep_where(~mask))
    assert back.present is None and torch.equal(back.x, tokens.x) and torch.equal(back.source, tokens.source)


@torch.inference_mode()
def test_tokens_are_counted_image_by_image(images: Tensor) -> None:
    model = made(Threshold())
    alone = torch.stack([torch.tensor([float(s.count) for s in model.run(x).trace]) for x in images.split(1)])
    for batches in ([images], images.split(1), images.split(3)):
        got = per_block(model, batches)
        assert got is not None
        assert got.mean == pytest.approx(alone.mean(0).tolist())
        assert got.std == pytest.approx(alone.std(0, correction=0).tolist(), abs=1e-6)


def test_padding_costs_nothing_in_the_count(images: Tensor) -> None:
    """A batch costs what its images cost alone; two counters agree."""
    model = made(Threshold())
    each = [count(model, image) for image in images.split(1)]
    assert len({flops.gmacs for flops in each}) > 1
    together = count(model, images)
    assert together.gmacs == pytest.approx(sum(flops.gmacs for flops in each) / 4)
    assert sum(together.by_part.values()) == pytest.approx(together.gmacs)
    assert sum(together.by_operator.values()) == pytest.approx(together.gmacs)
    assert together.by_block == pytest.approx([sum(f.by_block[i] for f in each) / 4 for i in range(12)])
    assert together.by_part["head"] == each[0].by_part["head"]
    n = [step.count for step in model.run(images[:1]).trace]
    c = 32
    assert each[0].by_block[9] == pytest.approx((12 * n[8] * c * c + 2 * n[8] * n[8] * c) / 1e9)


@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m.fuse else pytest.mark.slow) for m in SETTINGS])
def test_export_and_compile(method: Method, images: Tensor) -> None:
    """Shapes of a graph cannot hang on values: there what is dropped is hidden, which gives the same."""
    model = made(method, global_pool="avg")
    with torch.inference_mode():
        want = model(images)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images[:3]), want[:3], rtol=1e-4, atol=1e-5)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), want, rtol=1e-4, atol=1e-5)


def test_gradients(images: Tensor) -> None:
    """Of a batch they are the sum of those of its images."""
    model = made(Threshold(fuse=True), global_pool="avgmax")
    model(images).square().sum().backward()
    together = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    sum(model(x).square().sum() for x in images.split(1)).backward()
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(together) == len(alone) > 100
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_maps_have_each_images_own_counts(images: Tensor, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = Backbone(tiny_vit(), "tiny")
    method = Threshold()
    with torch.inference_mode():
        own = np.array([[step.count for step in Model(backbone, method).eval().run(x).trace] for x in images.split(1)])
    whole = follow(method, backbone, images, "abcd")
    monkeypatch.setattr("tokenbench.maps.following.CELLS", 3 * 36**2)  # in passes of three images, padded differently
    for maps in (whole, follow(method, backbone, images, "abcd")):
        assert [[maps.tokens(i, block) for block in range(12)] for i in range(4)] == own.tolist()
        assert maps.counts == tuple(own.max(0))
        for block in range(12):
            assert np.array_equal(maps.kept(block), whole.kept(block))
            assert (maps.sizes(block)[0].sum() if len(maps.sizes(block)[0]) else 0) <= 36
            assert (maps.weights[block].any(2).sum(1) <= own[:, block] - 1).all()
    assert overlays.reducing([whole]) == [whole]
    table = numbers.numbers([whole])
    assert table["tokens"].tolist() == own.T.ravel().tolist()
    assert numbers.summary([whole])["tokens"].tolist() == [f"{own[:, -1].mean():.1f}"]
    for i in range(4):
        np.savez(tmp_path / f"{i}.npz", **files.arrays([whole], i))
        assert np.load(tmp_path / f"{i}.npz")["threshold/tokens"].tolist() == own[i].tolist()
    (back,) = files.load(tmp_path)
    assert back.counts == whole.counts and np.array_equal(back.each, whole.each)
    assert all(np.array_equal(a, b) for a, b in zip(back.weights, whole.weights, strict=True))
    assert [picture["maps"][0]["tokens"] for picture in viewer.payload([whole])["images"]] == own.tolist()


def test_dense_has_one_count(images: Tensor) -> None:
    maps = follow(get("dense")(), Backbone(tiny_vit(), "tiny"), images, "abcd")
    assert maps.each is None and maps.tokens(2, 5) == 37


def test_masks_of_training_and_padding(images: Tensor) -> None:
    tokens = Tokens(torch.randn(2, 7, 4), 1, (2, 3)).keep_where(torch.arange(6) < torch.tensor([[3], [5]]))
    masked = replace(tokens, x=tokens.x).mask(torch.tensor([[1.0, 0, 1, 1, 1], [1, 1, 0, 0, 1]]))
    assert masked.counts.tolist() == [3, 4]
