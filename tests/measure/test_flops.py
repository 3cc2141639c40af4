"""FLOPs: published numbers, closed formulas by block and part, and two counters that must agree."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from reducing import Half, Masked, Scored, Threshold, model
from refusals import refused
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.measure import flops
from tokenbench.measure.flops import PARTS, count, over
from tokenbench.model import Model

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
    with refused(UsageError, "No image was given to count with; give a batch of at least one."):
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


ONCE = "GMACs counted once, not twice"


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.held = nn.ModuleList([LSTM, TWO_WAYS, CELL, GRU, RNN, BILINEAR])  # since a trace takes no loose parameters

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


W, V = torch.randn(7, 8), torch.randn(8)
SPARSE = torch.eye(5).index_fill(0, torch.tensor([1, 2]), 0.0)  # three elements are not 0
LSTM, TWO_WAYS, CELL = nn.LSTM(8, 6), nn.LSTM(8, 6, 2, bidirectional=True, proj_size=3), nn.LSTMCell(8, 6)
LEFT_TO_RIGHT = 5 * 7 * 8 + 5 * 7 if torch.backends.opt_einsum.get_opt_einsum() is None else 7 * 8 / 3 + 5 * 8
GRU, RNN, BILINEAR = nn.GRU(8, 6), nn.RNN(8, 6), nn.Bilinear(8, 8, 4)


def packed(x: Tensor) -> Tensor:
    return LSTM(nn.utils.rnn.pack_padded_sequence(x, [5, 3, 2], batch_first=True))[0].data


@pytest.mark.filterwarnings("ignore:LSTM with projections")
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
        (lambda x: torch.mm(x[0], W.mT), 5 * 7 * 8 / 3),
        (lambda x: torch.baddbmm(x @ x.mT, x, x.mT), 2 * 5 * 5 * 8),
        (lambda x: torch.addmm(x[0, 0], x[0], W.new_ones(8, 8)), 5 * 8 * 8 / 3),
        (lambda x: torch.einsum("bnc,bmc->bnm", x, x), 5 * 5 * 8),
        (lambda x: torch.einsum("bnc,mc->bm", x, W), 7 * 8),
        (lambda x: torch.einsum("b n c, m c -> b m", x, W), 7 * 8),
        (lambda x: torch.einsum("bnc,mc", x, W), 5 * 7 * 8),
        (lambda x: torch.einsum("bnc,mc,m->bn", x, W, W[:, 0]), LEFT_TO_RIGHT),
        (lambda x: torch.einsum("bnc->nb", x), 0),
        (lambda x: torch.einsum("...c,mc->...m", x, W), 5 * 7 * 8),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x[:, :2], x[:, :2, :4]), 5 * 2 * 8 + 5 * 2 * 4),
        (lambda x: nn.functional.conv1d(x.mT, W.view(7, 8, 1)), 7 * 5 * 8),
        (lambda x: x.sum(dim=1).softmax(dim=-1), 0),
        (lambda x: torch.cdist(x, x[:, :4]), 5 * 4 * 8),
        (lambda x: torch.cdist(x, x[:, :4], p=1), 5 * 4 * 8),
        (lambda x: torch.cdist(x.repeat(1, 6, 1), x), 30 * 5 * 8),  # from 26 rows on torch takes another way
        (lambda x: torch.pdist(x[0]), 10 * 8 / 3),
        (lambda x: torch.addbmm(x[0, :, :5], x, x.mT), 5 * 5 * 8),
        (lambda x: torch.vdot(x[0, 0], x[0, 1]).expand(3), 8 / 3),
        (lambda x: torch.inner(x, W), 5 * 7 * 8),
        (lambda x: torch.tensordot(x, x, dims=([2], [2])), 3 * 5 * 5 * 8),
        (lambda x: torch.linalg.multi_dot([x[0], x[0].mT, x[0]]), 2 * 5 * 5 * 8 / 3),
        (lambda x: torch.matrix_power(x @ x.mT, 3), 5 * 5 * 8 + 2 * 5 * 5 * 5),
        (lambda x: torch.conv_tbc(x, W.view(1, 7, 8).mT, W[:, 0]), 5 * 7 * 8),
        (lambda x: nn.functional.conv_transpose1d(x.mT, W.mT[..., None]), 5 * 7 * 8),
        (lambda x: BILINEAR(x, x), 5 * 4 * 8 * 8),
        (lambda x: LSTM(x)[0], 5 * 4 * 6 * (8 + 6)),
        (lambda x: GRU(x)[0], 5 * 3 * 6 * (8 + 6)),
        (lambda x: RNN(x)[0], 5 * 6 * (8 + 6)),
        (lambda x: CELL(x[0])[0], 5 * 4 * 6 * (8 + 6) / 3),
        (lambda x: TWO_WAYS(x)[0], 5 * 2 * (24 * (8 + 3) + 3 * 6 + 24 * (6 + 3) + 3 * 6)),
    ],
)
def test_products_of_every_kind(function: Callable[[Tensor], Tensor], macs: float) -> None:
    found = count(Call(function), torch.randn(3, 5, 8))
    assert found.gmacs == pytest.approx(macs / 1e9)
    assert found.fvcore_gmacs is not None and found.notes == ()


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    ("function", "macs"),
    [
        (lambda x: SPARSE.to_sparse() @ x[0], 3 * 8 / 3),
        (lambda x: SPARSE.to_sparse_csr() @ x[0], 3 * 8 / 3),
        (lambda x: x[0].mT @ SPARSE.to_sparse(), 3 * 8 / 3),
        (lambda x: torch.sparse.mm(SPARSE.to_sparse(), x[0]), 3 * 8 / 3),
        (lambda x: torch.sparse.addmm(x[0], SPARSE.to_sparse(), x[0]), 3 * 8 / 3),
        (lambda x: torch.bmm(SPARSE.expand(3, 5, 5).to_sparse(), x), 3 * 8),
        (lambda x: torch.sparse.mm(SPARSE.to_sparse(), SPARSE.to_sparse()).to_dense() + x[0, 0, 0], 3 / 3),
    ],
)
def test_sparse_products_cost_what_is_not_0(function: Callable[[Tensor], Tensor], macs: float) -> None:
    found = count(Call(function), torch.randn(3, 5, 8))
    assert found.gmacs == pytest.approx(macs / 1e9)
    why = "a trace does not say how many elements of a sparse matrix are 0"
    assert found.fvcore_gmacs is None and found.notes == (f"{ONCE}: {why}",)


def test_what_nobody_counts_is_named() -> None:
    x = torch.randn(3, 5, 8)

    def waves(x: Tensor) -> Tensor:
        found = torch.fft.rfft(x)
        return found.abs() + torch.fft.fft(found[0, 0]).abs()

    found = count(Call(waves), x)
    # elements taken and given: 120 and 75, 75 and 75; 5 and 5, 5 and 5; by the sum 75, 5 and 75
    assert found.uncounted == pytest.approx({"_fft_r2c": 195 / 520, "_fft_c2c": 10 / 520}) and found.gmacs == 0
    assert list(found.uncounted) == ["_fft_r2c", "_fft_c2c"], "the largest first"
    (note,) = found.notes
    shares = [f"{name} ({100 * share:.0f} % of elements)" for name, share in found.uncounted.items()]
    assert note == f"GMACs leave out {', '.join(shares)}"
    small = count(Call(lambda x: x.repeat(1, 100, 1) + torch.fft.rfft(x[0, 0])[:1].abs()), x)
    assert list(small.uncounted) == ["_fft_r2c"] and small.uncounted["_fft_r2c"] < 0.01 and small.notes == ()


def test_custom_operators() -> None:
    """Named however little they touch, until they are given a formula, which serves both counters."""

    @torch.library.custom_op("tokenbench_tests::hidden", mutates_args=())
    def hidden(x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    @hidden.register_fake
    def _(x: Tensor, y: Tensor) -> Tensor:
        return x.new_empty(*x.shape[:-1], y.shape[-1])

    x, call = torch.randn(3, 5, 8), Call(lambda x: x.repeat(1, 99, 1)[:, :5] + hidden(x[0, :1], W.mT[:, :1]))
    before = count(call, x)
    assert before.gmacs == 0
    assert before.notes == ("GMACs leave out tokenbench_tests::hidden (under 1 % of elements)",)
    op = torch.ops.tokenbench_tests.hidden
    try:
        register_flop_formula(op)(lambda a, b, *_, **__: 2 * a[0] * a[1] * b[1])
        after = count(call, x)
    finally:
        flop_registry.pop(op, None)
    assert after.gmacs == pytest.approx(8 / 3e9) and after.fvcore_gmacs is not None and after.notes == ()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_compiled_and_scripted_modules(tiny: Callable[..., Backbone], images: Tensor) -> None:
    vit = tiny(depth=1).vit
    plain = count(vit, images)
    assert count(torch.compile(vit), images) == plain
    inside = tiny(depth=1).vit
    inside.blocks[0].compile()
    assert count(inside, images).gmacs == plain.gmacs
    traced = torch.jit.trace(nn.Flatten(), images)
    for scripted in (traced, nn.Sequential(traced)):
        said = "has modules of TorchScript, whose operators cannot be counted; give the module it was made from."
        with refused(UsageError, f"{type(scripted).__name__} {said}"):
            count(scripted, images)


def test_attention_pooling(tiny: Callable[..., Backbone], images: Tensor) -> None:
    pooled = tiny(global_pool="map", class_token=False)
    query, keys, out = C * C / 1e9, 2 * P * C * C / 1e9, (C * C + 8 * C * C) / 1e9
    found = count(model(pooled), images)
    head = query + keys + 2 * P * C / 1e9 + out + 10 * C / 1e9  # the query is a parameter, and the same for all images
    assert found.by_part["head"] == pytest.approx(head)
    assert all(parameter.requires_grad for parameter in pooled.vit.parameters())
    pooled.vit.patch_embed.requires_grad_(False)
    count(pooled.vit, images)
    frozen = [name for name, parameter in pooled.vit.named_parameters() if not parameter.requires_grad]
    assert frozen and all(name.startswith("patch_embed.") for name in frozen)


class Bright(nn.Module):
    """Multiplies as many rows as are brighter than 0."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return x[:, x.mean(dim=(0, 2)) > 0] @ W.mT


