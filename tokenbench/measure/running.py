"""What every measurement needs around a forward pass: eval mode, precision, and one error for lack of memory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.core.block import Block
from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.measure.allocator import keep_freed

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_THROTTLED = 0x8 | 0x20 | 0x40 | 0x80  # NVML: slowed down by hardware, by heat as software or hardware saw it, by power
_OOM = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(TokenbenchError):
    """A batch that does not fit in the memory of its device."""


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside, every submodule's own mode restored on the way out. On a CPU the process keeps what it frees
    from then on (`measure.allocator`).
    """
    keep_freed()
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def as_published(model: nn.Module, published: bool = True) -> Iterator[None]:
    """Modules that have a cheaper form of the same outputs run in the published one inside, or else in the cheaper."""
    modules: list[Any] = [module for module in model.modules() if hasattr(module, "published")]
    before = [(module, module.published) for module in modules]
    try:
        for module, _ in before:
            module.published = published
        yield
    finally:
        for module, form in before:
            module.published = form


def forward(model: nn.Module, images: Tensor, precision: str = "fp32", name: str | None = None) -> Tensor:
    """Logits (B, classes) of images (B, channels, H, W), without gradients.

    Args:
        model: any module from images to logits, in the mode it should run in, on the device of the images.
        images: one batch.
        precision: "fp32" runs the model as it is; "bf16" and "fp16" run it under `torch.autocast`, which timm calls
            amp: weights stay in float32 and are cast on use, norms and softmax stay in float32.
        name: what to call the model in messages.

    Raises:
        OutOfMemory: the device has too little memory for this batch.
        UsageError: the precision is not one of the three.
    """
    cast = autocast(images.device, precision)
    try:
        with torch.inference_mode(), cast:
            logits: Tensor = model(images)
            return logits
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Raised out here because an exception keeps the frames it was raised in, and they would keep the tensors.
    raise OutOfMemory(
        f"{name or type(model).__name__} ran out of memory on {images.device} at batch {images.shape[0]}, "
        f"use a smaller batch."
    )


def autocast(device: torch.device, precision: str) -> Any:
    """The context for a precision; raises `UsageError` for one that is not served."""
    if precision not in PRECISIONS:
        raise UsageError(f"Precision '{precision}' is not served; choose {', '.join(PRECISIONS)}.")
    dtype = PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in _OOM)


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer is; the CPU if it has none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of a `tokenbench.model.Model`; an empty list for any other module."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, Iterable):
        return []
    found = list(blocks)
    return found if all(isinstance(block, Block) for block in found) else []


def conditions(device: str | torch.device = "cpu") -> dict[str, Any]:
    """What decides speeds and last digits beside the hardware, ready for JSON, as it is at this moment.

    Returns:
        `fused_attention`: whether timm runs attention as one kernel (`TIMM_FUSED_ATTN`); `threads` of one operator;
        `matmul_precision` of float32, "highest" unless TF32 is let in; versions of `torch` and `timm`; on CUDA
        `sm_clock_mhz`, the GPU's clock, None where nvidia-smi does not say.
    """
    import timm
    from timm.layers import use_fused_attn

    device = torch.device(device)
    found = {
        "fused_attention": bool(use_fused_attn()),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    return {**found, "sm_clock_mhz": clocks(device)["sm_clock_mhz"]} if device.type == "cuda" else found


def clocks(device: torch.device) -> dict[str, float | None]:
    """A GPU's `sm_clock_mhz`, and whether heat or a fault of power has `throttled` it, as 0 or 1; None where nvidia-smi
    does not say. That it draws all the power it may is not counted: under full load it always does.
    """
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    what = "--query-gpu=clocks.sm,clocks_throttle_reasons.active"
    query = ["nvidia-smi", f"--id={uuid}", what, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        clock, reasons = done.stdout.split(",")
        return {"sm_clock_mhz": int(clock), "throttled": float(bool(int(reasons, 16) & _THROTTLED))}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {"sm_clock_mhz": None, "throttled": None}
