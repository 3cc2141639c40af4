"""LV-ViT against its authors' code: logits, token labelling; DynamicViT and SiT on it, with their training."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from conftest import counting
from golden import GRADIENTS, Case, close, close_logits, close_trace

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.backbones.lvvit import LVViT, label_loss, random_box
from tokenbench.core.block import Output
from tokenbench.methods.base import Method
from tokenbench.methods.dense import Dense
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.sit import RECOVERED, SiT
from tokenbench.methods.sweep import parse
from tokenbench.model import Model


def backbone(case: Case) -> Backbone:
    known = inspect.signature(LVViT).parameters
    vit = LVViT(**{k: v for k, v in case.info["model"].items() if k in known})
    found = {k: case.weights[k] for k in vit.state_dict() if k in case.weights}
    missing, unexpected = vit.load_state_dict(found, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") or "aux_head" in name for name in missing)
    return Backbone(vit.eval(), "golden")


def load(model: Model, case: Case, names: dict[str, str]) -> Model:
    found = {own: case.weights[theirs] for own, theirs in names.items() if theirs in case.weights}
    missing, unexpected = model.load_state_dict(found, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") or "aux_head" in name for name in missing)
    return model


def test_model() -> None:
    case = Case("lvvit/lv32_112x144")
    lv = backbone(case)
    with torch.inference_mode():
        out = Model(lv, Dense()).eval().run(case.io["in/input"])
        assert torch.equal(lv.vit(case.io["in/input"]), out.logits)
        close(lv.vit.patch_embed(case.io["in/input"])[:1], case.out("eval", "embedding"))
    close_logits(out.logits, case.out("eval", "logits"))
    close_logits(out.patches, case.out("eval", "aux_logits"))
    close_trace(out.trace, case, "eval")


def test_token_labelling() -> None:
    case, run = Case("lvvit/lv32_112x144"), "train_token_label"
    vit = backbone(case).vit.train()
    top, left, bottom, right = case.out(run, "bbox").tolist()
    box = (top, bottom, left, right)
    logits, patches = vit.labelled(case.io["in/input"], box)
    close_logits(logits, case.out(run, "logits"))
    close_logits(patches, case.out(run, "aux_logits"))
    labels = case.io["in/target_tokens"].transpose(1, 2)
    loss = label_loss(logits, patches, case.io["in/target_cls"], labels, box, case.runs[run]["dense_weight"])
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    params, start = dict(vit.named_parameters()), f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[name].grad, case.out(run, f"grad.{name}"), GRADIENTS)


def test_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        top, bottom, left, right = random_box((7, 9), generator)
        assert 0 <= top <= bottom <= 7 and 0 <= left <= right <= 9


@pytest.mark.parametrize(("run", "rate"), [("eval_rho0.7", 0.7), ("eval_rho0.5", 0.5)])
def test_dynamicvit(run: str, rate: float) -> None:
    case = Case("lvvit_dynamicvit/lv40p8_112")
    method = DynamicViT(keep_rate=rate)
    model = Model(backbone(case), method)
    load(model, case, method.published(list(model.state_dict()))).eval()
    with torch.inference_mode():
        out = model.run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close_logits(out.patches.amax(1), case.out(run, "aux_max"))
    close_trace(out.trace, case, run)
    for stage, block in enumerate((3, 6, 9)):
        assert torch.equal(out.trace[block].source.argmax(-1), case.out(run, f"stage{stage}.kept_patch"))


def sit_names(model: Model) -> dict[str, str]:
    """SiT's own names of its modules: slimming by stage, recovering by block."""
    names: dict[str, str] = {}
    stage = 0
    for block, turn in enumerate(model.blocks):
        for place, reducer in enumerate(turn.reducers):
            kind = type(reducer).__name__
            behind = block if reducer.where == "after" else block - 1
            for name in reducer.state_dict():
                theirs = name
                for i in (0, 2):
                    theirs = theirs.replace(f"mlp1.{i}.", f"mlp1.fc{i // 2 + 1}.")
                    theirs = theirs.replace(f"mlp2.{i}.", f"mlp2.fc{i // 2 + 1}.")
                start = f"tsm.{stage}" if kind == "Slim" else f"rtsm.{behind}"
                names[f"blocks.{block}.reducers.{place}.{name}"] = f"{start}.{theirs}"
            stage += kind == "Slim"
    names |= {name: name.removeprefix("vit.") for name in model.state_dict() if name.startswith("vit.")}
    return names


