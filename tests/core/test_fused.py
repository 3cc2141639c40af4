"""Attention stays fused: one fused kernel a block, and scores are computed only when asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import served, tiny_swin
from torch.overrides import TorchFunctionMode

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.measure.running import blocks_of
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.model import Model


class Calls(TorchFunctionMode):
    """Counts fused attention, and softmax written out."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = 0
        self.rows: list[tuple[int, ...]] = []  # shapes (B, H, M, N) of attention written out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            self.fused += 1
        if func is torch.Tensor.softmax and args[0].dim() == 4:
            self.rows.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


ROWS = {"diffrate": 12, "evovit": 12, "tomecis": 6, "evit": 3, "etps": 3, "ppt": 3, "topk": 3, "spvit": 1}


@pytest.mark.parametrize("method", [param.values[1] for param in served() if param.values[0] == "vit"], ids=str)
def test_fused(method: Method, tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    model = Model(tiny(), method).eval()
    with torch.inference_mode(), Calls() as calls:
        model(images)
    whole = sum(any(reducer.matrix for reducer in block.reducers) for block in blocks_of(model))
    rows = [queries for _, _, queries, _ in calls.rows]
    assert calls.fused == 12 - whole, "all but the blocks whose reducers ask for the whole matrix"
    assert sum(queries > 2 for queries in rows) == whole, "else only rows of the class token or of what replaces it"
    assert whole == 0 or method.name in ("ats", "gtp", "kmedoids", "mctf")
    assert len(rows) - whole == ROWS.get(method.name, 0), "and only where they are asked for"


@pytest.mark.parametrize("method", ["dense", "stvit_r", "dynamicvit"])
def test_swin_is_fused_throughout(method: str) -> None:
    """Blocks that a method brings attend as those they replace; timm leaves Swin unfused, and `create` does not."""
    with torch.device("meta"):
        model = Model(backbones.create("swin_t"), get(method)())
    attentions = [module for module in model.modules() if hasattr(module, "fused_attn")]
    assert len(attentions) == 12 and all(module.fused_attn for module in attentions)
    unfused = Model(Backbone(tiny_swin()), get(method)())
    assert not any(getattr(module, "fused_attn", False) for module in unfused.modules())
