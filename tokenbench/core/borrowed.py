"""What it takes to run a borrowed module by its parts: nothing that its owner hung on it may be passed over."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit._trace import is_tracing

from tokenbench.errors import Unsupported


def thirds(qkv: Any, x: Tensor, first: int, last: int) -> Tensor:
    """The thirds [first, last) of a layer's output: of queries, keys and values.

    By that part of its weights; where it is more than weights (an adapter around them, a hook), by the whole layer.
    """
    if type(qkv) is nn.Linear and not meddled(qkv):
        first, last = (qkv.out_features // 3 * third for third in (first, last))
        cut: Tensor = F.linear(x, qkv.weight[first:last], None if qkv.bias is None else qkv.bias[first:last])
        return cut
    out: Tensor = qkv(x)
    parts: Tensor = out.unflatten(-1, (3, -1))
    return parts[..., first:last, :].flatten(-2)


def meddled(module: nn.Module) -> bool:
    """Whether calling a module does more than its class says: it has hooks, or a `forward` of its own.

    While a graph is traced hooks are not looked at: fvcore, which counts on it, hangs its own on every module.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return "forward" in module.__dict__ or (any(map(len, hooks)) and not is_tracing())


def unmeddled(*modules: nn.Module) -> None:
    """To be called before modules' parts are run one by one in their place.

    Raises:
        Unsupported: one of them has a hook or a `forward` of its own.
    """
    for module in modules:
        if meddled(module):
            raise Unsupported(
                f"A hook on this {type(module).__name__}, or a forward of its own, would be passed over where a method "
                "works inside the block; take it off, or put it on a layer inside, such as attn.qkv, attn.proj or mlp."
            )
