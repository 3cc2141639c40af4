"""A-ViT against the published implementation, which masks where this removes: models, counts, losses, gradients."""

from __future__ import annotations

import pytest
import torch
from golden import GRADIENTS, Case, close, close_logits

from tokenbench.methods.avit import SO_FAR, AViT
from tokenbench.model import Model

CASE = "avit/vit48_112x160"


def settings(case: Case, run: str) -> AViT:
    o = case.runs[run]
    training = {"ponder_weight": "ponder_token_scale", "prior_weight": "distr_prior_alpha"}
    return AViT(
        gate_scale=o["gate_scale"],
        gate_centre=o["gate_center"],
        **{own: o[theirs] for own, theirs in training.items() if theirs in o},
    )


def test_model() -> None:
    """Those that run in a block are those that are left; a class token that has halted is left as well."""
    case, run = Case(CASE), "eval"
    with torch.inference_mode():
        out = Model(case.backbone(), settings(case, run)).eval().run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    active = case.out(run, "active").bool()
    for block, step in enumerate(out.trace):
        assert torch.equal(step.source.sum(1).bool(), active[block, :, 1:])
        assert torch.equal(step.counts, active[block, :, 1:].sum(1) + 1)
        if block < 11:  # after the last block it is the sum over depth
            runs = active[block, :, 0]
            close(step.x[runs, 0], case.out(run, "cls_block_output")[block, runs])


def test_alone() -> None:
    case = Case(CASE)
    model, images = Model(case.backbone(), settings(case, "eval")).eval(), case.io["in/input"]
    with torch.inference_mode():
        close_logits(model(images[:1]), case.out("eval", "logits")[:1])


def test_training() -> None:
    case, run = Case(CASE), "train"
    method = settings(case, run)
    model = Model(case.backbone(), method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    found = out.tokens.state[SO_FAR]
    close(torch.stack(found.scores), case.out(run, "halting_score"))
    close(found.ponder, case.out(run, "rho"))
    close(torch.tensor(method.prior(12)), case.out(run, "distr_target"))
    terms = method.losses(out, case.io["in/labels"])
    for name, value in zip(("class", "ponder", "prior"), case.out(run, "loss_parts"), strict=True):
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    params, start = dict(model.vit.named_parameters()), f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[name].grad, case.out(run, f"grad.{name}"), GRADIENTS)
