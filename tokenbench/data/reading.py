"""What training asks of data whatever the task: images that can be read, and draws that belong to their places."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch

from tokenbench.data.opening import reason
from tokenbench.errors import BadSetting, DataError


class Readable:
    """An image by its index, or the next one that can be read, its index, and name and reason of those passed over."""

    def __init__(self, images: Any, mode: str = "RGB") -> None:
        self.images, self.mode, self.unread = images, mode, dict[int, str]()

    def __call__(self, first: int, read: Callable[[int], Any] | None = None) -> tuple[Any, int, dict[str, str]]:
        """What `read` makes of the first that it can read, by default the picture; `DataError` where it can none."""
        read = read or (lambda index: self.images.open(index, self.mode))
        passed: dict[str, str] = {}
        for index in chain(range(first, len(self.images)), range(first)):
            if index not in self.unread:
                try:
                    return read(index), index, passed
                except Exception as error:  # a damaged file makes PIL raise nearly anything
                    self.unread[index] = reason(error)
            passed[self.images.label(index)] = self.unread[index]
        raise DataError(
            f"None of the {len(self.images)} {what_of(self.images)}s of {self.images.name} to train on can be read; "
            f"the first, {self.images.label(0)}: {self.unread[0]}."
        )


def what_of(images: Any) -> str:
    """What to call one of them."""
    return str(getattr(images, "what", "image"))


def chosen(count: int, batch: int, workers: int, limit: int | None) -> list[int]:
    """The indices of what a loader loads, of so many; raises `BadSetting` for numbers out of range."""
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0), ("limit", limit, 1)):
        if value is not None and value < least:
            raise BadSetting(f"{name}={value} is not allowed, it must be {least} or more.")
    return spread(count, limit)


def spread(count: int, limit: int | None) -> list[int]:
    """All of so many indices, or `limit` of them, spread evenly, the same each time."""
    total = count if limit is None else min(limit, count)
    return [i * count // total for i in range(total)]


def seed_all(*key: int) -> None:
    """Seed Python, NumPy and torch by a key: augmentations draw from all three."""
    words = np.random.SeedSequence([abs(k) for k in key]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.default_generator.manual_seed(int(words[2]))
    if torch.cuda.is_initialized():  # if not, torch.manual_seed would write down a whole stack for later
        torch.cuda.manual_seed_all(int(words[2]))
