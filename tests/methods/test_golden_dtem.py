"""DTEM against the published implementation: models, the relaxed choice of pairs, training and gradients."""

from __future__ import annotations

import pytest
import torch
from golden import GRADIENTS, VALUES, Case, close, close_logits, close_trace
from timm.models.vision_transformer import VisionTransformer

from tokenbench.backbones import Backbone
from tokenbench.methods.dtem import DTEM, TAKING_PART, relaxed
from tokenbench.model import Model

CASE = "dtem/vit48_112x160"


def build(case: Case, method: DTEM) -> Model:
    options = {k: v for k, v in case.info["model"].items() if k != "feat_dim"}
    model = Model(Backbone(VisionTransformer(**options), "golden"), method)
    for block in model.blocks:  # of another width than published models have
        block.reducers[0].metric = torch.nn.Linear(options["embed_dim"], case.info["model"]["feat_dim"])
    names = method.published(list(model.state_dict()))
    model.load_state_dict({own: case.weights[theirs] for own, theirs in names.items()})
    return model


@pytest.mark.parametrize("run", ["eval_r4", "eval_list"])
def test_model(run: str) -> None:
    case = Case(CASE)
    r = case.runs[run]["r"]
    model = build(case, DTEM(r=tuple(r) if isinstance(r, list) else r)).eval()
    with torch.inference_mode():
        out = model.run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    for block in (0, 3, 7, 11):
        assert torch.equal(out.trace[block].source.argmax(1) + 1, case.out(run, f"block{block}.patch_to_token"))


@pytest.mark.parametrize("run", ["train_k2all", "train_one_merge"])
def test_training(run: str) -> None:
    case = Case(CASE)
    options = case.runs[run]
    method = DTEM(train_r=tuple(options["r"]), partners=options["k2"], tau_first=options["tau1"], tau=options["tau2"])
    model = build(case, method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    merging = [block for block, r in enumerate(options["r"]) if r]
    assert [out.trace[b].state[TAKING_PART] for b in merging] == case.out(run, "participants").tolist()
    for block in merging:
        if f"out/{run}/block{block}.size" in case.io:
            close(out.trace[block].size, case.out(run, f"block{block}.size"), VALUES)
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


def test_relaxed_choice() -> None:
    case, run = Case(CASE), "select_k8_tau0.1"
    scores = case.io["in/select_scores"].requires_grad_()
    share = relaxed(scores, 8, 3, 0.1, 0.1)
    close(share, case.out(run, "assign"))
    (share * case.io["in/select_grad_weight"]).sum().backward()
    close(scores.grad, case.out(run, "grad.select_scores"), GRADIENTS)
