"""Golden vectors: outputs of the published implementations, and the models they were made with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tokenbench.backbones import Backbone

HERE = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared" / "golden"

LOGITS = 5e-5  # largest absolute difference
VALUES = 2e-5  # of the largest entry, plus 1e-6
GRADIENTS = 2e-4  # of the largest entry, plus 1e-6


class Case:
    """One golden case: `info` (case.json), `run` options by name, `weights` and `io` tensors in float32."""

    def __init__(self, name: str) -> None:
        folder = next((root / name for root in (HERE, SHARED) if (root / name / "case.json").exists()), None)
        if folder is None:
            pytest.skip(f"golden case {name} is not in tests/golden, and ../shared/golden is absent")
        self.info: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.runs: dict[str, dict[str, Any]] = {run["name"]: run for run in self.info["runs"]}
        weights = folder / "weights.safetensors"
        self.weights = {k: _wide(v) for k, v in load_file(weights).items()} if weights.exists() else {}
        self.io = {k: _wide(v) for k, v in load_file(folder / "io.safetensors").items()}

    def out(self, run: str, name: str) -> Tensor:
        return self.io[f"out/{run}/{name}"]

    def backbone(self) -> Backbone:
        """The case's model in timm, with its weights; what a method adds stays in `weights`."""
        options = {k: v for k, v in self.info["model"].items() if k not in ("drop_loc", "pruning_loc")}
        vit = VisionTransformer(**options)
        own = {k: v for k, v in self.weights.items() if k in vit.state_dict()}
        vit.load_state_dict(own, strict=True)
        return Backbone(vit.eval(), "golden")


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.float()
    return tensor.long() if tensor.dtype in (torch.int32, torch.uint8) else tensor


def close(ours: Tensor, golden: Tensor, relative: float = VALUES, absolute: float = 1e-6) -> None:
    """Assert the largest absolute difference is within `relative` of the largest golden entry, plus `absolute`."""
    assert ours.shape == golden.shape
    worst = (ours - golden).abs().max().item()
    allowed = relative * golden.abs().max().item() + absolute
    assert worst <= allowed, f"differs by {worst:.3g}, {allowed:.3g} allowed"


def close_logits(ours: Tensor, golden: Tensor) -> None:
    close(ours, golden, relative=0.0, absolute=LOGITS)


def close_trace(trace: tuple, case: Case, run: str) -> None:
    """Token counts, class token and token mean after every block."""
    assert [step.count for step in trace] == case.out(run, "token_counts").tolist()
    close(torch.stack([step.x[:, 0] for step in trace]), case.out(run, "cls_per_layer"))
    close(torch.stack([step.x.mean(1) for step in trace]), case.out(run, "token_mean_per_layer"))
