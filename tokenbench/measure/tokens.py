"""How many tokens are left after each block."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.errors import DataError
from tokenbench.measure.running import device_of, evaluating


@dataclass(frozen=True)
class TokenCounts:
    """Tokens after each block, prefix included; `std` over images is 0 where all images keep as many."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def per_block(model: nn.Module, batches: Iterable[Tensor | tuple[Tensor, Tensor]]) -> TokenCounts | None:
    """Tokens after each block, mean and standard deviation (of the population) over images.

    Neither padding (`Tokens.present`) nor tokens that a mask has dropped (`Tokens.alive`) count, so images may differ.

    Args:
        model: a `tokenbench.model.Model`; for a module without `run` the answer is None and no batch is read.
        batches: images (B, channels, H, W), alone or with their targets; moved to the model's device.

    Raises:
        DataError: there is no image.
    """
    run: Any = getattr(model, "run", None)
    if run is None:
        return None
    device = device_of(model)
    counts: list[Tensor] = []
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            images = batch if isinstance(batch, Tensor) else batch[0]
            trace = run(images.to(device)).trace
            counts.append(torch.stack([tokens.counts.double() for tokens in trace], dim=1).cpu())  # (B, blocks)
    if not sum(map(len, counts)):
        raise DataError("The data holds no image to count tokens of; give at least one.")
    std, mean = torch.std_mean(torch.cat(counts), dim=0, correction=0)
    return TokenCounts(tuple(mean.tolist()), tuple(std.tolist()))
