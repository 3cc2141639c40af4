"""Memory: parameters once, and the peak of live tensors by hand-counted cases."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from reducing import Half, Scored, model
from refusals import refused
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.measure import memory
from tokenbench.measure.memory import parameters, peak
from tokenbench.measure.running import OutOfMemory
from tokenbench.methods import get
from tokenbench.methods.stvit_r.blocks import Semantic
from tokenbench.model import Model

X = torch.randn(1, 1000)


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def chain(x: Tensor) -> Tensor:
    for _ in range(5):
        x = x * 2
    return x


def kept(x: Tensor) -> Tensor:
    steps = [x * i for i in range(5)]
    return steps[0]


def passing(x: Tensor) -> Tensor:
    (x.new_zeros(1, 7000) + 1).sum()
    return x * 2


@pytest.mark.parametrize(
    ("module", "floats"),
    [
        (Call(lambda x: x), 0),
        (Call(lambda x: x[:, :10].view(10, 1).mT), 0),
        (Call(lambda x: x.mul_(1)), 0),
        (Call(lambda x: x * 2), 1000),
        (Call(chain), 2000),
        (Call(kept), 5000),
        (Call(passing), 14_000),
        (Call(lambda x: (x + x).chunk(2, dim=1)[0]), 1000),
        (nn.Sequential(nn.Linear(1000, 2000), nn.GELU(), nn.Linear(2000, 10)), 4000),
        (nn.BatchNorm1d(1000), 1000),
    ],
)
def test_peak_by_hand(module: nn.Module, floats: int) -> None:
    assert peak(module, X.clone()) == pytest.approx(4 * floats, abs=32)  # a sum is one float more


class Held(nn.Module):
    """Gives what it holds, a parameter and a buffer, as views."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.zeros(1000)), nn.Buffer(torch.zeros(1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight.view(1, 1000)[:, :10] * self.table.view(1, 1000)[:, :10]


def test_what_was_there_before_is_left_out_to_the_byte() -> None:
    assert peak(Held(), X) == 4 * 10
    assert peak(Call(lambda x: x[:, :1].view(1)), X) == 0


def test_on_a_gpu_it_is_the_rise_over_what_was_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, played: what is asked of it, in order."""
    device, asked = torch.device("cuda", 1), list[object]()

    def cuda(name: str, told: int | None = None) -> None:
        monkeypatch.setattr(torch.cuda, name, lambda where: asked.append((name, where)) or told)

    cuda("synchronize")
    cuda("memory_allocated", 700)
    cuda("reset_peak_memory_stats")
    cuda("max_memory_allocated", 1000)
    monkeypatch.setattr(memory, "forward", lambda *given: asked.append(given))
    model, images = nn.Identity().train(), SimpleNamespace(device=device)
    assert peak(model, images, "bf16") == 300 and model.training  # type: ignore[arg-type]
    run = (model, images, "bf16")
    before = [("synchronize", device), ("memory_allocated", device), ("reset_peak_memory_stats", device)]
    assert asked == [run, *before, run, ("max_memory_allocated", device)]


def test_weights_cast_by_autocast_count() -> None:
    assert peak(nn.Linear(1000, 50), X, "bf16") == 2 * (1000 + 50_000 + 50 + 50)


def test_grows_with_the_batch_and_falls_with_the_tokens(tiny: Callable[..., Backbone], images: Tensor) -> None:
    dense = peak(model(tiny()), images)
    assert peak(model(tiny()), images[:1]) == pytest.approx(dense / 4, rel=0.01)
    assert peak(model(tiny(), {0: [Scored(32)]}), images) < 0.75 * dense
    assert peak(model(tiny(), {11: [Half()]}), images) == dense
    tiny_width, tokens = 32, 37  # at the peak: a block's input, its sum with attention, its norm, and 4 + 4 in the MLP
    assert dense == pytest.approx(images.shape[0] * 4 * tiny_width * tokens * 11, rel=0.01)


class Row(Reducer):
    """Asks for the class row, or for all of attention, and changes nothing."""

    def __init__(self, matrix: bool) -> None:
        super().__init__()
        self.matrix = matrix  # type: ignore[misc]

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        assert attn is not None
        attn.class_row()
        return tokens


@pytest.mark.parametrize("matrix", [False, True])
def test_attention_is_let_go_before_the_mlp(matrix: bool, tiny: Callable[..., Backbone], images: Tensor) -> None:
    """Queries, keys and values are a view of one large tensor, which must not live on beside the MLP's."""
    dense = peak(model(tiny()), images)
    assert peak(model(tiny(), {i: [Row(matrix)] for i in range(12)}), images) == dense


@pytest.mark.parametrize(("name", "knobs", "most"), [("evit", {"keep_rate": 0.9}, 1.0), ("tome", {"r": 8}, 0.92)])
def test_methods_that_reduce_inside_a_block(
    name: str, knobs: dict[str, float], most: float, tiny: Callable[..., Backbone], images: Tensor
) -> None:
    dense = peak(model(tiny()), images)
    assert peak(Model(tiny(), get(name)(**knobs)).eval(), images) <= most * dense


def test_blocks_that_a_method_brings_let_it_go_too() -> None:
    class First(Semantic):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[0]

    x = torch.randn(1, 50, 64)
    # at the peak: what was found, its sum with the input, its norm, and 4 + 4 in the MLP
    assert peak(First(64, 2, 256), x) == pytest.approx(4 * 11 * x.numel(), rel=0.01)


def test_eval_mode_and_no_memory() -> None:
    assert peak(nn.Dropout().train(), X) == 0
    with refused(OutOfMemory, "Call ran out of memory on cpu at batch 1, use a smaller batch."):
        peak(Call(lambda x: torch.empty(1 << 50)), X)


def test_parameters_once(tiny: Callable[..., Backbone]) -> None:
    shared = nn.Linear(3, 4)
    assert parameters(nn.Sequential(shared, nn.Linear(4, 3), shared)) == 16 + 15
    assert parameters(nn.BatchNorm1d(5)) == 10
    assert parameters(model(tiny())) == parameters(tiny().vit)
    assert parameters(model(tiny(), {6: [Scored(32)]})) == parameters(tiny().vit) + 33


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu() -> None:
    big = torch.randn(1, 1 << 20, device="cuda")
    assert peak(Call(chain), big) == 2 * 4 << 20
