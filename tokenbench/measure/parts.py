"""Models of several parts, such as a detector's backbone and heads, measured apart.

A module names its parts itself: `parts` is a list of a name and a module each, where several modules may share a name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.core.block import Block
from tokenbench.measure.running import evaluating, forward

REST = "post-processing"  # what is done in none of the parts


def of(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts that a module names; none for blocks, whose parts are those of a block, and for others."""
    found: Any = [] if isinstance(model, Block) else getattr(model, "parts", [])
    return list(found) if isinstance(found, list) else []


def parameters(model: nn.Module) -> dict[str, float] | None:
    """Parameters in 1e6 by part, each once; None where no parts are named."""
    named, seen = of(model), set[int]()
    found: dict[str, float] = dict.fromkeys((name for name, _ in named), 0.0)
    for name, module in named:
        for parameter in module.parameters():
            found[name] += 0 if id(parameter) in seen else parameter.numel() / 1e6
            seen.add(id(parameter))
    return found or None


def milliseconds(model: nn.Module, images: Tensor, precision: str = "fp32", runs: int = 5) -> dict[str, float] | None:
    """Median milliseconds of a forward pass by part, in eval mode; None where no parts are named.

    Time in a part within a part is the inner one's. On a GPU each part is awaited, so that their sum is more than the
    whole takes at once.
    """
    if not of(model):
        return None
    each: list[dict[str, float]] = []
    with evaluating(model):
        for _ in range(runs + 1):
            with _timed(model, images.device) as spent:
                forward(model, images, precision)
            each.append(spent)
    return {name: 1e3 * median(one[name] for one in each[1:]) for name in each[0]}  # the first warms up


@contextmanager
def _timed(model: nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    spent: dict[str, float] = dict.fromkeys([*(name for name, _ in of(model)), REST], 0.0)
    inside, seen = [REST], perf_counter()

    def settle() -> None:
        nonlocal seen
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = perf_counter()
        spent[inside[-1]] += now - seen
        seen = now

    def enter(name: str, *_: Any) -> None:
        settle()
        inside.append(name)

    def leave(*_: Any) -> None:
        settle()
        inside.pop()

    hooks = []
    for name, module in of(model):
        hooks.append(module.register_forward_pre_hook(partial(enter, name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield spent
        settle()
    finally:
        for hook in hooks:
            hook.remove()
