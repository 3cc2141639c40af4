"""Attention, written out once so that a reducer can ask for what it needs of it, and nothing more is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tokenbench.core.policy import softmax_with_policy


@dataclass(frozen=True)
class Attn:
    """What a reducer may ask of a block's attention, computed only when asked, so that the fused kernel stays on.

    Shapes: q (B, H, M, d) and k (B, H, N, d), after any q/k norm; M = N but in cross-attention.
    """

    q: Tensor
    k: Tensor
    scale: float
    prefix: int
    bias: Tensor | None = None  # (B, 1, 1, N) added to the logits

    def class_row(self) -> Tensor:
        """Attention of the class token to the tokens after the prefix, mean over heads: (B, N - prefix).

        Softmax runs over all N keys, so a row sums to less than 1. Costs N * C multiply-adds an image.
        """
        return self._weights(self.q[:, :, :1]).mean(1)[:, 0, self.prefix :]

    def mean_key(self) -> Tensor:
        """The keys, mean over heads: (B, N, d)."""
        return self.k.mean(1)

    def weights(self) -> Tensor:
        """All attention, mean over heads: (B, M, N). Quadratic: for maps, not for speed."""
        return self._weights(self.q).mean(1)

    def _weights(self, q: Tensor) -> Tensor:
        logits = (q * self.scale) @ self.k.transpose(-2, -1)
        return (logits if self.bias is None else logits + self.bias).softmax(dim=-1)


def attend(
    attn: Any, y: Tensor, keys: Tensor | None = None, bias: Tensor | None = None, policy: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """timm's `Attention.forward`, written out so that q and k can be handed on; bit-equal to it where both apply.

    Args:
        attn: a `timm.layers.Attention`; its own projections and norms are used.
        y: (B, M, C) normalised tokens that ask; also keys and values unless `keys` is given.
        keys: (B, N, C) normalised tokens to attend to instead.
        bias: (B, 1, 1, N) added to the logits.
        policy: (B, N) 1 kept, 0 dropped; turns on the masked softmax of training.

    Returns:
        The projected output (B, M, C), q (B, H, M, d) and k (B, H, N, d).
    """
    batch, count, _ = y.shape
    heads, dim = attn.num_heads, attn.head_dim
    width = heads * dim
    if keys is None:
        q, k, v = attn.qkv(y).reshape(batch, count, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        wq, wkv = attn.qkv.weight.split([width, 2 * width])
        bq, bkv = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([width, 2 * width])
        q = F.linear(y, wq, bq).reshape(batch, count, heads, dim).transpose(1, 2)
        k, v = F.linear(keys, wkv, bkv).reshape(batch, keys.shape[1], 2, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)

    if policy is not None:
        x = attn.attn_drop(softmax_with_policy((q * attn.scale) @ k.transpose(-2, -1), policy).to(v.dtype)) @ v
    else:
        x = mixed(attn, q, k, v, bias)

    x = attn.norm(x.transpose(1, 2).reshape(batch, count, width))
    if attn.gate is not None:
        x = x * attn.gate(y).sigmoid()
    return attn.proj_drop(attn.proj(x)), q, k


def mixed(attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Values (…, M, d) mixed by attention, through the kernel that timm would choose for this module; `bias` is added
    to the logits.
    """
    if attn.fused_attn:
        drop = attn.attn_drop.p if attn.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
    logits = (q * attn.scale) @ k.transpose(-2, -1)
    weights: Tensor = attn.attn_drop((logits if bias is None else logits + bias).softmax(dim=-1))
    return weights @ v
