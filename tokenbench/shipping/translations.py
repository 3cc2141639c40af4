"""Operators of torch that its ONNX exporter does not know, in ONNX's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from tokenbench.core.extras import needed


def table() -> Mapping[Any, Callable[..., Any]]:
    """What each of these becomes, for `torch.onnx.export`."""
    needed("onnxscript", "onnx", "Exporting onnx")
    from onnxscript import opset18

    op: Any = opset18  # typed by its own kinds of tensors

    def sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        """TopK of all, which puts the lower index first where values are equal: a stable sort."""
        count = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]), axis=0)
        return op.TopK(self, count, axis=dim, largest=int(descending), sorted=1)

    def kth(self: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
        """The last of the k smallest."""
        values, places = op.TopK(self, op.Constant(value_ints=[k]), axis=dim, largest=0, sorted=1)
        last = op.Constant(value_ints=[k - 1]) if keepdim else op.Constant(value_int=k - 1)
        return op.Gather(values, last, axis=dim), op.Gather(places, last, axis=dim)

    aten = torch.ops.aten
    return {aten.sort.stable: sort, aten.kthvalue.default: kth}
