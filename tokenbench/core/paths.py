"""Two ways through the MLPs of a stage."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Paths:
    """Two ways through the MLPs of a stage for tokens that stay in their places.

    In eval mode the places (B, K) and (B, N - K) of the tokens that take each; in training, where both are run for all
    tokens, what each token would be by either, (B, N, C).
    """

    slow: Tensor
    fast: Tensor
