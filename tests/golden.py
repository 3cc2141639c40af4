"""Golden vectors: outputs of the published implementations, and the models they were made with.

A run is read from tests/golden, or, where it is listed in tests/golden/elsewhere.txt, from ../shared/golden, and its
test is skipped where that is absent. A run that is neither here nor listed fails its test: no clone checks less unseen.
"""

from __future__ import annotations

import inspect
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
    """One golden case: `info` (case.json), `run` options by name, `weights` and `io` tensors in float32.

    `run` names the run that is looked for, since the repository may hold some of a case's runs; without it, any.
    """

    def __init__(self, name: str, run: str | None = None) -> None:
        folder = _folder(name, run)
        self.info: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.runs: dict[str, dict[str, Any]] = {run["name"]: run for run in self.info["runs"]}
        weights = folder.parents[1] / self.info.get("weights_of", name) / "weights.safetensors"
        self.weights = {k: _wide(v) for k, v in load_file(weights).items()} if weights.exists() else {}
        self.io = {k: _wide(v) for k, v in load_file(folder / "io.safetensors").items()}

    def out(self, run: str, name: str) -> Tensor:
        return self.io[f"out/{run}/{name}"]

    def backbone(self) -> Backbone:
        """The case's model in timm, with its weights; what a method adds stays in `weights`."""
        known = inspect.signature(VisionTransformer).parameters
        vit = VisionTransformer(**{k: v for k, v in self.info["model"].items() if k in known})
        vit.load_state_dict({k: self.weights[k] for k in vit.state_dict()}, strict=True)
        return Backbone(vit.eval(), "golden")


def listed() -> list[str]:
    """What is in ../shared alone, as `case run` or, of a whole case, `case`."""
    lines = (HERE / "elsewhere.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def runs_in(root: Path, name: str) -> set[str]:
    """Names of a case's runs in tests/golden or ../shared/golden."""
    path = root / name / "case.json"
    return {run["name"] for run in json.loads(path.read_text())["runs"]} if path.exists() else set()


def _folder(name: str, run: str | None) -> Path:
    here = runs_in(HERE, name)
    if run in here or (run is None and here):
        return HERE / name
    asked = name if run is None else f"{name} {run}"
    assert {name, asked} & set(listed()), f"{asked} is neither in tests/golden nor listed in its elsewhere.txt"
    if not (SHARED / name).exists():
        pytest.skip(f"golden vectors {asked} are in ../shared/golden, which is absent")
    return SHARED / name


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


def same_kept(trace: tuple, case: Case, run: str) -> None:
    """The tokens kept at each stage, by the patches they hold, in order of score."""
    before = None
    for stage, block in enumerate((3, 6, 9)):
        kept = case.out(run, f"stage{stage}.kept_idx")
        source = trace[block - 1].source if before is None else before
        after = trace[block].source
        want = source.gather(1, kept.unsqueeze(-1).expand(-1, -1, source.shape[-1]))
        assert torch.equal(after[:, : kept.shape[1]], want)
        before = after
