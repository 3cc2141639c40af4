"""What is recorded beside a measurement."""

from __future__ import annotations

import json

import timm
import torch
from timm.layers import set_fused_attn

from tokenbench.measure.running import conditions


def test_conditions_are_those_of_this_moment() -> None:
    found = conditions()
    assert found == {
        "fused_attention": True,
        "threads": torch.get_num_threads(),
        "matmul_precision": "highest",
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    assert json.loads(json.dumps(found)) == found
    threads = torch.get_num_threads()
    try:
        set_fused_attn(False)
        torch.set_num_threads(threads + 1)
        changed = conditions(torch.device("cpu"))
    finally:
        set_fused_attn(True)
        torch.set_num_threads(threads)
    assert changed == {**found, "fused_attention": False, "threads": threads + 1}
