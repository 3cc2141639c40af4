"""TokenLearner's and TokenFuser's modules against the published ones, with gradients."""

from __future__ import annotations

import pytest
from golden import GRADIENTS, Case, close, close_logits
from torch import Tensor, nn

from tokenbench.core.tokens import Tokens
from tokenbench.methods.tokenlearner import Fuser, Learn, TokenLearner

CASE = "tokenlearner/modules_c48"
LAYERS = {  # ours: theirs
    "gates.norm": "LayerNorm_0",
    "gates.mlp.0": "token_masking.Dense_0",
    "gates.mlp.3": "token_masking.Dense_1",
    **{f"gates.convs.{2 * i}": f"Conv_{i}" for i in range(4)},
    "norm1": "fuser_mix_norm1",
    "norm2": "fuser_mix_norm2",
    "mix": "Dense_0",
    "norm": "LayerNorm_0",
    "mlp.0": "token_masking.Dense_0",
    "mlp.3": "token_masking.Dense_1",
}
ORDER = {2: (1, 0), 4: (3, 2, 0, 1)}  # of our dimensions among theirs


def theirs(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    scale = "scale" if "norm" in layer else "kernel"
    return f"{LAYERS[layer]}.{scale if kind == 'weight' else kind}"


def turned(value: Tensor) -> Tensor:
    return value.permute(ORDER[value.dim()]) if value.dim() in ORDER else value


def load(module: nn.Module, case: Case, run: str) -> None:
    module.load_state_dict({name: turned(case.weights[f"{run}/{theirs(name)}"]) for name in module.state_dict()})


@pytest.mark.parametrize(
    ("run", "knobs"),
    [("v11", {}), ("v10", {"version": "1.0"}), ("v10_mean", {"version": "1.0", "pool": "mean"})],
)
def test_learner(run: str, knobs: dict[str, str]) -> None:
    case, method = Case(CASE), TokenLearner(**knobs)
    module = Learn(48, method)
    module.method = method
    load(module, case, run.removesuffix("_mean"))
    x = case.io["in/tokens"].requires_grad_()
    tokens = module(Tokens(x, 0, (8, 8)).traced(), None)
    close_logits(tokens.x, case.out(run, "out"))
    assert (tokens.share.sum(1) <= 1 + 1e-5).all()
    _gradients(module, (tokens.x * case.io["in/grad_weight"]).sum(), x, case, run)


@pytest.mark.parametrize("run", ["fuser", "fuser_nonorm"])
def test_fuser(run: str) -> None:
    case = Case(CASE)
    module = Fuser(8, 48, 64, 0.0, norm=run == "fuser")
    load(module, case, run)
    x = case.io["in/tokens"].requires_grad_()
    out = module(case.io["in/processed"], x)
    close_logits(out, case.out(run, "out"))
    weight = case.io["in/grad_weight"].flatten().repeat(8).reshape(out.shape)
    _gradients(module, (out * weight).sum(), x, case, run)


def _gradients(module: nn.Module, loss: Tensor, x: Tensor, case: Case, run: str) -> None:
    loss.backward()
    close(x.grad[:, :7], case.out(run, "grad.tokens"), GRADIENTS)
    params = {theirs(name): p.grad for name, p in module.named_parameters()}
    start = f"out/{run}/grad."
    names = [key.removeprefix(start) for key in case.io if key.startswith(start) and not key.endswith("grad.tokens")]
    assert names
    for name in names:
        close(params[name], turned(case.out(run, f"grad.{name}")), GRADIENTS)
