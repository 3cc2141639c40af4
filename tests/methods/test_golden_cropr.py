"""Cropr against the published implementation: models, kept tokens, training and gradients."""

from __future__ import annotations

import pytest
import torch
from golden import GRADIENTS, Case, close, close_logits
from timm.models.vision_transformer import VisionTransformer

from tokenbench.backbones import Backbone
from tokenbench.methods.cropr import GUESSES, Cropr
from tokenbench.model import Model

CASE = "cropr/vit36_112"
SIZE = dict(patch_size=16, num_classes=10, depth=12, img_size=112, embed_dim=36, num_heads=3)


def build(case: Case, method: Cropr, pool: str = "token") -> Model:
    """With mean pooling as published: of all tokens, the class token included."""
    vit = VisionTransformer(**SIZE, global_pool=pool, pool_include_prefix=pool == "avg")
    model = Model(Backbone(vit, "golden"), method)
    names = method.published(list(model.state_dict()))
    model.load_state_dict({own: case.weights[theirs.replace("fc_norm", "norm")] for own, theirs in names.items()})
    return model


@pytest.mark.parametrize("run", ["eval_r3_llf", "eval_r3_avg"])
def test_model(run: str) -> None:
    case = Case(CASE)
    model = build(case, Cropr(r=3), case.runs[run]["global_pool"]).eval()
    with torch.inference_mode():
        out = model.run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    assert out.tokens.count == 50
    kept = [step.source.argmax(-1) for step in out.trace]
    for module in (0, 4, 9):
        assert torch.equal(kept[module], case.out(run, f"module{module}.kept_patch"))
    # what is published stands before the module, and here after it
    counts = case.out(run, "token_counts").tolist()
    assert [50, *(step.count for step in out.trace[:-2]), out.trace[-1].count] == counts
    close(torch.stack([step.x[:, 0] for step in out.trace]), case.out(run, "cls_per_layer"))
    close(out.trace[-1].x.mean(1), case.out(run, "token_mean_per_layer")[-1])


def test_training() -> None:
    case, run = Case(CASE), "train_r3_llf"
    method = Cropr(r=3, heads=True)
    model = build(case, method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    close_logits(torch.stack(out.tokens.state[GUESSES]), case.out(run, "aux_logits"))
    terms = method.losses(out, case.io["in/labels"])
    parts = case.out(run, "loss_parts")
    assert terms["class"].item() == pytest.approx(parts[0].item(), rel=1e-5)
    assert terms["modules"].item() == pytest.approx(parts[1:].sum().item(), rel=1e-5)
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    own = {theirs: name for name, theirs in method.published(list(model.state_dict())).items()}
    params = dict(model.named_parameters(remove_duplicate=False))
    start = f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[own[name]].grad, case.out(run, f"grad.{name}"), GRADIENTS)


def test_what_training_needs_alone_is_left_out(tiny) -> None:
    """A lean model has the queries of a trained one and nothing else of it."""
    backbone, method = tiny(), Cropr(r=2, heads=True)
    whole, lean = (set(Model(backbone, m).state_dict()) for m in (method, method.lean()))
    assert lean < whole
    assert {name.rpartition(".")[2] for name in lean if name.startswith("blocks.")} == {"queries"}
