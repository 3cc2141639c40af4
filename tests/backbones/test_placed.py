"""Blocks that read where tokens lie: timm's models bit for bit, and dropped tokens as if they were masked keys."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import tiny_beit, tiny_eva
from reducing import Threshold
from reducing import model as reduced
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported
from tokenbench.methods.dense import Dense
from tokenbench.methods.evit import EViT
from tokenbench.methods.tome import ToMe
from tokenbench.methods.topk import TopK
from tokenbench.model import Model

NAMES = {
    "eva02_tiny_patch14_224": 56,
    "eva02_base_patch14_448": 56,
    "eva_giant_patch14_224": 56,
    "vit_small_patch16_dinov3": 64,
    "vit_small_plus_patch16_dinov3": 64,
    "vit_small_patch16_rope_224": 64,
    "vit_small_patch16_rope_ape_224": 64,
    "vit_base_patch16_rope_reg1_gap_256": 64,
    "beit_base_patch16_224": 64,
    "beitv2_base_patch16_224": 64,
}


class Some(Reducer):
    """Keep these tokens, in this order."""

    def __init__(self, where: str, index: Tensor) -> None:
        super().__init__()
        self.where, self.index = where, index  # type: ignore[misc]

    def forward(self, tokens: Tokens, attn: Any) -> Tokens:
        return tokens.keep(self.index)


@pytest.mark.parametrize("name", NAMES)
def test_timm(name: str) -> None:
    """Called whole, and by its parts."""
    torch.manual_seed(0)
    vit = timm.create_model(name, img_size=NAMES[name], depth=2, num_classes=7).eval()
    backbone, images = Backbone(vit, name), torch.randn(2, 3, NAMES[name], NAMES[name])
    with torch.inference_mode():
        want = vit(images)
        assert torch.equal(Model(backbone, Dense()).eval()(images), want)
        if backbone.has_class_token:
            assert torch.equal(Model(backbone, TopK(keep_rate=1.0, blocks=(0, 1))).eval()(images), want)


@pytest.mark.parametrize("make", [tiny_eva, tiny_beit])
@pytest.mark.parametrize("where", ["before", "after"])
def test_dropped_tokens_are_masked_keys(make: Any, where: str) -> None:
    """What a token's angles or bias are, it takes along: the others might as well be there, and not be seen."""
    backbone = Backbone(make(), "tiny")
    vit = backbone.vit
    for block in vit.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)  # so that attention matters
    index = torch.randperm(36, generator=torch.Generator().manual_seed(3))[:20]
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    own = reduced(backbone, {4: [Some(where, index)]})
    with torch.inference_mode():
        ours = own.run(images).trace[-1].x
        step = Model(backbone, Dense()).eval().run(images).trace[3 if where == "before" else 4]
        kept = torch.cat([torch.arange(backbone.prefix), backbone.prefix + index])
        seen = torch.zeros(step.count, dtype=torch.bool)
        seen[kept] = True
        x = step.x
        for block in vit.blocks[4 if where == "before" else 5 :]:
            x = _masked(block, x, seen, vit, images)
    assert torch.allclose(ours, x[:, kept], atol=2e-5)


def _masked(block: Any, x: Tensor, seen: Tensor, vit: Any, images: Tensor) -> Tensor:
    """A timm block, of whose keys some are not seen."""
    hidden = torch.zeros(len(seen)).masked_fill(~seen, float("-inf"))
    if hasattr(vit, "rope"):
        return block(x, rope=vit.rope.get_embed(), attn_mask=hidden.expand(1, 1, len(seen), -1))
    return block(x, shared_rel_pos_bias=hidden)


@pytest.mark.parametrize("make", [tiny_eva, tiny_beit])
def test_counts_of_each_image(make: Any) -> None:
    """Padded images give what each gives alone."""
    model = Model(Backbone(make(), "tiny"), Threshold(near=0.0, prop_attn=False)).eval()
    images = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        whole = model.run(images, trace=True)
        assert whole.trace[2].present is not None
        assert torch.allclose(whole.logits[1:2], model(images[1:2]), atol=1e-5)


@pytest.mark.parametrize("make", [tiny_eva, tiny_beit])
@pytest.mark.parametrize("method", [ToMe(r=2), EViT()])
def test_merging_is_refused(make: Any, method: Any) -> None:
    with pytest.raises(Unsupported, match="no published work says where a merged one does"):
        Model(Backbone(make(), "tiny"), method)


def test_merging_within_a_method_is_refused() -> None:
    """Where a method does not say that it merges, its verbs do."""
    backbone = Backbone(tiny_eva(), "tiny")
    tokens = backbone.embed(torch.zeros(1, 3, 48, 48))
    with pytest.raises(Unsupported, match="cannot be merged"):
        tokens.group(torch.zeros(1, 36, dtype=torch.long), 1)
    with pytest.raises(Unsupported, match="cannot be merged"):
        tokens.keep(torch.arange(20), fuse=F.relu(tokens.patches[..., 0]))


def test_refused() -> None:
    """What cannot be served, and why."""
    mixed = timm.create_model("vit_small_patch16_rope_mixed_224", img_size=64, depth=2)
    with pytest.raises(Unsupported, match="in every block and head"):
        Backbone(mixed, "mixed")
