"""Conditions to fail on, so that a comparison can guard a project: `top1<-0.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokenbench.errors import UnknownName, UsageError
from tokenbench.runs.compare import RATIOS, TIMED, Change, Pair
from tokenbench.tasks import all_tasks

P_VALUE = "p_value"  # of the main metric
ENDS = ("low", "high")
_GATE = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    **{"<": lambda a, b: a < b, ">": lambda a, b: a > b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}
}


@dataclass(frozen=True)
class Gate:
    """A condition to fail on, such as `top1<-0.5`: half a point lost."""

    text: str
    field: str
    sign: str
    limit: float

    def fails(self, pair: Pair) -> bool:
        """Whether the condition holds of what was measured."""
        found = value(pair, self.field)
        return found is not None and _HOLDS[self.sign](found, self.limit)


def gate(text: str) -> Gate:
    """A condition as it is written on the command line; raises `UsageError` for one that means nothing."""
    match = _GATE.fullmatch(text)
    try:
        limit = float(match[3]) if match else math.nan
    except ValueError:
        limit = math.nan
    if match is None or not math.isfinite(limit):
        raise UsageError(f"--fail-if '{text}' is not allowed; write a field, a sign and a number, like top1<-0.5.")
    known = fields()
    if match[1] not in known:
        raise UnknownName("field", match[1], known, "`tokenbench compare --help`")
    return Gate(text, match[1], match[2], limit)


def fields() -> list[str]:
    """What a condition can ask about: metrics of all tasks that are loaded, ratios, and ends of their intervals."""
    metrics = [metric for task in all_tasks().values() for metric in task.metrics]
    sure = [*(metric.name for metric in metrics if metric.interval), *TIMED]
    ends = [f"{name}_{end}" for name in sure for end in ENDS]
    return list(dict.fromkeys([*(metric.name for metric in metrics), P_VALUE, *RATIOS, *ends]))


def failing(pairs: Sequence[Pair], gates: Iterable[Gate]) -> list[tuple[Pair, Gate]]:
    """The conditions that hold, each with the pair that it holds for; of pairs that both lack a number, none does.

    Raises:
        UsageError: only one of two rows has the number, or no pair has it.
    """
    found = []
    for one in gates:
        lacking = [pair for pair in pairs if value(pair, one.field) is None]
        odd = [pair for pair in lacking if _either(pair, one.field)]
        for pair in odd or (lacking if len(lacking) == len(pairs) else ()):
            raise UsageError(
                f"--fail-if '{one.text}' cannot be decided, for {pair.first} and {pair.second} do not both have "
                f"{one.field}; measure it, or leave the condition out."
            )
        found += [(pair, one) for pair in pairs if one.fails(pair)]
    return found


def value(pair: Pair, field: str) -> float | None:
    """What a condition asks about; None where it was not measured."""
    if field in pair.changes:
        return pair.changes[field].value
    if field == P_VALUE:
        return pair.main.p if pair.main else None
    name, _, end = field.rpartition("_")
    change: Change | None = pair.changes.get(name)
    return getattr(change, end) if change and end in ENDS else None


def _either(pair: Pair, field: str) -> bool:
    """Whether one of two rows has what a field is of."""
    name, _, end = field.rpartition("_")
    needs = name if end in ENDS and name else field
    if needs == P_VALUE or any(metric.of_two and metric.name == needs for metric in pair.metrics):
        needs = pair.metrics[0].name
    return any(getattr(found.row, needs, None) is not None for found in (pair.first, pair.second))
