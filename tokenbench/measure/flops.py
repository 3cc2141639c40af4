"""Multiply-adds of one image, counted twice: by torch's FlopCounterMode and, on a trace, by fvcore.

One definition: matmuls and convolutions, predictors and matching included, norms, softmax and biases left out, eval
mode. 1 MAC is 2 FLOP; papers print these GMACs as "FLOPs (G)".
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.measure.running import blocks_of, evaluating

PARTS = ("embed", "attention", "mlp", "selection", "head")
TOLERANCE = 0.005  # by which the two counts may differ, relative to the larger


@dataclass(frozen=True)
class Flops:
    """Multiply-adds of one image, in 1e9. The last two are empty unless the model is a `tokenbench.model.Model`."""

    gmacs: float  # matmuls and convolutions: the headline
    fvcore_gmacs: float  # fvcore's own total, which adds norms, pooling and interpolation
    by_operator: dict[str, float]  # sums to gmacs
    by_block: tuple[float, ...]  # attention, MLP and reducers of each block
    by_part: dict[str, float]  # of PARTS, sums to gmacs; selection is what reducers compute


def count(model: nn.Module, images: Tensor) -> Flops:
    """Count the multiply-adds of one forward pass, in eval mode, per image.

    Attention is always counted as its two matmuls, whichever kernel would run it. embed is all before the first block
    and between blocks, head all after the last.

    Args:
        model: any module from images to logits, on the device of the images.
        images: (B, channels, H, W); the count is divided by B.

    Raises:
        TokenbenchError: the two counters differ by more than 0.5 %; the message states both.
        UsageError: there is no image.
    """
    if not images.shape[0]:
        raise UsageError("No image was given to count with; give a batch of at least one.")
    with evaluating(model), torch.no_grad(), _no_fast_path():
        by_operator, by_block, by_part = _by_torch(model, images)
        second, unknown = _by_fvcore(model, images)
    scale = 1e9 * images.shape[0]
    gmacs = sum(by_operator.values()) / scale
    again = sum(second[name] for name in _handles()) / scale
    if abs(gmacs - again) > TOLERANCE * max(gmacs, again):
        raise TokenbenchError(
            f"Two counts of {type(model).__name__} differ: torch says {gmacs:.4g} GMAC and fvcore {again:.4g}; "
            f"add a handle to tokenbench.measure.flops for the product among {', '.join(unknown)}, unknown to fvcore."
        )
    return Flops(
        gmacs,
        sum(second.values()) / scale,
        {name: macs / scale for name, macs in by_operator.items()},
        tuple(macs / scale for macs in by_block),
        {name: macs / scale for name, macs in by_part.items()},
    )


def gmacs(model: nn.Module, images: Tensor) -> float:
    """The headline of `count`, by torch's counter alone, which on the meta device needs no arithmetic."""
    with evaluating(model), torch.no_grad(), _no_fast_path():
        return sum(_by_torch(model, images)[0].values()) / (1e9 * images.shape[0])


def _by_torch(model: nn.Module, images: Tensor) -> tuple[dict[str, float], list[float], dict[str, float]]:
    """MACs of the batch by operator, by block and by part."""
    mode = FlopCounterMode(display=False, custom_mapping=_vectors())
    split = _attributed(model, lambda: mode.get_total_flops() / 2)
    # Without MATH some torch versions count 0 for fused attention on the CPU.
    with sdpa_kernel(SDPBackend.MATH), mode, split as (by_block, by_part):
        model(images)
    counts = mode.get_flop_counts().get("Global", {})
    return {str(op).removeprefix("aten."): flops / 2 for op, flops in counts.items()}, by_block, by_part


