"""What is compared with accuracy, and which settings no other beats on both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A cost or a speed: the field of the row, its name with the unit, and which way is better."""

    field: str
    title: str
    short: str
    more_is_better: bool = False

    def cost(self, value: float) -> float:
        """A value as a cost: less is better, and positive if the value is."""
        return 1 / value if self.more_is_better else value


SLACK = 0.005  # two counters of GMACs agree to this; a smaller saving is none

AXES = (
    Axis("gmacs", "GMAC an image", "GMAC"),
    Axis("latency_p50", "median latency of a batch, ms", "latency"),
    Axis("images_per_s", "images a second", "images/s", more_is_better=True),
)


def front(costs: Sequence[float], values: Sequence[float], slack: float = 0.0) -> list[bool]:
    """Which points no other point beats: one that costs no more and is worth more, or costs less and is worth as much.

    Args:
        costs: positive; less is better.
        values: more is better; as many.
        slack: costs that differ by this share count as equal against a point that is worth more.

    Returns:
        A flag a point, in their order; of points that are equal in both, all are on the front or none.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    flags = [False] * len(costs)
    best, best_cost, ahead, most = float("-inf"), float("nan"), 0, float("-inf")
    for i in order:
        while ahead < len(order) and costs[order[ahead]] <= costs[i] * (1 + slack):
            most = max(most, values[order[ahead]])
            ahead += 1
        if values[i] > best or (values[i] == best and costs[i] == best_cost):
            best, best_cost = values[i], costs[i]
            flags[i] = values[i] >= most
    return flags
