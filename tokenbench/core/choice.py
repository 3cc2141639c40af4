"""Image by image the tokens of one of two, for methods that treat images differently and leave as many of each."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from tokenbench.core.tokens import Tokens


def either(choice: Tensor, one: Tokens, other: Tokens) -> Tokens:
    """The tokens of `one` in the images where `choice` (B,) is True, of `other` in the rest; both made of the same.

    Raises:
        ValueError: one has more tokens than the other.
    """
    if one.x.shape != other.x.shape:
        raise ValueError(f"Images can be taken from tokens of one shape, not {one.x.shape} and {other.x.shape}.")

    def pick(first: Tensor | None, second: Tensor | None) -> Tensor | None:
        if first is None or second is None:
            return None
        return first.where(choice.view(-1, *[1] * (first.dim() - 1)), second)

    size = None if one.size is None and other.size is None else pick(one.sizes(), other.sizes())
    marks = {
        name: mark.where(choice.view(-1, *[1] * (mark.dim() - 1)), other.marks[name])
        for name, mark in one.marks.items()
        if name in other.marks
    }
    return replace(
        one,
        x=one.x.where(choice[:, None, None], other.x),
        size=size,
        source=pick(one.source, other.source),
        fused=pick(one.fused, other.fused),
        alive=pick(one.alive, other.alive),
        marks=MappingProxyType(marks),
        layout=None,
    )
