"""What training loops put around weights is taken off, whatever its name; what is chosen or left out is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError
from tokenbench.weights import checkpoints, files
from tokenbench.weights.choice import ALL, Take

Tiny = Callable[..., Backbone]
State = dict[str, Tensor]


def state(backbone: Backbone) -> State:
    return dict(backbone.vit.state_dict())


def named(stored: State, start: str = "", end: str = "") -> State:
    return {f"{start}{key}{end}": value for key, value in stored.items()}


def read(tiny: Tiny, path: Path, content: Any, take: Take = ALL) -> checkpoints.Weights:
    """Load a file with this content, and hold the backbone to the one of seed 1."""
    torch.save(content, path)
    backbone = tiny(seed=2)
    weights = checkpoints.load(backbone, path, take)
    want = state(tiny(seed=1))
    assert all(torch.equal(value, want[key]) for key, value in state(backbone).items())
    return weights


@pytest.mark.parametrize(
    "start",
    [
        "model.",
        "net.",
        "encoder.",
        "timm_model.",
        "module.model.backbone.",
        "_orig_mod.module.",
        "model._orig_mod.",
        "_fsdp_wrapped_module.model._fsdp_wrapped_module.",
        "vit.",
    ],
)
def test_a_prefix_that_all_names_share_carries_nothing(tiny: Tiny, tmp_path: Path, start: str) -> None:
    assert read(tiny, tmp_path / "a.ckpt", {"state_dict": named(state(tiny(seed=1)), start)}).note is None


def test_wrappers_of_single_blocks_are_taken_off(tiny: Tiny, tmp_path: Path) -> None:
    """Sharding, compiling and recomputing wrap each block."""
    for inside in ("_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod", "module"):
        stored = {key.replace("blocks.3.", f"blocks.3.{inside}."): value for key, value in state(tiny(seed=1)).items()}
        assert any(inside in key for key in stored)
        read(tiny, tmp_path / "a.pth", stored)


@pytest.mark.parametrize("key", ["model_state_dict", "net", "params", "module", "whatever it is", "ema"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_only_mapping_of_tensors_is_the_weights(tiny: Tiny, tmp_path: Path, key: str, depth: int) -> None:
    content: Any = state(tiny(seed=1))
    for level in range(depth):
        content = {key if level else "state": content, "epoch": 3, "best": torch.tensor(81.2), "std": torch.ones(3)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3, 3)}}, "param_groups": [{"lr": 0.1}]}
    read(tiny, tmp_path / "a.pth", {**content, "optimizer": optimizer})


def test_a_model_among_others_of_one_module_is_found(tiny: Tiny, tmp_path: Path) -> None:
    """Lightning keeps criterion and metrics in the same mapping as the model."""
    stored = named(state(tiny(seed=1)), "model.") | {"criterion.weight": torch.ones(10), "metric.total": torch.ones(())}
    note = read(tiny, tmp_path / "a.ckpt", {"state_dict": stored}).note
    assert note == "criterion.weight, metric.total are left out, outside of model"


def test_counters_of_profilers_are_left_out_and_said(tiny: Tiny, tmp_path: Path) -> None:
    stored = state(tiny(seed=1))
    stored |= {"total_ops": torch.zeros(1), "blocks.0.attn.total_params": torch.zeros(1, dtype=torch.float64)}
    note = read(tiny, tmp_path / "a.pth", named(stored, "module.") | {"n_averaged": torch.tensor(7)}).note
    assert note == "3 counters (n_averaged, total_ops, total_params) are left out"


def test_entries_that_are_no_tensors_are_left_out_and_said(tiny: Tiny, tmp_path: Path) -> None:
    assert read(tiny, tmp_path / "a.pth", {**state(tiny(seed=1)), "epoch": 3}).note == "epoch is no tensor and left out"


def test_current_weights_are_taken_and_averaged_ones_when_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    path, one, two = tmp_path / "a.pth", state(tiny(seed=1)), state(tiny(seed=3))
    for current, averaged in (("model", "model_ema"), ("state_dict", "state_dict_ema"), ("net", "ema"), ("a", "swa")):
        found = read(tiny, path, {current: one, averaged: two})
        assert found.note is not None and f"'{averaged}'" in found.note and "--ema" in found.note
        assert found.name == f"a.pth#{current}"
        found = read(tiny, path, {current: two, averaged: one}, Take(averaged=True))
        assert found.note == f"the averaged weights ('{averaged}')" and found.name == f"a.pth#{averaged}"
        assert "ones in the file" in str(read(tiny, path, {averaged: one}).note)
    assert "its best" in str(read(tiny, path, {"model": two, "model_ema": one, "ema_best": True}).note)
    both = named(two, "model.") | named(one, "ema_model.module.")  # in one mapping
    read(tiny, path, {"state_dict": both}, Take(averaged=True))
    with pytest.raises(WeightsError, match=r"no averaged weights; leave --ema out\."):
        read(tiny, path, {"model": one}, Take(averaged=True))


def test_of_several_models_one_is_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    path, one, two = tmp_path / "a.pth", state(tiny(seed=1)), state(tiny(seed=3))
    with pytest.raises(
        WeightsError, match=r"several sets of weights \('student', 'teacher'\); say which with --weights-"
    ):
        read(tiny, path, {"student": one, "teacher": two})
    found = read(tiny, path, {"student": two, "teacher": named(one, "backbone.")}, Take(key="teacher"))
    assert found.name == "a.pth#teacher"
    with pytest.raises(WeightsError, match="no weights under the key 'pupil', it has 'student', 'teacher'; give one"):
        read(tiny, path, {"student": one, "teacher": two}, Take(key="pupil"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3}, "'epoch' is no tensor"),
        ({}, "it is empty"),
        ({"model": {}}, "it is empty"),
        ([torch.ones(2, 2)], "it is one list"),
        (torch.ones(2, 2), "it is one Tensor"),
        ({0: torch.ones(2, 2)}, "its tensors have no names but keys such as 0"),
        ({"model": {1: torch.ones(2, 2)}}, "keys such as 1"),
        ({"a": torch.ones(2)}, "'a' is no matrix"),
    ],
)
def test_a_file_without_weights_says_what_it_holds(tmp_path: Path, content: Any, says: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=says):
        files.read(tmp_path / "a.pth")
