"""Attention and MLP as the papers write them, with the weights of a timm block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def mha(block: Any, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Multi-head attention as the paper writes it, with a timm block's own weights; also the mean attention."""
    attn, dim = block.attn, queries.shape[-1]
    q, k, v = (
        F.linear(y, attn.qkv.weight[i * dim : (i + 1) * dim], attn.qkv.bias[i * dim : (i + 1) * dim])
        for i, y in enumerate((block.norm1(queries), block.norm1(keys), block.norm1(keys)))
    )
    heads, out, maps = attn.num_heads, [], []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = (q_h @ k_h.transpose(1, 2) / (dim // heads) ** 0.5).softmax(-1)
        out.append(weights @ v_h)
        maps.append(weights)
    return attn.proj(torch.cat(out, -1)), torch.stack(maps).mean(0)


def ffn(block: Any, x: Tensor) -> Tensor:
    return x + block.mlp(block.norm2(x))
