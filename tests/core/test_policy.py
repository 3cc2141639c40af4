"""The masked softmax of DynamicViT's training against its formula, written plainly, and autograd's gradient of that."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenbench.core.policy import POLICY_EPS, softmax_with_policy


def plainly(logits: Tensor, policy: Tensor) -> Tensor:
    """Equation 11: dropped tokens are a key to themselves only."""
    count = logits.shape[-1]
    eye = torch.eye(count, dtype=logits.dtype)
    mask = policy[:, None, None, :] * (1 - eye) + eye
    kept = (logits - logits.amax(dim=-1, keepdim=True)).exp() * mask
    return (kept + POLICY_EPS / count) / (kept.sum(dim=-1, keepdim=True) + POLICY_EPS)


def _least_total(logits: Tensor, policy: Tensor) -> float:
    """The least of what a row is divided by."""
    kept = policy[:, None, None, :].expand_as(logits).clone()
    kept.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return float(((logits - logits.amax(dim=-1, keepdim=True)).exp() * kept).sum(dim=-1).min())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.floats(0.1, 8), st.booleans())
def test_values_and_gradients(seed: int, count: int, scale: float, soft: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 3, count, count, generator=generator)
    policy = torch.rand(2, count, generator=generator)
    policy = policy if soft else (policy > 0.5).float()
    given = torch.randn(2, 3, count, count, generator=generator)
    found = []
    for function, dtype in ((softmax_with_policy, torch.float32), (plainly, torch.float64)):
        own = logits.to(dtype, copy=True).requires_grad_(), policy.to(dtype, copy=True).requires_grad_()
        out = function(*own)
        out.backward(given.to(dtype))
        found.append((out, own[0].grad, own[1].grad))
    # A row whose kept keys are all far below its maximum divides what float32 rounds off by next to nothing.
    rounded = 1e-6 * given.abs().max().item() / max(_least_total(logits, policy), POLICY_EPS)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-5 + rounded)


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_rows_sum_to_one(kept: float) -> None:
    weights = softmax_with_policy(torch.randn(1, 2, 5, 5), torch.full((1, 5), kept))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 5), rtol=1e-5, atol=1e-5)
    if kept == 0.0:
        torch.testing.assert_close(weights[0, 0], torch.eye(5), rtol=1e-4, atol=1e-4)
