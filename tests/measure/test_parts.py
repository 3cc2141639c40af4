"""Parts of a model that names them, under a clock that only moves when one of them runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import tiny_vit
from reducing import model
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.measure import parts

IMAGES = torch.zeros(2, 4)


class Costs(nn.Module):
    """A layer that takes so many seconds at each of its passes, and more in training."""

    now = 0.0

    def __init__(self, *seconds: float, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.seconds, self.inner, self.layer = list(seconds), inner, nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        Costs.now += self.seconds.pop(0) + 1000 * self.training
        if self.inner is not None:
            x = self.inner(x)
            Costs.now += 0.5
        return self.layer(x)


class Whole(nn.Module):
    """Three layers of two names, one inside another, and what is in none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = Costs(900, 3, 1, 2)
        self.backbone = Costs(900, 10, 30, 20, inner=self.heads)
        self.more = Costs(900, 5, 6, 4)
        self.rest = Costs(900, 7, 9, 8)
        self.parts = [("backbone", self.backbone), ("heads", self.heads), ("heads", self.more)]

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.more(self.backbone(x)))


def test_parameters_and_times_are_those_of_each_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "perf_counter", lambda: Costs.now)
    whole = Whole().train()
    assert parts.parameters(whole) == pytest.approx({"backbone": 40 / 1e6, "heads": 20 / 1e6}), "each once"
    found = parts.milliseconds(whole, IMAGES, runs=3)  # after one that warms up
    assert found == pytest.approx({"backbone": 20_500, "heads": 7_000, parts.REST: 8_000})  # heads take 8, 7 and 6
    assert list(found or {}) == ["backbone", "heads", "post-processing"] and whole.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in whole.modules())


def test_six_passes_where_nothing_is_said_and_in_the_precision_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "perf_counter", lambda: Costs.now)
    whole, seen = Whole(), list[torch.dtype]()
    for one in (whole.heads, whole.backbone, whole.more, whole.rest):
        one.seconds = [900.0, 1.0, 2.0, 3.0, 4.0, 9.0]
    whole.rest.layer.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    assert parts.milliseconds(whole, IMAGES, "bf16") == pytest.approx(
        {"backbone": 3500, "heads": 6000, parts.REST: 3000}
    )
    assert seen == [torch.bfloat16] * 6


def test_models_that_name_none_have_none() -> None:
    blocks: Any = model(Backbone(tiny_vit()))
    odd = nn.Linear(4, 4)
    odd.parts = "none"  # type: ignore[assignment]
    for one in (blocks, blocks.blocks[0], odd, nn.Linear(4, 4)):
        assert parts.of(one) == [] and parts.parameters(one) is None and parts.milliseconds(one, IMAGES) is None
