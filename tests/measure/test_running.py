"""What is recorded beside a measurement."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest
import timm
import torch
from conftest import tiny_vit
from reducing import model
from timm.layers import set_fused_attn
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.measure.running import blocks_of, clocks, conditions, device_of, is_out_of_memory


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


def test_the_clock_of_a_gpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"stdout": "1980, 0x0000000000000004\n"}
    asked: list[tuple[list[str], dict[str, object]]] = []

    def run(command: list[str], **how: object) -> SimpleNamespace:
        asked.append((command, how))
        return SimpleNamespace(**said)

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"u{device.index}"))
    monkeypatch.setattr(subprocess, "run", run)
    assert conditions("cuda:3") == {**conditions(), "sm_clock_mhz": 1980}
    query = "--query-gpu=clocks.sm,clocks_throttle_reasons.active"
    command = ["nvidia-smi", "--id=GPU-u3", query, "--format=csv,noheader,nounits"]
    assert asked == [(command, {"capture_output": True, "text": True, "timeout": 10, "check": True})]
    for reasons, throttled in (("0x0", 0.0), ("0x4", 0.0), ("0x8", 1.0), ("0x24", 1.0), ("0x40", 1.0), ("0x80", 1.0)):
        said["stdout"] = f"1200, {reasons}\n"
        assert clocks(torch.device("cuda:3")) == {"sm_clock_mhz": 1200, "throttled": throttled}, reasons
    for nothing in ("[N/A], [N/A]", "1980", "1980, x"):
        said["stdout"] = nothing
        assert clocks(torch.device("cuda:3")) == {"sm_clock_mhz": None, "throttled": None}
    assert conditions("cuda:3")["sm_clock_mhz"] is None


def test_where_a_model_is_and_what_its_blocks_are() -> None:
    buffers = nn.Module()
    buffers.register_buffer("table", torch.empty(2, device="meta"))
    found = [device_of(one).type for one in (nn.Linear(2, 2, device="meta"), buffers, nn.Flatten(), nn.Linear(2, 2))]
    assert found == ["meta", "meta", "cpu", "cpu"]
    made = model(Backbone(tiny_vit()))
    assert blocks_of(made) == list(made.blocks) and len(blocks_of(made)) == 12
    odd = nn.Linear(2, 2)
    assert blocks_of(odd) == []
    for blocks in (7, [nn.Linear(2, 2)], [*made.blocks, None]):
        odd.blocks = blocks  # type: ignore[assignment]
        assert blocks_of(odd) == []


def test_every_way_in_which_memory_runs_out() -> None:
    said = ("CUDA out of memory.", "DefaultCPUAllocator: no", "CUBLAS_STATUS_ALLOC_FAILED when calling")
    assert all(is_out_of_memory(RuntimeError(f"[x] {text}")) for text in said)
    assert is_out_of_memory(torch.OutOfMemoryError("anything")) and not is_out_of_memory(RuntimeError("of memory"))
