"""Parameters, and the most memory a forward pass holds at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tokenbench.measure.running import evaluating, forward


def parameters(model: nn.Module) -> int:
    """Number of parameters, each once however often it is used."""
    return sum(parameter.numel() for parameter in model.parameters())


def peak(model: nn.Module, images: Tensor, precision: str = "fp32") -> int:
    """The most bytes that the tensors made by one forward pass hold at once, in eval mode and without gradients.

    Parameters, buffers and the images themselves are left out. On CUDA this is the rise of
    `torch.cuda.max_memory_allocated`, after one pass to let libraries take their workspaces: it holds what kernels
    allocate for themselves, but neither the allocator's cache nor the CUDA context. On the CPU it is the tensors that
    torch operators return, each storage once, from its making to its end: scratch memory inside a kernel does not
    show. With bf16 and fp16, weights cast by autocast count. The two are not comparable with each other.

    Args:
        model: any module, on the device of the images.
        images: (B, channels, H, W), B as it should be measured.
        precision: "fp32", "bf16" or "fp16"; see `tokenbench.measure.running.forward`.

    Raises:
        OutOfMemory: the batch does not fit.
    """
    with evaluating(model):
        if images.device.type == "cuda":
            forward(model, images, precision)
            torch.cuda.synchronize(images.device)
            before = torch.cuda.memory_allocated(images.device)
            torch.cuda.reset_peak_memory_stats(images.device)
            forward(model, images, precision)
            return int(torch.cuda.max_memory_allocated(images.device) - before)
        live = _Live(chain(model.parameters(), model.buffers(), [images]))
        with live:
            forward(model, images, precision)
        return live.peak


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all storages that operators make, apart from those of `known`, while they live."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._counted = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        self.peak = max(self.peak, self.now)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._counted:
            return
        self._counted.add(storage._cdata)
        self.now += storage.nbytes()
        weakref.finalize(storage, self._free, storage._cdata, storage.nbytes()).atexit = False

    def _free(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size
