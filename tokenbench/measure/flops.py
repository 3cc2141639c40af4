"""Multiply-adds of one image, counted twice: by torch's FlopCounterMode and, on a trace, by fvcore.

One definition: matmuls and convolutions of the published form, predictors and matching included, norms, softmax and
biases left out, eval mode. 1 MAC is 2 FLOP; papers print these GMACs as "FLOPs (G)".
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import pstdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokenbench.errors import TokenbenchError, UsageError, first_line
from tokenbench.measure import parts
from tokenbench.measure.operators import Met, apart, products
from tokenbench.measure.running import as_published, blocks_of, evaluating

Handle = Callable[[list[Any], list[Any]], float]  # of fvcore: the values a node takes and gives, to MACs

PARTS = ("embed", "attention", "mlp", "selection", "head")
TOLERANCE = 0.005  # by which the two counts may differ, relative to the larger
WORTH_SAYING = 0.01  # share of all elements above which an operator that nobody counts is named
PROBED = 3  # images that tell whether the count depends on the image


@dataclass(frozen=True)
class Flops:
    """Multiply-adds of one image, in 1e9. `by_block` and `by_part` are empty where a model does not say them."""

    gmacs: float  # matmuls and convolutions: the headline
    fvcore_gmacs: float | None  # fvcore's own total, which adds norms, pooling and interpolation; None: not traceable
    by_operator: dict[str, float]  # sums to gmacs
    by_block: tuple[float, ...]  # attention, MLP and reducers of each block
    by_part: dict[str, float]  # of PARTS, or those a model names; sums to gmacs; selection is what reducers compute
    uncounted: dict[str, float] = field(default_factory=dict)  # operators that gmacs leaves out though they may
    # multiply: by name, the share of all elements that operators took and gave, 0 to 1
    unchecked: str | None = None  # why the second counter could not be asked, as a clause
    gmacs_std: float = 0.0  # standard deviation over images; above 0 where the count depends on the image
    images: int = 1  # that were counted
    cheaper: float | None = None  # what runs, where that is another form of the same outputs than was published

    @property
    def notes(self) -> tuple[str, ...]:
        """Clauses that belong beside the number: what was left out, and what only one counter has counted."""
        shown = [
            f"{name} ({f'{100 * share:.0f}' if share > WORTH_SAYING else 'under 1'} % of elements)"
            for name, share in self.uncounted.items()
            if share > WORTH_SAYING or "::" in name
        ]
        left_out = [f"GMACs leave out {', '.join(shown)}"] if shown else []
        cheaper = [f"runs in a form of {self.cheaper:.4g} GMAC with the same outputs"] if self.cheaper else []
        return (*cheaper, *left_out, *([f"GMACs counted once, not twice: {self.unchecked}"] if self.unchecked else []))


def count(model: nn.Module, images: Tensor) -> Flops:
    """Count the multiply-adds of one forward pass, in eval mode, per image.

    Attention is always counted as its two matmuls, whichever kernel would run it, a compiled module as the one it was
    made from. embed is all before the first block and between blocks, head all after the last. Where images keep
    different numbers of tokens each is counted alone, without the padding of a batch, as `over` does.

    Args:
        model: any module from images to logits, on the device of the images.
        images: (B, channels, H, W); the count is divided by B. `over` counts images one by one.

    Raises:
        TokenbenchError: the two counters differ by more than 0.5 %; the message states both.
        UsageError: there is no image, or the module is one of TorchScript.
    """
    if not images.shape[0]:
        raise UsageError("No image was given to count with; give a batch of at least one.")
    met, model = Met(), getattr(model, "_orig_mod", model)
    with _plainly(model):
        if images.shape[0] > 1 and _padded(model, images):
            return over(model, images)
        by_operator, by_block, by_part = _by_torch(model, images, met)
        scale = 1e9 * images.shape[0]
        total = sum(by_operator.values()) / scale
        again, unchecked = _checked(model, images, total, met)
    forms = any(hasattr(module, "published") for module in model.modules())
    runs = gmacs(model, images, False) if forms else total
    return Flops(
        total,
        again,
        {name: macs / scale for name, macs in by_operator.items()},
        tuple(macs / scale for macs in by_block),
        {name: macs / scale for name, macs in by_part.items()},
        met.uncounted(),
        unchecked,
        cheaper=runs if runs < total else None,
    )


def _singly(images: Tensor) -> list[Tensor]:
    """Batches of one; none of none, where `split` would give an empty one."""
    return [images[i : i + 1] for i in range(len(images))]


def _padded(model: nn.Module, images: Tensor) -> bool:
    """Whether images of this batch are padded in any block."""
    run: Any = getattr(model, "run", None)
    return bool(blocks_of(model)) and any(tokens.present is not None for tokens in run(images).trace)


def over(model: nn.Module, images: Tensor) -> Flops:
    """The mean over images, each counted alone, with the standard deviation (of the population) of the total.

    Where the first `PROBED` images cost the same, the first stands for all: then this costs little more than `count`.

    Args:
        model: any module from images to logits, on the device of the images.
        images: (B, channels, H, W), real ones where counts may depend on what they show.

    Raises:
        TokenbenchError: as `count`.
    """
    first = count(model, images[:1])
    with _plainly(model):
        probes = [sum(_by_torch(model, image, Met())[0].values()) / 1e9 for image in _singly(images[1:PROBED])]
    if all(probe == first.gmacs for probe in probes):
        return first
    each = [first, *(count(model, image) for image in _singly(images[1:]))]

    def mean(values: Iterable[float]) -> float:
        return math.fsum(values) / len(each)

    def by_name(name: str) -> dict[str, float]:
        found: list[dict[str, float]] = [getattr(one, name) for one in each]
        return {key: mean(one.get(key, 0.0) for one in found) for key in dict.fromkeys(chain(*found))}

    again = [one.fvcore_gmacs for one in each if one.fvcore_gmacs is not None]
    return Flops(
        mean(one.gmacs for one in each),
        mean(again) if len(again) == len(each) else None,
        by_name("by_operator"),
        tuple(map(mean, zip(*(one.by_block for one in each), strict=True))),
        by_name("by_part"),
        by_name("uncounted"),
        next((one.unchecked for one in each if one.unchecked), None),
        pstdev(one.gmacs for one in each),
        len(each),
        None if first.cheaper is None else mean(one.cheaper or one.gmacs for one in each),
    )


def gmacs(model: nn.Module, images: Tensor, published: bool = True) -> float:
    """The headline of `count`, by torch's counter alone, on the meta device without arithmetic; or of what runs."""
    with _plainly(model), as_published(model, published):
        return sum(_by_torch(model, images, Met())[0].values()) / (1e9 * images.shape[0])