def bright(*rows: int) -> Tensor:
    return torch.stack([torch.where(torch.arange(5) < n, 1.0, -1.0)[:, None].expand(5, 8) for n in rows])


def test_counts_that_depend_on_the_image() -> None:
    found = over(Bright(), bright(1, 2, 1, 4))
    row = 7 * 8 / 1e9
    assert found.gmacs == pytest.approx(2 * row) and found.gmacs_std == pytest.approx(1.5**0.5 * row)
    assert sum(found.by_operator.values()) == pytest.approx(2 * row)
    assert found.images == 4 and found.fvcore_gmacs == pytest.approx(2 * row)


def test_images_that_keep_different_numbers_are_counted_one_by_one(tiny: Callable[..., Backbone]) -> None:
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    reduced = Model(tiny(depth=6), Threshold(near=0.0)).eval()
    one, other = (count(reduced, image) for image in images.split(1))
    both = count(reduced, images)
    assert one.gmacs != other.gmacs and both.images == 2
    assert both.gmacs == pytest.approx((one.gmacs + other.gmacs) / 2)
    assert both.gmacs_std == pytest.approx(abs(one.gmacs - other.gmacs) / 2)
    assert both.by_block == pytest.approx([(a + b) / 2 for a, b in zip(one.by_block, other.by_block, strict=True)])
    assert both.by_part == pytest.approx({part: (one.by_part[part] + other.by_part[part]) / 2 for part in PARTS})


