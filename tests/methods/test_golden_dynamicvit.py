"""DynamicViT against the published implementation: predictor, policy softmax, losses, models, training, gradients."""

import pytest
import torch
import torch.nn.functional as F
from golden import GRADIENTS, Case, close, close_logits, close_trace
from torch import Tensor

from tokenbench.core.block import Output
from tokenbench.core.policy import softmax_with_policy
from tokenbench.core.tokens import Tokens
from tokenbench.methods.dense import Dense
from tokenbench.methods.dynamicvit import dynamicvit
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT, Predictor
from tokenbench.model import Model

BIG, RECT, LOSSES, PARTS = (
    "dynamicvit/vit64_224",
    "dynamicvit/vit64_rect112x448",
    "dynamicvit/losses",
    "dynamicvit/policy_and_predictor",
)


@pytest.mark.parametrize("run", [f"softmax_{k}" for k in ("random01", "all_ones", "only_class", "soft", "peaky")])
def test_policy_softmax(run: str) -> None:
    case = Case(PARTS, run)
    close(softmax_with_policy(case.io[f"in/{run}/attn"], case.io[f"in/{run}/policy"][..., 0]), case.out(run, "y"))


@pytest.mark.parametrize(("run", "dim"), [("predictor_c64", 64), ("predictor_c96", 96)])
def test_predictor(run: str, dim: int) -> None:
    case = Case(PARTS, run)
    predictor = Predictor(dim)
    predictor.load_state_dict({k.removeprefix(f"{run}/"): v for k, v in case.weights.items() if k.startswith(run)})
    close(predictor(case.io[f"in/{run}/x"], case.io[f"in/{run}/policy"][..., 0]), case.out(run, "y"))


def build(case: Case, method: DynamicViT) -> Model:
    model = Model(case.backbone(), method).eval()
    for stage, block in enumerate((3, 6, 9)):
        start = f"score_predictor.{stage}."
        state = {k.removeprefix(start): v for k, v in case.weights.items() if k.startswith(start)}
        model.blocks[block].reducers[0].predictor.load_state_dict(state)
    return model


@pytest.mark.parametrize(("name", "run"), [(BIG, "rho0.7"), (BIG, "rho0.5"), (RECT, "rho0.7"), (RECT, "rho0.8")])
def test_model(name: str, run: str) -> None:
    case = Case(name, run)
    method = DynamicViT(keep_rate=case.runs[run]["token_ratio"][0])
    with torch.inference_mode():
        out = build(case, method).run(case.io["in/input"], trace=True)
        listed = build(case, DynamicViT(ratios=case.runs[run]["token_ratio"])).run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    assert torch.equal(listed.logits, out.logits), "its shares, given stage by stage"
    close(out.features, case.out(run, "final_tokens"))
    close_trace(out.trace, case, run)
    for stage, block in enumerate((3, 6, 9)):
        assert torch.equal(out.trace[block].source.argmax(-1), case.out(run, f"stage{stage}.kept_patch"))


@pytest.mark.parametrize("name", [BIG, RECT])
def test_teacher(name: str) -> None:
    case = Case(name, "teacher")
    with torch.inference_mode():
        out = Model(case.backbone(), Dense()).eval().run(case.io["in/input"])
    close_logits(out.logits, case.out("teacher", "logits"))
    if "out/teacher/features" in case.io:
        close(out.features[:, 1:], case.out("teacher", "features"))


