"""Multiply-adds of models of the Swin family, added up from the shapes alone."""

from __future__ import annotations

SWINS = {"swin_t": (96, (2, 2, 6, 2)), "swin_s": (96, (2, 2, 18, 2)), "swin_b": (128, (2, 2, 18, 2))}


def block(queries: int, width: int, keys: int, projected: int | None = None, attending: int | None = None) -> int:
    """A transformer block: every query looks at `keys`; `projected` tokens are made keys and values.

    Where a map is padded for attention, `attending` tokens ask, and `queries` go through the MLP.
    """
    asking = queries if attending is None else attending
    projected = asking if projected is None else projected
    return (2 * asking + 2 * projected + 8 * queries) * width**2 + 2 * asking * keys * width


def merging(tokens: int, width: int) -> int:
    """Four tokens of half the width to each of `tokens`."""
    return 2 * tokens * width**2


def swin(name: str, third: int | None = None, last: int = 49, within: int = 49) -> int:
    """A Swin on 224x224 pixels, `third` in place of its third stage's blocks.

    Its last stage has `last` tokens in windows of `within`.
    """
    width, depths = SWINS[name]
    third = depths[2] * block(196, 4 * width, 49) if third is None else third
    total = 3136 * 48 * width + depths[0] * block(3136, width, 49)
    total += merging(784, 2 * width) + depths[1] * block(784, 2 * width, 49)
    total += merging(196, 4 * width) + third
    return total + merging(last, 8 * width) + depths[3] * block(last, 8 * width, within) + 1000 * 8 * width