def sit(case: Case, **knobs: Any) -> tuple[Method, Model]:
    method = SiT(keep_rate=0.5, blocks=(2, 4, 5), **knobs)
    model = Model(backbone(case), method)
    return method, load(model, case, sit_names(model))


def test_sit() -> None:
    case = Case("sit_lvvit/lv32_112")
    _, model = sit(case)
    with torch.inference_mode():
        out = model.eval().run(case.io["in/input"], trace=True)
        teacher = Model(backbone(case), Dense()).eval()(case.io["in/input"])
    close_logits(teacher, case.out("teacher", "logits"))
    close_logits(out.logits, case.out("eval", "logits"))
    close(torch.stack([step.x[:, 0] for step in out.trace]), case.out("eval", "cls_per_layer"))
    close(out.trace[2].source, case.out("eval", "stage0.assign"))


def test_sit_recycling() -> None:
    case, run = Case("sit_lvvit/lv32_112"), "train_frd"
    method, model = sit(case, reverse=True)
    with torch.no_grad():
        teacher: Output = Model(backbone(case), Dense()).eval().run(case.io["in/input"])
    out = model.train().run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    recovered = out.tokens.state[RECOVERED]
    close(recovered[0], case.out(run, "recovered_first"))
    close(recovered[-1], case.out(run, "recovered_last"))
    terms = method.losses(out, case.io["in/labels"], teacher)
    for name, value in zip(("class", "tokens", "logits"), case.out(run, "loss_parts"), strict=True):
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    sum(terms.values()).backward()
    own = {theirs: name for name, theirs in sit_names(model).items()}
    params, start = dict(model.named_parameters(remove_duplicate=False)), f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[own[name]].grad, case.out(run, f"grad.{name}"), GRADIENTS)


PARAMETERS = {"lvvit_t": 8_534_720, "lvvit_s": 26_151_824, "lvvit_m": 55_830_544}
GMACS = [
    ("lvvit_t", "dense", 2.868),
    ("lvvit_s", "dense", 6.551),
    ("lvvit_m", "dense", 12.678),
    ("lvvit_s", "dynamicvit", 4.650),
    ("lvvit_s", "dynamicvit[keep_rate=0.5]", 3.790),
    ("lvvit_s", "stvit[tokens=36,base=4]", 3.389),
    ("lvvit_s", "stvit[tokens=36]", 3.654),
    ("lvvit_s", "stvit[tokens=36,base=6]", 3.918),
    ("lvvit_s", "stvit[tokens=36,base=8]", 4.447),
    ("lvvit_4c_t", "sit[keep_rate=0.5,blocks=1/2/3]", 0.987),
    ("lvvit_4c_s", "sit[keep_rate=0.5,blocks=1/2/3]", 1.482),
    ("lvvit_4c_s", "sit[keep_rate=0.5,blocks=9/12/14]", 4.016),
    ("lvvit_4c_m", "sit[keep_rate=0.5,blocks=10/14/17]", 8.019),
]
WITH_SIT = {"lvvit_4c_t": 15_872_934, "lvvit_4c_s": 25_625_774, "lvvit_4c_m": 55_642_302}


@pytest.mark.parametrize(("name", "setting", "want"), GMACS)
def test_gmacs(name: str, setting: str, want: float) -> None:
    with torch.device("meta"):
        lv = backbones.create(name)
    with counting() as counter:
        model = Model(lv, parse(setting)[0]).eval()
        model.run(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(want, abs=0.002)
    count = sum(parameter.numel() for parameter in model.parameters())
    if setting == "dense":
        assert count == PARAMETERS[name]
    if name in WITH_SIT:
        assert count == WITH_SIT[name]