class Odd(nn.Module):
    """As `Bright`, and what it cannot be asked twice for and what nobody counts, of images whose first row is dark."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, x.mean(dim=(0, 2)) > 0]
        if x[0, 0, 0] < 0:
            return SPARSE.to_sparse() @ x[0] + torch.fft.rfft(x[0, 0, :1]).abs()
        return torch.bmm(rows, W.mT[None])


class Folded(nn.Module):
    """Multiplies by two matrices, or in its cheaper form by the product of both."""

    published = False

    def forward(self, x: Tensor) -> Tensor:
        rows = x[:, x.mean(dim=(0, 2)) > 0]
        return rows @ W.mT @ W[:, :2] if self.published else rows @ (W.mT @ W[:, :2])


def test_of_several_images_everything_is_the_mean() -> None:
    row, dark = 7 * 8 / 1e9, -bright(5)
    some = over(Odd(), torch.cat([bright(3), bright(1), dark]))
    alone = count(Odd(), dark)
    assert alone.gmacs == pytest.approx(3 * 8 / 1e9) and list(alone.uncounted) == ["_fft_r2c"]
    assert (some.images, some.fvcore_gmacs, some.unchecked, some.cheaper) == (3, None, alone.unchecked, None)
    assert some.unchecked is not None and some.by_operator.keys() == {"bmm", "mm"}
    assert some.by_operator == pytest.approx({"bmm": 4 * row / 3, "mm": alone.gmacs / 3})
    assert some.uncounted == pytest.approx({"_fft_r2c": alone.uncounted["_fft_r2c"] / 3})
    assert some.gmacs == pytest.approx(sum(some.by_operator.values()))


def test_of_modules_with_a_cheaper_form_the_published_one_is_counted_and_both_are_told() -> None:
    published, folded = 7 * 8 + 7 * 2, 8 * 2  # of each row
    product = 8 * 7 * 2
    model, images = Folded(), bright(5, 4)
    one = count(model, images[:1])
    runs = (5 * folded + product) / 1e9
    assert (one.gmacs, one.cheaper, model.published) == (pytest.approx(5 * published / 1e9), pytest.approx(runs), False)
    assert one.notes == (f"runs in a form of {runs:.4g} GMAC with the same outputs",)
    assert flops.gmacs(model, images[:1]) == one.gmacs and flops.gmacs(model, images[:1], False) == one.cheaper
    several = over(model, images)
    assert several.gmacs == pytest.approx(4.5 * published / 1e9) and several.images == 2
    assert several.cheaper == pytest.approx((4.5 * folded + product) / 1e9)
    few = over(model, torch.cat([images, bright(1)]))  # of a single row the published form is the cheaper one
    assert few.cheaper == pytest.approx((runs + (4 * folded + product + published) / 1e9) / 3)


def test_a_batch_that_is_not_padded_is_counted_at_once(tiny: Callable[..., Backbone], images: Tensor) -> None:
    whole, sizes = model(tiny(depth=1)), list[int]()
    whole.vit.patch_embed.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    count(whole, images)
    assert set(sizes) == {len(images)}


def test_counting_says_nothing_and_what_a_model_warns_of_is_heard(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def warns(x: Tensor) -> Tensor:
        warnings.warn("mine", UserWarning, stacklevel=1)
        return torch.cdist(x, x) + torch.fft.rfft(x[0, 0, :1]).abs()

    with pytest.warns(UserWarning, match="^mine$"):
        count(Call(warns), torch.randn(3, 5, 8))
    assert tuple(capfd.readouterr()) == ("", "") and not caplog.records


class Detector(nn.Module):
    """Names two parts of three modules, one of them inside another, and multiplies once outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.more, self.rest = nn.Linear(8, 3, False), nn.Linear(8, 4, False), nn.Linear(4, 5, False)
        self.outer = nn.Sequential(nn.Linear(8, 8, False), self.inner)
        self.parts = [("backbone", self.outer), ("heads", self.inner), ("heads", self.more)]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.more(x)) + self.outer(x).sum()


