"""Attention, written out once so that a reducer can ask for what it needs of it, and nothing more is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tokenbench.core.borrowed import thirds
from tokenbench.core.policy import softmax_with_policy


@dataclass(frozen=True)
class Attn:
    """What a reducer may ask of a block's attention, computed only when asked, so that the fused kernel stays on.

    Shapes: q (B, H, M, d), k and v (B, H, N, d), after any q/k norm; M = N but in cross-attention. Costs are
    multiply-adds an image; C = H * d. Once `matrix` is there, rows and sums of it cost nothing.
    """

    q: Tensor
    k: Tensor
    v: Tensor | None  # None where a reducer wants values of the tokens that go on (`Reducer.values`)
    scale: float
    prefix: int
    bias: Tensor | None = None  # (B, 1, 1, N), or another shape that broadcasts to (B, H, M, N); added to the logits
    matrix: Tensor | None = None  # (B, H, M, N) attention in place of softmax(q k + bias); None until written out
    y: Tensor | None = None  # (B, M, C) the normalised tokens that asked
    real: Tensor | None = None  # (B, M) False at queries that are padding; None where there is none

    def class_row(self) -> Tensor:
        """Attention of the class token to the tokens after the prefix, mean over heads: (B, N - prefix).

        Softmax runs over all N keys, so a row sums to less than 1. It is 0 at padding. Costs N * C.
        """
        return self.rows(slice(0, 1)).mean(1)[:, 0, self.prefix :]

    def class_rows(self) -> Tensor:
        """As `class_row`, of each head: (B, H, N - prefix). Costs N * C."""
        return self.rows(slice(0, 1))[:, :, 0, self.prefix :]

    def rows(self, queries: slice | None = None) -> Tensor:
        """Attention of these queries, all by default, to all keys: (B, H, m, N). Costs m * N * C."""
        if self.matrix is None:
            return self.logits(queries).softmax(dim=-1)
        return self.matrix if queries is None else self.matrix[:, :, queries]

    def received(self, queries: slice | None = None) -> Tensor:
        """What each key receives from these queries, all by default, in sum: (B, H, N); nothing comes from padding.

        Costs m * N * C, and the memory of those rows.
        """
        rows = self.rows(queries)
        if self.real is not None:
            rows = rows * (self.real if queries is None else self.real[:, queries])[:, None, :, None]
        return rows.sum(2)

    def weights(self) -> Tensor:
        """All attention, mean over heads: (B, M, N). Costs M * N * C; quadratic memory."""
        return self.rows().mean(1)

    def mean_key(self) -> Tensor:
        """The keys, mean over heads: (B, N, d). Costs nothing."""
        return self.k.mean(1)

    def value_norms(self) -> Tensor:
        """Length of each token's value, all heads together: (B, N). Costs nothing. Of each head: `v.norm(dim=-1)`.

        Raises:
            ValueError: there are no values yet.
        """
        if self.v is None:
            raise ValueError('There are no values before attention with values = "after"; leave that line out.')
        norms: Tensor = self.v.norm(dim=(1, 3))
        return norms

    def logits(self, queries: slice | None = None) -> Tensor:
        """What softmax is taken of, (B, H, m, N), bias included. Costs m * N * C."""
        q = self.q if queries is None else self.q[:, :, queries]
        logits = (q * self.scale) @ self.k.transpose(-2, -1)
        if self.bias is None:
            return logits
        return logits + (self.bias if queries is None or self.bias.shape[-2] == 1 else self.bias[..., queries, :])

    def written_out(self, policy: Tensor | None = None) -> Attn:
        """With its matrix; under a policy (B, N), 1 kept and 0 dropped, by the masked softmax of training."""
        if self.matrix is not None:
            return self
        return replace(self, matrix=self.rows() if policy is None else softmax_with_policy(self.logits(), policy))


def project(
    attn: Any, y: Tensor, keys: Tensor | None = None, late: bool = False, asking: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """q (B, H, M, d), k and v (B, H, N, d) of a `timm.layers.Attention`, normed as it norms them.

    Args:
        attn: timm's module; its own projections and norms are used.
        y: (B, M, C) normalised tokens that ask; also keys and values unless `keys` is given.
        keys: (B, N, C) normalised tokens to attend to instead.
        late: leave the values out, to be made by `values` of other tokens; not with `keys`.
        asking: of late values, so many tokens that ask now; `queries` makes the others' later. All if not given.
    """
    v = None
    if keys is not None:
        (q,) = heads(thirds(attn.qkv, y, 0, 1), attn.num_heads, 1)
        k, v = heads(thirds(attn.qkv, keys, 1, 3), attn.num_heads, 2)
    elif late and asking is not None:
        (q,), (k,) = (heads(thirds(attn.qkv, x, i, i + 1), attn.num_heads, 1) for i, x in enumerate((y[:, :asking], y)))
    elif late:
        q, k = heads(thirds(attn.qkv, y, 0, 2), attn.num_heads, 2)
    else:
        q, k, v = heads(attn.qkv(y), attn.num_heads, 3)
    return attn.q_norm(q), attn.k_norm(k), v


def queries(attn: Any, y: Tensor) -> Tensor:
    """q (B, H, N, d) of normalised tokens y (B, N, C), normed as `project` does."""
    q: Tensor = attn.q_norm(heads(thirds(attn.qkv, y, 0, 1), attn.num_heads, 1)[0])
    return q


def values(attn: Any, y: Tensor) -> Tensor:
    """v (B, H, N, d) of normalised tokens y (B, N, C)."""
    return heads(thirds(attn.qkv, y, 2, 3), attn.num_heads, 1)[0]


def attend(attn: Any, given: Attn, y: Tensor) -> Tensor:
    """The rest of timm's `Attention.forward`, bit-equal to it where both apply: values mixed, and projected (B, M, C).

    Args:
        attn: a `timm.layers.Attention`.
        given: q, k and v, or the matrix in place of q and k.
        y: (B, M, C) the normalised tokens that asked, which a gate reads.
    """
    if given.v is None:
        raise ValueError("Attention has no values to mix; project them first.")
    if given.matrix is not None:
        x = attn.attn_drop(given.matrix.to(given.v.dtype)) @ given.v
    else:
        x = mixed(attn, given.q, given.k, given.v, given.bias)
    x = x.transpose(1, 2).flatten(2)
    x = attn.norm(x) if hasattr(attn, "norm") else x
    if getattr(attn, "gate", None) is not None:
        x = x * attn.gate(y).sigmoid()
    out: Tensor = attn.proj_drop(attn.proj(x))
    return out


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


def heads(x: Tensor, count: int, parts: int) -> tuple[Tensor, ...]:
    """So many parts (B, H, N, d) of (B, N, parts * H * d)."""
    split: Tensor = x.unflatten(2, (parts, count, -1))
    return tuple(split.permute(2, 0, 3, 1, 4).unbind(0))
