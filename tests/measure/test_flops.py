"""FLOPs: published numbers, closed formulas by block and part, and two counters that must agree."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reducing import Half, Masked, Scored, model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.measure.flops import PARTS, count

P, C = 36, 32  # patches and width of the tiny backbone


def attention(n: int) -> float:
    return (4 * n * C * C + 2 * n * n * C) / 1e9


def mlp(n: int) -> float:
    return 8 * n * C * C / 1e9


@pytest.mark.parametrize(
    ("name", "gmacs", "total"), [("deit_t", 1.254, 1.258), ("deit_s", 4.599, 4.608), ("deit_b", 17.564, 17.583)]
)
def test_plain_backbones(name: str, gmacs: float, total: float) -> None:
    backbone = backbones.create(name)
    flops = count(backbone.vit, backbones.random_images(backbone, 1))
    assert flops.gmacs == pytest.approx(gmacs, abs=0.002)
    assert flops.fvcore_gmacs == pytest.approx(total, abs=0.002)
    assert (flops.by_block, flops.by_part) == ((), {})


def test_plain_model_equals_its_formula(tiny: Callable[..., Backbone], images: Tensor) -> None:
    flops, plain = count(model(tiny()), images), count(tiny().vit, images)
    assert flops.by_block == pytest.approx([attention(P + 1) + mlp(P + 1)] * 12)
    assert flops.by_part == pytest.approx(
        {
            "embed": P * 3 * 64 * C / 1e9,
            "attention": 12 * attention(P + 1),
            "mlp": 12 * mlp(P + 1),
            "selection": 0.0,
            "head": 10 * C / 1e9,
        }
    )
    assert (flops.gmacs, flops.by_operator) == (plain.gmacs, plain.by_operator)
    assert flops.gmacs < flops.fvcore_gmacs < 1.1 * flops.gmacs


def test_reducers_between_and_before(tiny: Callable[..., Backbone], images: Tensor) -> None:
    flops = count(model(tiny(), {3: [Half()], 6: [Scored(C)]}), images)
    full, half, quarter = P + 1, P // 2 + 1, P // 4 + 1
    scored, row = P // 2 * C / 1e9, full * C / 1e9  # the linear layer of 6; the class row of 3
    assert flops.by_block == pytest.approx(
        [
            *[attention(full) + mlp(full)] * 3,
            attention(full) + row + mlp(half),
            *[attention(half) + mlp(half)] * 2,
            scored + attention(quarter) + mlp(quarter),
            *[attention(quarter) + mlp(quarter)] * 5,
        ]
    )
    assert flops.by_part["selection"] == pytest.approx(scored + row)
    assert flops.by_part["attention"] == pytest.approx(
        4 * attention(full) + 2 * attention(half) + 6 * attention(quarter)
    )
    assert flops.by_part["mlp"] == pytest.approx(3 * mlp(full) + 3 * mlp(half) + 6 * mlp(quarter))
    assert tuple(flops.by_part) == PARTS
    assert sum(flops.by_part.values()) == pytest.approx(flops.gmacs)
    assert sum(flops.by_operator.values()) == pytest.approx(flops.gmacs)


def test_per_image_and_the_same_with_and_without_fused_attention(tiny: Callable[..., Backbone], images: Tensor) -> None:
    one, four = count(model(tiny(), {3: [Half()]}), images[:1]), count(model(tiny(), {3: [Half()]}), images)
    assert one.gmacs == pytest.approx(four.gmacs) and one.by_block == pytest.approx(four.by_block)
    assert one.fvcore_gmacs == pytest.approx(four.fvcore_gmacs)
    unfused = tiny()
    for block in unfused.vit.blocks:
        block.attn.fused_attn = False
    assert count(unfused.vit, images).gmacs == pytest.approx(count(tiny().vit, images).gmacs)
    with pytest.raises(UsageError, match="at least one"):
        count(unfused.vit, images[:0])


def test_masked_dropping_is_counted_in_eval_mode_and_modes_come_back(
    tiny: Callable[..., Backbone], images: Tensor
) -> None:
    class Trains(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ x.mT @ x if self.training else x @ x.mT

    trains = Trains().train()
    assert count(trains, images[0]).gmacs == pytest.approx(48 * 48 * 48 / 1e9)
    assert trains.training
    masked = model(tiny(), {0: [Masked()]}).train()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in masked.modules()]
    assert count(masked, images).gmacs == pytest.approx(count(tiny().vit, images).gmacs)
    assert masked.training and masked.blocks[0].training
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in masked.modules()] == hooks


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


W, V = torch.randn(7, 8), torch.randn(8)


@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: x @ x.mT, 5 * 5 * 8),
        (lambda x: W @ x.mT, 7 * 5 * 8),
        (lambda x: x @ V, 5 * 8),
        (lambda x: x[0] @ V, 5 * 8 / 3),
        (lambda x: (V @ V).expand(3), 8 / 3),
        (lambda x: torch.addmv(x[0, :, 0], x[0], V), 5 * 8 / 3),
        (lambda x: torch.bmm(x, x.mT), 5 * 5 * 8),
        (lambda x: torch.baddbmm(x @ x.mT, x, x.mT), 2 * 5 * 5 * 8),
        (lambda x: torch.addmm(x[0, 0], x[0], W.new_ones(8, 8)), 5 * 8 * 8 / 3),
        (lambda x: torch.einsum("bnc,bmc->bnm", x, x), 5 * 5 * 8),
        (lambda x: torch.einsum("bnc,mc->bm", x, W), 7 * 8),
        (lambda x: torch.einsum("...c,mc->...m", x, W), 5 * 7 * 8),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x[:, :2], x[:, :2, :4]), 5 * 2 * 8 + 5 * 2 * 4),
        (lambda x: nn.functional.conv1d(x.mT, W.view(7, 8, 1)), 7 * 5 * 8),
        (lambda x: x.sum(dim=1).softmax(dim=-1), 0),
    ],
)
def test_products_of_every_kind(function: Callable[[Tensor], Tensor], macs: float) -> None:
    assert count(Call(function), torch.randn(3, 5, 8)).gmacs == pytest.approx(macs / 1e9)


def test_looks_into_torch_own_fused_encoder() -> None:
    encoder = nn.TransformerEncoderLayer(C, 2, 4 * C, batch_first=True).eval()
    assert count(encoder, torch.randn(2, 9, C)).gmacs == pytest.approx(attention(9) + mlp(9))
    assert torch.backends.mha.get_fastpath_enabled()


def test_counts_that_differ_are_an_error() -> None:
    with pytest.raises(TokenbenchError, match=r"torch says 5e-08 GMAC and fvcore 4e-08.*aten::tensordot"):
        count(Call(lambda x: torch.tensordot(x @ W.mT[:, :1], x[0, :1, :2], dims=1)), torch.randn(3, 5, 8))


def test_other_modules_with_blocks_have_no_parts(images: Tensor) -> None:
    plain = VisionTransformer(img_size=48, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=10)
    assert count(plain, images).by_part == {}