def _by_torch(model: nn.Module, images: Tensor, met: Met) -> tuple[dict[str, float], list[float], dict[str, float]]:
    """MACs of the batch by operator, by block and by part."""
    mode = FlopCounterMode(display=False, custom_mapping=products())
    split = _attributed(model, lambda: mode.get_total_flops() / 2)
    # Without MATH some torch versions count 0 for fused attention on the CPU.
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH), met, mode, split as (by_block, by_part):
        warnings.filterwarnings("ignore", "Using `torch.compile")  # torch's counter has hooks on all modules
        model(images)
    counts = mode.get_flop_counts().get("Global", {})
    return {str(op).removeprefix("aten."): flops / 2 for op, flops in counts.items()}, by_block, by_part


@contextmanager
def _attributed(model: nn.Module, total: Callable[[], float]) -> Iterator[tuple[list[float], dict[str, float]]]:
    """Split what `total` grows by over the blocks and the parts of a Model, or over those that a module names itself
    (`parts.of`); empty for other modules.
    """
    blocks, named = blocks_of(model), parts.of(model)
    known = dict.fromkeys([*(name for name, _ in named), parts.REST]) if named else PARTS if blocks else ()
    by_block, by_part = [0.0] * len(blocks), dict.fromkeys(known, 0.0)
    inside: list[str] = [parts.REST if named else "embed"]  # the parts we are in, innermost last
    seen = 0.0

    def settle() -> float:
        nonlocal seen
        grown, seen = total() - seen, total()
        if by_part:
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
        inside.append(inside[-1] if named else "attention")

    def leave_block(index: int, *_: Any) -> None:
        by_block[index] += settle()
        inside.pop()
        if index == len(blocks) - 1 and not named:
            inside[-1] = "head"

    hooks = []
    for index, block in enumerate(blocks):
        hooks.append(block.register_forward_pre_hook(partial(enter_block, index)))
        hooks.append(block.register_forward_hook(partial(leave_block, index)))
    inner = [part for b in blocks for part in (*b.parts, *(("selection", r) for r in b.reducers))]
    for part, module in named or inner:
        hooks.append(module.register_forward_pre_hook(partial(enter, part)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield by_block, by_part
        if by_part:
            settle()
    finally:
        for handle in hooks:
            handle.remove()


def _checked(model: nn.Module, images: Tensor, gmacs: float, met: Met) -> tuple[float | None, str | None]:
    """fvcore's total in 1e9 an image, None where it cannot be asked, and why not.

    Raises:
        TokenbenchError: of the products it counts other than `gmacs`.
    """
    if met.sparse:
        return None, "a trace does not say how many elements of a sparse matrix are 0"
    scale, others, failed = 1e9 * images.shape[0], list[str](), set[str]()
    for _ in range(2):  # the second time with a handle for each operator that fvcore left out
        try:
            second, unknown = _by_fvcore(model, images, dict.fromkeys(others, partial(apart, failed)))
        except Exception as error:  # torch has just run this model, so it is the trace that cannot be made
            return None, f"it cannot be traced ({first_line(error)})"
        again = sum(second[name] for name in {*_handles(), *(name.partition("::")[2] for name in others)}) / scale
        if abs(gmacs - again) <= TOLERANCE * max(gmacs, again):
            return sum(second.values()) / scale, None
        others = others or unknown
    if failed and again < gmacs:
        return None, f"fvcore does not know {', '.join(sorted(failed))}"
    raise TokenbenchError(
        f"Two counts of {type(model).__name__} differ: torch says {gmacs:.4g} GMAC and fvcore {again:.4g}; "
        f"give a custom operator its formula by torch.utils.flop_counter.register_flop_formula."
    )


def _by_fvcore(model: nn.Module, images: Tensor, more: Mapping[str, Handle]) -> tuple[Counter[str], list[str]]:
    """MACs of the batch by fvcore's name of the operator, and the operators that it counts as 0; `more` are handles."""
    with warnings.catch_warnings(), _hooks_kept(model):
        warnings.simplefilter("ignore")  # fvcore imports a deprecated torch.jit, and tracing warns of each constant
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(model, images)
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.set_op_handle(**{f"aten::{name}": handle for name, handle in _handles().items() if handle}, **more)
        return Counter(analysis.by_operator()), sorted(analysis.unsupported_ops())


@contextmanager
def _hooks_kept(model: nn.Module) -> Iterator[None]:
    """Take off the hooks that fvcore leaves on all modules where a trace fails: other models share the blocks."""
    hooks = [d for m in model.modules() for d in (m._forward_pre_hooks, m._forward_hooks)]
    before = [dict(d) for d in hooks]
    try:
        yield
    finally:
        for now, then in zip(hooks, before, strict=True):
            for key in now.keys() - then.keys():
                del now[key]


def _handles() -> dict[str, Handle | None]:
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
    """MACs of an einsum: of two tensors the product of its letters' sizes, but for those summed before they meet; of
    one or several, or with letters left out, what torch makes of it is asked, for it picks the order.
    """
    left, arrow, result = inputs[0].toIValue().replace(" ", "").partition("->")
    words = left.split(",")
    if len(words) != 2 or not arrow or "." in left:
        return apart(set(), inputs, outputs)
    shapes = [_shape(value) for value in inputs[1].node().inputs()]
    sizes = dict(zip("".join(words), chain(*shapes), strict=True))
    return math.prod(size for letter, size in sizes.items() if letter in result or all(letter in w for w in words))


@contextmanager
def _plainly(model: nn.Module) -> Iterator[None]:
    """Eval mode, the published form, without gradients and without what counters cannot look into: torch's fused
    encoder layer and multi-head attention, compiled code.

    Parameters are told that they need no gradient, since torch's counter hangs hooks on those that a module is called
    with, as attention pooling does with its latent.

    Raises:
        UsageError: the module is one of TorchScript, in which no counter sees.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError(
            f"{type(model).__name__} has modules of TorchScript, whose operators cannot be counted; "
            f"give the module it was made from."
        )
    before = torch.backends.mha.get_fastpath_enabled()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(as_published(model))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # or nothing has been compiled, and it is slow to import
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(torch.backends.mha.set_fastpath_enabled, before)
        torch.backends.mha.set_fastpath_enabled(False)
        for parameter in learning:
            stack.callback(parameter.requires_grad_)
            parameter.requires_grad_(False)
        yield
