"""Methods that make soft tokens of all, against the published implementations: models, training, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import GRADIENTS, Case, close, close_logits, close_trace

from tokenbench.backbones import Backbone
from tokenbench.methods.base import Method
from tokenbench.methods.patchmerger import PatchMerger
from tokenbench.methods.sinkhorn import Sinkhorn
from tokenbench.methods.sit import SiT
from tokenbench.model import Model

KNOBS = {"sinkhorn_eps": "epsilon", "cluster_iters": "iterations"}
METHODS: dict[str, type[Method]] = {"sit": SiT, "sinkhorn": Sinkhorn, "patchmerger": PatchMerger}
RUNS = [
    *(("sinkhorn", run) for run in ("eval", "eval_eps0.1_it5", "train_ce", "train_ce_eps0.1")),
    *((name, run) for name in ("sit", "patchmerger") for run in ("eval", "train_ce")),
]


def build(case: Case, method: Method, backbone: Backbone) -> Model:
    model = Model(backbone, method)
    names = method.published(list(model.state_dict()))
    model.load_state_dict({own: case.weights[theirs] for own, theirs in names.items()})
    return model


def settings(name: str, run: dict[str, Any]) -> Method:
    return METHODS[name](**{KNOBS[knob]: value for knob, value in run.get("args", {}).items()})


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_model(name: str, run: str) -> None:
    case = Case(f"{name}/vit48_112x160")
    method = settings(name, case.runs[run])
    model = build(case, method, case.backbone()).train(run.startswith("train"))
    out = model.run(case.io["in/input"], trace=not model.training)
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    if not model.training:
        _maps(out.trace, case, run)
        return
    loss = sum(method.losses(out, case.io["in/labels"]).values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    own = {theirs: name for name, theirs in method.published(list(model.state_dict())).items()}
    params = dict(model.named_parameters(remove_duplicate=False))
    start = f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[own[name]].grad, case.out(run, f"grad.{name}"), GRADIENTS)


def _maps(trace: tuple[Any, ...], case: Case, run: str) -> None:
    """What each token holds of each patch is the product of the published assignments, and the drawn map follows."""
    whole = None
    for stage, block in enumerate((3, 6, 9)):
        assign = case.out(run, f"stage{stage}.assign")
        whole = assign if whole is None else assign @ whole
        close(trace[block].source, whole)
    if f"out/{run}/stage0.patch_to_token" in case.io:
        assert torch.equal(trace[3].source.argmax(1), case.out(run, "stage0.patch_to_token"))
