"""DynamicViT on Swin against outputs of the published implementation, its costs, maps and refusals."""

from __future__ import annotations

from pathlib import Path

import costs
import pytest
import torch
import torch.nn.functional as F
from conftest import counting, tiny_swin
from golden import GRADIENTS, Case, close, close_logits
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.core.block import Output
from tokenbench.errors import Unsupported
from tokenbench.methods.dynamicvit import swin as asymmetric
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.model import Model
from tokenbench.weights import published

FIRST = 4  # block of the third stage's first, after two stages of two


def golden(keep_rate: float) -> tuple[Case, Model, dict[str, str]]:
    """The published model, and the published names of its tensors."""
    case = Case("dynamicvit/swin")
    model = Model(Backbone(SwinTransformer(**case.info["model"])), DynamicViT(keep_rate=keep_rate))
    names = model.method.published(list(model.state_dict()))
    assert sorted(names.values()) == sorted(case.weights)
    model.load_state_dict({own: case.weights[name] for own, name in names.items()})
    return case, model.eval(), names


@pytest.mark.parametrize("keep_rate", [0.7, 0.9])
@torch.inference_mode()
def test_published_outputs(keep_rate: float) -> None:
    case, model, _ = golden(keep_rate)
    run, images = f"rho{keep_rate}", case.io["in/input"]
    out = model.run(images, trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close(out.features, case.out(run, "features"))
    assert torch.equal(out.logits, model(images))
    for stage in range(3):
        chosen = out.trace[FIRST + 1 + stage].paths.slow.sort(dim=1).values
        assert torch.equal(chosen, case.out(run, f"stage{stage}.kept"))


def test_published_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choices, losses and gradients, with the published Gumbel noise in place of a draw."""
    case, model, names = golden(0.7)
    noise = iter([case.io[f"in/noise.stage{stage}"] for stage in range(3)])

    def draw(log_probs: Tensor, tau: float, hard: bool) -> Tensor:
        assert tau == 1.0 and hard
        soft = ((log_probs + next(noise)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), 2).to(soft.dtype) - soft.detach() + soft

    monkeypatch.setattr(asymmetric.F, "gumbel_softmax", draw)
    out = model.train().run(case.io["in/input"])
    close_logits(out.logits, case.out("train", "logits"))
    close(out.features, case.out("train", "features"))
    for stage, decision in enumerate(out.tokens.decisions):
        close(decision, case.out("train", f"stage{stage}.decision"))
    teacher = Output(case.io["in/teacher_cls"], case.io["in/teacher_tokens"], out.tokens, ())
    terms = model.method.losses(out, case.io["in/labels"], teacher)
    weights = {"class": 1.0, "ratio": 10 / 3, "distill_logits": 0.5, "distill_tokens": 0.5}
    for (name, weight), part in zip(weights.items(), case.out("train", "loss_parts"), strict=True):
        assert terms[name].item() == pytest.approx(weight * part.item(), rel=1e-4), name
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(case.out("train", "loss").item(), rel=1e-5)
    loss.backward()
    params = {names[own]: parameter for own, parameter in model.named_parameters()}
    graded = [k.removeprefix("out/train/grad.") for k in case.io if k.startswith("out/train/grad.")]
    assert len(graded) == 34
    for name in graded:
        close(params[name].grad, case.out("train", f"grad.{name}"), GRADIENTS)


def cost(name: str) -> int:
    """At 0.7: predictors on all tokens, then 137, 97 and 58 through the MLPs, the others through one linear layer."""
    width, depth = 4 * costs.SWINS[name][0], costs.SWINS[name][1][2]
    step = max(1, depth // 9)
    attention = depth * (costs.block(196, width, 49) - 8 * 196 * width**2)
    predictors = 3 * 196 * (width**2 + width * width // 2 + width // 2 * width // 4 + width // 4 * 2)
    through = [196] * step + [137] * step + [97] * step + [58] * (depth - 3 * step)
    mlps = sum(8 * kept * width**2 + (196 - kept) * width**2 for kept in through)
    return costs.swin(name, attention + predictors + mlps)


@pytest.mark.parametrize(
    ("name", "printed", "want"), [("swin_t", 4.0, 4.041), ("swin_s", 6.9, 6.846), ("swin_b", 12.1, 12.063)]
)
def test_gmacs(name: str, printed: float, want: float) -> None:
    """At 0.7 the figures printed, to their last digit."""
    with counting() as counter:
        Model(backbones.create(name), DynamicViT(keep_rate=0.7)).eval()(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * cost(name)
    assert cost(name) / 1e9 == pytest.approx(want, abs=0.001) and want == pytest.approx(printed, abs=0.06)


@torch.inference_mode()
def test_maps() -> None:
    """All tokens stay; patches of the fast path count as dropped until patch merging.

    Of 100 tokens 49 go on at the second choice, as published: 0.7 - 0.2 is just below a half.
    """
    out = Model(Backbone(tiny_swin()), DynamicViT(keep_rate=0.7)).eval().run(torch.randn(2, 3, 160, 160), trace=True)
    assert [step.count for step in out.trace] == [1600, 400, *[100] * 6, 25]
    dropped = [step.fused.sum(1).tolist() for step in out.trace]
    assert dropped == [[0, 0]] * 3 + [[16.0 * n] * 2 for n in (30, 51, 71, 71, 71)] + [[0, 0]]
    for step in out.trace:
        assert (step.source.sum(1) == 1).all()


def test_the_share_falls() -> None:
    assert [DynamicViT(keep_rate=0.9).asymmetric_rate(stage) for stage in range(3)] == pytest.approx([0.9, 0.7, 0.5])


def test_refusals() -> None:
    for options, knobs, reason in (
        ({}, dict(keep_rate=0.4), "keep_rate=0.4 less fall=0.2 a stage leaves nothing at the last"),
        ({}, dict(blocks=(1, 3, 4)), "block 1 is not in the third stage, whose blocks are 2 to 7"),
        (dict(depths=(1, 1), num_heads=(1, 1)), {}, "this backbone has 2"),
    ):
        with pytest.raises(Unsupported, match=reason):
            Model(Backbone(tiny_swin(**options)), DynamicViT(**knobs))


def test_published_checkpoint_is_read(tmp_path: Path) -> None:
    """A Swin-T's, with the buffers that published files hold; its keep rate is not told."""
    with torch.device("meta"):
        model = Model(backbones.create("swin_t"), DynamicViT())
    names = model.method.published(list(model.state_dict()))
    tensors = {names[own]: torch.zeros(value.shape) for own, value in model.state_dict().items()}
    tensors["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    torch.save({"model": tensors}, tmp_path / "dynamicswin.pth")
    found = published.read(tmp_path / "dynamicswin.pth")
    assert found.method == DynamicViT() and found.backbone == "swin_t"
    assert set(found.tensors) == set(model.state_dict())
