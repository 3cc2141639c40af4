"""Recovery in a plain ViT: unit by unit against the equations, costs, maps, refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from conftest import counting
from equations import ffn, mha
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import Unsupported
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model

Tiny = Callable[..., Backbone]


@torch.no_grad()
def by_hand(model: Model, images: Tensor, base: int, unit: int, side: int) -> list[Tensor]:
    """The tokens after every block, line by line."""
    vit, steps = model.vit, []
    x = vit._pos_embed(vit.patch_embed(images))[:, vit.num_prefix_tokens :]
    semantic = x
    for i, block in enumerate(vit.blocks):
        place = (i - base) % unit if i >= base else None
        if place is None:
            x = block(x)
        elif place == 0:
            centres = F.adaptive_max_pool2d(x.transpose(1, 2).reshape(len(x), -1, 6, 6), side)
            centres = centres.flatten(2).transpose(1, 2)
            semantic = ffn(block, centres + mha(block, centres, x)[0])
        elif place == 1:
            learned = [r.centres for r in model.blocks[i].reducers if r.centres is not None]
            asking = semantic + learned[0].weight if learned else semantic
            semantic = ffn(block, asking + mha(block, asking, torch.cat([semantic, x], 1))[0])
        elif place < unit - 1:
            semantic = block(semantic)
        else:
            x = ffn(block, x + mha(block, x, semantic)[0])
        steps.append(x if place is None or place == unit - 1 else semantic)
    return steps


@pytest.mark.parametrize(
    ("knobs", "counts"),
    [
        ({}, [36] * 4 + [9, 9, 9, 36] * 2),
        ({"base": 0, "unit": 6, "tokens": 4}, [4, 4, 4, 4, 4, 36] * 2),
        ({"base": 6, "unit": 3, "use_global": True}, [36] * 6 + [9, 9, 36] * 2),
    ],
)
def test_by_hand(knobs: dict[str, int], counts: list[int], tiny: Tiny, images: Tensor) -> None:
    method = STViTR(**knobs)
    model = Model(tiny(), method).eval()
    with torch.no_grad():
        out = model.run(images, trace=True)
    wanted = by_hand(model, images, knobs.get("base", 4), knobs.get("unit", 4), method.side)
    assert [step.count for step in out.trace] == counts
    for step, want in zip(out.trace, wanted, strict=True):
        torch.testing.assert_close(step.x, want, rtol=1e-4, atol=1e-5)
    logits = model.vit.head(model.vit.norm(wanted[-1]).mean(1))
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-5)


def test_the_last_map_is_whole(tiny: Tiny, images: Tensor) -> None:
    """Features of every patch in their places, for dense tasks; each token stands for its patch again."""
    with torch.inference_mode():
        out = Model(tiny(), STViTR()).eval().run(images, trace=True)
    assert out.features.shape == (4, 36, 32)
    assert out.tokens.layout == (6, 6) and out.tokens.context is None
    assert torch.equal(out.trace[-1].share, torch.eye(36).expand(4, -1, -1))
    assert (out.trace[4].share[:, 0] > 0).all(), "a semantic token looks at all patches"


def test_nothing_but_the_vits_own_weights(tiny: Tiny) -> None:
    backbone = tiny()
    assert sum(p.numel() for p in Model(backbone, STViTR()).parameters()) == sum(
        p.numel() for p in backbone.vit.parameters()
    )
    own = [name for name, _ in Model(tiny(), STViTR(use_global=True)).named_parameters() if name.startswith("blocks.")]
    assert own == ["blocks.5.reducers.0.centres.weight"], "global centres in the first unit only"


def test_any_size(tiny: Tiny) -> None:
    backbone = tiny(dynamic_img_size=True)
    with torch.inference_mode():
        out = Model(backbone, STViTR()).eval().run(torch.randn(1, 3, 64, 96))
    assert out.tokens.layout == (8, 12) and out.tokens.count == 96


@pytest.mark.parametrize(("name", "want"), [("deit_t", 0.751), ("deit_s", 2.791), ("deit_b", 10.740)])
def test_gmacs(name: str, want: float) -> None:
    """By the cost of each block: 196 patches or 36 semantic tokens, and what each attends to."""
    backbone = backbones.create(name)
    c, n, s = backbone.dim, 196, 36

    def cost(queries: int, keys: int) -> float:
        return 10 * queries * c**2 + 2 * keys * c**2 + 2 * queries * keys * c

    unit = cost(s, n) + cost(s, s + n) + cost(s, s) + cost(n, s)
    by_hand = (4 * cost(n, n) + 2 * unit + n * 768 * c + 1000 * c) / 1e9
    with counting() as counter:
        Model(backbones.create(name), STViTR()).eval()(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(by_hand, rel=1e-6) == pytest.approx(want, abs=0.001)


def test_refusals(tiny: Tiny) -> None:
    for options, knobs, reason in (
        ({}, dict(unit=2), "a unit of 2 blocks is too short"),
        ({}, dict(base=3), "12 blocks are not 3 plain ones and then units of 4"),
        ({}, dict(base=12), "12 blocks are not 12 plain ones"),
        ({}, dict(tokens=49), "49 tokens need 7 patches a side"),
        ({}, dict(relative_pos=True), "relative_pos is a knob for Swin"),
        (dict(class_token=False, global_pool="map"), {}, "pools by 'map'"),
    ):
        with pytest.raises(Unsupported, match=reason):
            Model(tiny(**options), STViTR(**knobs))