def test_named_parts_have_what_they_multiply_themselves() -> None:
    found = count(Detector(), torch.randn(2, 5, 8))
    told = {"backbone": 5 * 8 * 8, "heads": 5 * 8 * 3 + 5 * 8 * 4, "post-processing": 5 * 4 * 5}
    assert found.by_part == pytest.approx({name: macs / 1e9 for name, macs in told.items()})
    assert list(found.by_part) == list(told) and found.by_block == ()
    assert (found.by_operator, found.gmacs_std, found.images) == ({"mm": found.gmacs}, 0.0, 1)


def test_counts_that_do_not_depend_on_the_image_cost_two_passes_more() -> None:
    once, steady = Bright(), Bright()
    alone = count(once, bright(3))
    found = over(steady, bright(3, 3, 3, *[3] * 29))
    assert (found, found.images, found.gmacs_std) == (alone, 1, 0.0)
    assert steady.passes == once.passes + 2


def test_looks_into_torch_own_fused_encoder() -> None:
    encoder = nn.TransformerEncoderLayer(C, 2, 4 * C, batch_first=True).eval()
    assert count(encoder, torch.randn(2, 9, C)).gmacs == pytest.approx(attention(9) + mlp(9))
    assert torch.backends.mha.get_fastpath_enabled()