@pytest.mark.parametrize("run", ["train_mse", "train_kl_dynamic"])
def test_training(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, every loss and the gradients, with the published Gumbel noise in place of a draw."""
    case = Case(BIG, run)
    options, loss_options = case.runs[run], case.runs[run]["loss"]
    method = DynamicViT(
        keep_rate=loss_options["keep_ratio"][0],
        ratio_weight=loss_options["ratio_weight"],
        distill_weight=loss_options["distill_weight"],
        class_weight=loss_options["clf_weight"],
        token_mse=loss_options["mse_token"],
        batch_ratio=loss_options["dynamic"],
    )
    model = build(case, method).train()
    noise = iter([case.io[f"in/noise_{options['noise']}.stage{stage}"] for stage in range(3)])

    def draw(log_probs: Tensor, tau: float, hard: bool) -> Tensor:
        assert tau == 1.0 and hard
        soft = ((log_probs + next(noise)) / tau).softmax(-1)
        return F.one_hot(soft.argmax(-1), 2).to(soft.dtype) - soft.detach() + soft

    monkeypatch.setattr(dynamicvit.F, "gumbel_softmax", draw)
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    for stage in range(3):
        close(out.tokens.decisions[stage], case.out(run, f"stage{stage}.decision"))

    teacher = Output(
        case.io["in/teacher_cls"], F.pad(case.io["in/teacher_tokens"], (0, 0, 1, 0)), out.tokens, ()
    )  # a class token, not read, stands before the patches
    terms = method.losses(out, case.io["in/labels"], teacher)
    parts = case.out(run, "loss_parts")
    want = {
        "class": parts[0] * loss_options["clf_weight"],
        "ratio": parts[1] * loss_options["ratio_weight"] / 3,
        "distill_logits": parts[2] * loss_options["distill_weight"],
        "distill_tokens": parts[3] * loss_options["distill_weight"],
    }
    for name, value in want.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    loss = sum(terms.values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)

    loss.backward()
    params = dict(model.vit.named_parameters())
    for stage, block in enumerate((3, 6, 9)):
        predictor = model.blocks[block].reducers[0].predictor
        params |= {f"score_predictor.{stage}.{k}": v for k, v in predictor.named_parameters()}
    names = [k.removeprefix(f"out/{run}/grad.") for k in case.io if k.startswith(f"out/{run}/grad.")]
    assert names
    for name in names:
        close(params[name].grad, case.out(run, f"grad.{name}"), GRADIENTS)


@pytest.mark.parametrize("run", [f"dynamic_{i}" for i in range(5)])
def test_losses(run: str) -> None:
    case = Case(LOSSES, run)
    o = case.runs[run]
    method = DynamicViT(
        keep_rate=o["keep_ratio"][0],
        ratio_weight=o["ratio_weight"],
        distill_weight=o["distill_weight"],
        class_weight=o["clf_weight"],
        token_mse=o["mse_token"],
        batch_ratio=o["dynamic"],
    )
    # the mask is the last decision with 0.5 as its threshold; the golden one is independent of the scores
    _held_to_published(case, run, method, case.io[f"in/{run}/mask"][..., 0])


@pytest.mark.parametrize("run", [f"convnext_{i}" for i in range(3)])
def test_hierarchical_losses(run: str) -> None:
    """The same terms as DynamicSwin and DynamicConvNeXt combine them: all tokens in the token loss."""
    case = Case(LOSSES, run)
    o = case.runs[run]
    method = DynamicViT(
        keep_rate=o["keep_ratio"][0],
        fall=0.2,
        ratio_weight=o["ratio_weight"],
        distill_weight=o["distill_weight"],
        class_weight=o["clf_weight"],
    )
    assert o["keep_ratio"] == pytest.approx([0.9, 0.7, 0.5])
    _held_to_published(case, run, method, None)


def _held_to_published(case: Case, run: str, method: DynamicViT, alive: Tensor | None) -> None:
    """The loss and its gradients, of decisions and of tokens that none of them dropped (`alive` None) or some."""
    leaf = {k: case.io[f"in/{run}/{k}"].clone().requires_grad_() for k in ("pred", "token_pred", *_scores(case, run))}
    decisions = tuple(leaf[k].flatten(1) for k in _scores(case, run))
    tokens = Tokens(leaf["token_pred"], 0, (1, leaf["token_pred"].shape[1]), alive=alive, decisions=decisions)
    teacher = Output(case.io[f"in/{run}/teacher_cls"], case.io[f"in/{run}/teacher_tokens"], tokens, ())
    out = Output(leaf["pred"], leaf["token_pred"], tokens, ())
    loss = sum(method.losses(out, case.io[f"in/{run}/labels"], teacher).values())
    assert loss.item() == pytest.approx(case.out(run, "loss").flatten().item(), rel=1e-5)
    loss.backward()
    for name, tensor in leaf.items():
        grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        close(grad, case.out(run, f"grad_{name}"), GRADIENTS)


def _scores(case: Case, run: str) -> list[str]:
    return [k.split("/")[-1] for k in sorted(case.io) if k.startswith(f"in/{run}/score")]


def test_losses_of_no_token() -> None:
    """A batch in which nothing is kept to the end has no token loss."""
    tokens = Tokens(torch.randn(2, 5, 8), 1, (2, 2)).mask(torch.zeros(2, 4))
    out = Output(torch.randn(2, 3), tokens.x, tokens, ())
    terms = DynamicViT().losses(out, torch.tensor([0, 1]), out)
    assert terms["distill_tokens"].item() == 0.0