@contextmanager
def _attributed(model: nn.Module, total: Callable[[], float]) -> Iterator[tuple[list[float], dict[str, float]]]:
    """Split what `total` grows by over the blocks and the parts of a Model; empty for other modules."""
    blocks = blocks_of(model)
    by_block, by_part = [0.0] * len(blocks), dict.fromkeys(PARTS if blocks else (), 0.0)
    inside: list[str] = ["embed"]  # the parts we are in, innermost last
    seen = 0.0

    def settle() -> float:
        nonlocal seen
        grown, seen = total() - seen, total()
        by_part[inside[-1]] += grown
        return seen

    def enter(part: str, *_: Any) -> None:
        settle()
        inside.append(part)

    def leave(*_: Any) -> None:
        settle()
        inside.pop()

    def enter_block(index: int, *_: Any) -> None:
        by_block[index] -= settle()
        inside.append("attention")

    def leave_block(index: int, *_: Any) -> None:
        by_block[index] += settle()
        inside.pop()
        if index == len(blocks) - 1:
            inside[-1] = "head"

    hooks = []
    for index, block in enumerate(blocks):
        hooks.append(block.register_forward_pre_hook(partial(enter_block, index)))
        hooks.append(block.register_forward_hook(partial(leave_block, index)))
        inner = [*block.parts, *(("selection", r) for r in block.reducers)]
        for part, module in inner:
            hooks.append(module.register_forward_pre_hook(partial(enter, part)))
            hooks.append(module.register_forward_hook(leave))
    try:
        yield by_block, by_part
        if blocks:
            settle()
    finally:
        for handle in hooks:
            handle.remove()


def _by_fvcore(model: nn.Module, images: Tensor) -> tuple[Counter[str], list[str]]:
    """MACs of the batch by fvcore's name of the operator, and the operators that it counts as 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore imports a deprecated torch.jit, and tracing warns of each constant
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images).tracer_warnings("none")
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.set_op_handle(**{f"aten::{name}": handle for name, handle in _handles().items() if handle})
        return Counter(analysis.by_operator()), sorted(analysis.unsupported_ops())


def _handles() -> dict[str, Callable[[list[Any], list[Any]], float] | None]:
    """The operators that make the headline, by fvcore's name; None where fvcore's own handle is right."""
    return {
        "conv": None,
        "linear": None,
        "addmm": None,
        "bmm": None,
        "mm": None,
        "einsum": _einsum,
        # fvcore's own handle takes two dimensions or more and no broadcasting
        "matmul": lambda i, o: _matmul(_shape(i[0]), _shape(o[0])),
        "mv": lambda i, o: math.prod(_shape(i[0])),
        "dot": lambda i, o: math.prod(_shape(i[0])),
        "addmv": lambda i, o: math.prod(_shape(i[1])),
        "baddbmm": lambda i, o: _matmul(_shape(i[1]), _shape(o[0])),
        "scaled_dot_product_attention": lambda i, o: (
            _matmul(_shape(i[0]), [*_shape(i[0])[:-1], _shape(i[1])[-2]])  # q kᵀ
            + _matmul([_shape(i[1])[-2]], _shape(o[0]))  # times v
        ),
    }


def _shape(value: Any) -> list[int]:
    return list(value.type().sizes())


def _matmul(left: list[int], out: list[int]) -> int:
    """MACs of a matmul, by the inner dimension of its left side and the shape of its result."""
    return left[-1] * math.prod(out)


def _einsum(inputs: list[Any], outputs: list[Any]) -> float:
    """MACs of an einsum of two tensors: the product of its letters' sizes, but for those summed before they meet."""
    from fvcore.nn.jit_handles import einsum_flop_jit

    left, arrow, result = inputs[0].toIValue().replace(" ", "").partition("->")
    words = left.split(",")
    if len(words) != 2 or not arrow or "." in left:
        return float(einsum_flop_jit(inputs, outputs))
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    sizes = dict(zip("".join(words), chain(*shapes), strict=True))
    return math.prod(size for letter, size in sizes.items() if letter in result or all(letter in w for w in words))


def _vectors() -> dict[Any, Callable[..., int]]:
    """FLOPs of the products with a vector, which torch does not count."""
    aten = torch.ops.aten
    return {
        aten.mv: lambda a, *_, **__: 2 * math.prod(a),
        aten.dot: lambda a, *_, **__: 2 * math.prod(a),
        aten.addmv: lambda _, a, *__, **___: 2 * math.prod(a),
    }


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Without torch's fused encoder layer and multi-head attention, which no counter looks into."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
