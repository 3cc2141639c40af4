"""Which parameters decay and how the rate falls in the recipes of dense tasks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from conftest import tiny_swin

from tokenbench.backbones import Backbone
from tokenbench.heads.detector import Design, Detector
from tokenbench.heads.recipes import DETECTION, SEGMENTATION
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model
from tokenbench.pyramid import Pyramid
from tokenbench.training.optim import Schedule, optimizer


def detector() -> Detector:
    body = Pyramid(Model(Backbone(tiny_swin()), STViTR()))
    return Detector(body, 2, Design(width=8, fc=8, box_convs=1, mask_convs=1))


def names_without_decay(model: Detector, made: torch.optim.Optimizer) -> set[str]:
    spared = {id(p) for group in made.param_groups if not group["weight_decay"] for p in group["params"]}
    assert sum(len(group["params"]) for group in made.param_groups) == len(list(model.parameters()))
    return {name for name, parameter in model.named_parameters() if id(parameter) in spared}


def test_what_decays_in_the_published_recipe() -> None:
    """Norms and relative positions do not; biases, LayerScale and the stem's BatchNorm do."""
    model = detector()
    spared = names_without_decay(model, optimizer(model, DETECTION["3x"]))
    assert {"body.norm0.weight", "body.layers.0.blocks.0.norm1.bias"} <= spared
    assert any(name.endswith("relative_position_bias_table") for name in spared)
    kept = {name for name, _ in model.named_parameters()} - spared
    assert any("layer_scale_1" in name for name in kept) and any("proj.0.bn.weight" in name for name in kept)
    assert "rpn.head.cls_logits.bias" in kept


def test_what_decays_in_the_short_recipe() -> None:
    """Matrices but for tables."""
    model = detector()
    spared = names_without_decay(model, optimizer(model, DETECTION["mini"]))
    for name, parameter in model.named_parameters():
        assert (name in spared) == (parameter.ndim < 2 or name.endswith("bias_table")), name


def rates(recipe: object, updates: int, at: Sequence[int], total: int) -> list[float]:
    model = detector()
    schedule = Schedule(optimizer(model, recipe), recipe, updates, total)  # type: ignore[arg-type]
    return [schedule.set(update) for update in at]


def test_three_times() -> None:
    """Up over 500 updates, a tenth after 27 epochs, and of that a tenth after 33."""
    recipe = DETECTION["3x"]
    at = [0, 250, 500, 26_998, 27_000, 32_998, 33_000]
    wanted = [1e-7, 5e-5, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6]
    assert rates(recipe, 1000, at, 36_000) == pytest.approx(wanted, rel=0.01)


def test_a_straight_line() -> None:
    recipe = SEGMENTATION["160k"]
    at = [0, 1500, 80_000, 159_999]
    assert rates(recipe, 1000, at, 160_000) == pytest.approx([1e-6, 6e-5 * (1 - 1500 / 160_000), 3e-5, 0], abs=1e-8)
