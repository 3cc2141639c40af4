"""Evo-ViT against the published implementation: models, selections, training and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import GRADIENTS, Case, close, close_logits
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.methods.evovit import CLASS_LOGITS, EvoViT
from tokenbench.model import Model

CASE = "evovit/vit48_112x160"


def settings(run: dict[str, Any], **knobs: Any) -> EvoViT:
    return EvoViT(layer_wise=not run["stage_wise"], leave=run.get("prunecls", False), **knobs)


def build(case: Case, method: EvoViT) -> Model:
    model = Model(Backbone(VisionTransformer(**case.info["model"]), "golden"), method)
    given = dict(EvoViT.translate(case.weights))
    given |= {f"blocks.11.reducers.3.{n}": v for n, v in case.weights.items() if "_cls." in n}
    names = method.published(list(model.state_dict()))
    model.load_state_dict({own: given[theirs] for own, theirs in names.items()})
    return model


def check(out: Any, case: Case, run: str) -> None:
    """Class tokens, what blocks worked on, what was slow."""
    close_logits(out.logits, case.out(run, "logits"))
    close(torch.stack([step.x[:, 0] for step in out.trace]), case.out(run, "cls_per_layer"))
    means = case.out(run, "token_mean_per_layer")
    for block, count in enumerate(case.out(run, "token_counts").tolist()):
        step = out.trace[block]
        assert step.count >= count
        close(step.x[:, :count].mean(1), means[block])  # those that have just come back stand behind
        selection = f"out/{run}/sel{0 if block == 4 else 1}.slow"
        if step.source is not None and case.runs[run]["stage_wise"] and block in (4, 8):
            assert torch.equal(step.source.sum(1), case.io[selection].float())


@pytest.mark.parametrize("run", ["eval", "eval_layer_wise", "eval_prunecls"])
def test_model(run: str) -> None:
    case = Case(CASE)
    with torch.inference_mode():
        out = build(case, settings(case.runs[run])).eval().run(case.io["in/input"], trace=True)
    check(out, case, run)


@pytest.mark.parametrize("run", ["train_stage_wise", "train_layer_wise"])
def test_training(run: str) -> None:
    case = Case(CASE)
    method = settings(case.runs[run], heads=True)
    model = build(case, method).train()
    out = model.run(case.io["in/input"])
    check(out, case, run)
    close_logits(out.tokens.state[CLASS_LOGITS], case.out(run, "logits_cls"))
    loss = sum(method.losses(out, case.io["in/labels"]).values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    given: dict[str, Tensor] = {name: p.grad for name, p in model.vit.named_parameters()}
    start = f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(_gradient(given, model, name), case.out(run, f"grad.{name}"), GRADIENTS)


def _gradient(given: dict[str, Tensor], model: Model, name: str) -> Tensor:
    """By the published name of the parameter."""
    part, _, rest = name.partition(".")
    block = rest.partition(".")[0]
    if part == "qks":
        return given[f"blocks.{block}.attn.qkv.bias"][: 2 * 48]
    if part == "vs":
        return given[f"blocks.{block}.attn.qkv.bias"][2 * 48 :]
    if part == "projs":
        return given[f"blocks.{block}.attn.proj.bias"]
    if part.endswith("_cls"):
        return dict(model.blocks[11].reducers[3].named_parameters())[name].grad
    return given[name]


def test_schedule() -> None:
    method = EvoViT(layer_wise_epochs=200)
    assert method.at(199.9).layer_wise and not method.at(200).layer_wise
