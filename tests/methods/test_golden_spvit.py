"""SPViT against the published implementation, which masks where this removes: models, packages, losses, gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from golden import GRADIENTS, Case, close, close_logits
from torch import Tensor

from tokenbench import backbones
from tokenbench.core.block import Output
from tokenbench.measure import flops
from tokenbench.methods.dense import Dense
from tokenbench.methods.spvit import Package, SPViT
from tokenbench.model import Model

CASE = "spvit/vit48p8_112"


def build(case: Case, method: SPViT) -> Model:
    model = Model(case.backbone(), method)
    names = method.published(list(model.state_dict()))
    model.load_state_dict({own: case.weights[theirs] for own, theirs in names.items()})
    return model


def test_model() -> None:
    case, run = Case(CASE), "eval_argmax"
    with torch.inference_mode():
        out = build(case, SPViT()).eval().run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close(torch.stack([step.x[:, 0] for step in out.trace]), case.out(run, "cls_per_layer"))
    for stage, block in enumerate((3, 6, 9)):
        step = out.trace[block]
        assert torch.equal(step.counts, case.out(run, "active_counts")[stage])
        kept = (step.source.sum(1) > 0) & (step.fused == 0)
        assert torch.equal(kept, case.out(run, f"stage{stage}.keep").bool())


def test_alone() -> None:
    case = Case(CASE)
    model, images = build(case, SPViT()).eval(), case.io["in/input"]
    with torch.inference_mode():
        close_logits(model(images[1:]), case.out("eval_argmax", "logits")[1:])


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch):
    """Published draws in place of new ones."""

    def given(case: Case, letter: str) -> None:
        def draw(self: Package, score: Tensor) -> Tensor:
            soft = (score + case.io[f"in/noise_{letter}.stage{self.stage}"]).softmax(-1)
            return (F.one_hot(soft.argmax(-1), 2).to(soft.dtype) - soft.detach() + soft)[..., 0]

        monkeypatch.setattr(Package, "draw", draw)

    return given


def test_training(noise) -> None:
    case, run = Case(CASE), "train_noise_b"
    noise(case, "b")
    options = case.runs[run]
    method = SPViT(shares=tuple(options["keep_ratio"]))
    model = build(case, method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    close(torch.stack([step.x[:, 0] for step in out.trace]), case.out(run, "cls_per_layer"))
    close(out.features[:, 1:197], case.out(run, "features"))
    for stage, block in enumerate((3, 6, 9)):
        assert torch.equal(out.tokens.decisions[stage][:, :196].round(), case.out(run, f"stage{stage}.keep").float())
        assert out.trace[block].count == 198 + stage
    features = F.pad(case.out("teacher", "features"), (0, 0, 1, 0))  # a class token, not read
    teacher = Output(case.out("teacher", "logits"), features, out.tokens, ())
    loss = sum(method.losses(out, case.io["in/labels"], teacher).values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    own = {theirs: name for name, theirs in method.published(list(model.state_dict())).items()}
    params, start = dict(model.named_parameters(remove_duplicate=False)), f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start)]
    assert names
    for name in names:
        close(params[own[name]].grad, case.out(run, f"grad.{name}"), GRADIENTS)


def test_evaluation_with_noise(noise, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the published evaluation does: removal under its draws gives its logits."""
    case, run = Case(CASE), "eval_noise_a"
    model = build(case, SPViT()).eval()
    kept = [case.out(run, f"stage{stage}.keep").bool() for stage in range(3)]
    with torch.inference_mode():
        out = _forced(model, kept).run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))


@pytest.mark.parametrize(("counts", "want"), [((137, 96, 67), 2.930), ((120, 72, 26), 2.463), ((98, 49, 24), 2.194)])
def test_gmacs(counts: tuple[int, ...], want: float) -> None:
    """On DeiT-S, where the counts hit these targets; and its parameters."""
    model = Model(backbones.create("deit_s"), SPViT()).eval()
    model = _forced(model, [(torch.arange(196) < count).unsqueeze(0) for count in counts])
    assert flops.gmacs(model, torch.zeros(1, 3, 224, 224)) == pytest.approx(want, abs=0.002)
    assert sum(parameter.numel() for parameter in model.parameters()) == 22_071_589


def _forced(model: Model, kept: list[Tensor]) -> Model:
    """The model, with decisions (B, 196) of each stage in place of those that its scores give."""
    for stage, block in enumerate((3, 6, 9)):
        predictor = model.blocks[block].reducers[0].predictor

        def scored(x: Tensor, alive: Tensor, stage: int = stage, inner=predictor.forward) -> tuple[Tensor, Tensor]:
            _, soft = inner(x, alive)
            before = torch.ones_like(kept[0]) if stage == 0 else kept[stage - 1]
            left = [kept[stage][image][before[image]] for image in range(len(before))]
            keep = torch.stack([F.pad(row, (0, x.shape[1] - len(row))) for row in left]).float()
            return torch.stack([keep, 1 - keep], dim=-1), soft

        predictor.forward = scored
    return model


def test_teacher() -> None:
    case = Case(CASE)
    with torch.inference_mode():
        out = Model(case.backbone(), Dense()).eval().run(case.io["in/input"])
    close_logits(out.logits, case.out("teacher", "logits"))
    close(out.features[:, 1:], case.out("teacher", "features"))
