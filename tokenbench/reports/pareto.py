"""Which settings no other beats on both accuracy and a cost."""

from __future__ import annotations

from collections.abc import Sequence


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