def test_counts_that_differ_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one of the counters were wrong; by 0.5 % of the larger they may. A model is traced twice at most."""
    traces: list[object] = []
    traced = flops._by_fvcore
    monkeypatch.setattr(flops, "_by_fvcore", lambda *given: traces.append(given) or traced(*given))
    for share in (0.9951, 1.0049):
        monkeypatch.setattr(flops, "_matmul", lambda left, out, share=share: share * left[-1] * math.prod(out))
        found = count(Call(lambda x: x @ x.mT), torch.randn(3, 5, 8))
        assert (found.gmacs, found.fvcore_gmacs) == (2e-7, pytest.approx(2e-7 * share))
    assert len(traces) == 2
    for share in (0.9949, 1.0051):
        monkeypatch.setattr(flops, "_matmul", lambda left, out, share=share: share * left[-1] * math.prod(out))
        with pytest.raises(TokenbenchError, match="Two counts of Call differ"):
            count(Call(lambda x: x @ x.mT), torch.randn(3, 5, 8))
    assert len(traces) == 2 + 4
    monkeypatch.setattr(flops, "_matmul", lambda left, out: 0.8 * left[-1] * math.prod(out))
    said = "Two counts of Call differ: torch says 2e-07 GMAC and fvcore 1.6e-07; give a custom operator its formula by"
    with refused(TokenbenchError, f"{said} torch.utils.flop_counter.register_flop_formula."):
        count(Call(lambda x: x @ x.mT), torch.randn(3, 5, 8))


def test_what_fvcore_does_not_know_is_counted_once() -> None:
    found = count(Call(packed), torch.randn(3, 5, 8))
    assert found.gmacs == pytest.approx(10 * 24 * (8 + 6) / 3e9)
    assert found.fvcore_gmacs is None
    assert found.notes == (f"{ONCE}: fvcore does not know aten::_pack_padded_sequence, aten::lstm",)
    loose = torch.randn(8, 8, requires_grad=True)
    found = count(Call(lambda x: x @ loose), torch.randn(3, 5, 8))
    assert found.gmacs == pytest.approx(5 * 8 * 8 / 1e9)
    assert found.notes[0].startswith(f"{ONCE}: it cannot be traced (Cannot insert a Tensor")


def test_a_trace_that_fails_leaves_no_hook_behind() -> None:
    """The blocks are other models' too, which would be refused for it."""
    shared, loose = nn.Linear(8, 8), torch.randn(8, 8, requires_grad=True)

    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = shared

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) @ loose

    kept = shared.register_forward_hook(lambda *_: None)
    assert count(Untraceable(), torch.randn(3, 5, 8)).fvcore_gmacs is None
    assert list(shared._forward_hooks) == [kept.id] and not shared._forward_pre_hooks


def test_other_modules_with_blocks_have_no_parts(images: Tensor) -> None:
    plain = VisionTransformer(img_size=48, patch_size=8, embed_dim=32, depth=1, num_heads=2, num_classes=10)
    assert count(plain, images).by_part == {}
