"""Conditions to fail on, so that a comparison can guard a project: `top1<-0.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tokenbench.errors import UnknownName, UsageError
from tokenbench.runs.compare import RATIOS, TIMED, Pair

ENDS = ("top1", *TIMED)  # fields that have an interval
GATES = {  # what a condition can ask about, and the field of the row that it needs
    **{"top1": "top1", "top5": "top5", "agreement": "top1", "p_value": "top1", **{name: name for name in RATIOS}},
    **{f"{name}_{end}": name for name in ENDS for end in ("low", "high")},
}
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
    if match[1] not in GATES:
        raise UnknownName("field", match[1], GATES, "`tokenbench compare --help`")
    return Gate(text, match[1], match[2], limit)


def failing(pairs: Sequence[Pair], gates: Iterable[Gate]) -> list[tuple[Pair, Gate]]:
    """The conditions that hold, each with the pair that it holds for; of pairs that both lack a number, none does.

    Raises:
        UsageError: only one of two rows has the number, or no pair has it.
    """
    found = []
    for one in gates:
        needs = GATES[one.field]
        lacking = [p for p in pairs if value(p, one.field) is None]
        odd = [
            p for p in lacking if (getattr(p.first.row, needs, None), getattr(p.second.row, needs, None)) != (None,) * 2
        ]
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
    change = pair.changes.get(GATES[field])
    attribute = "p" if field == "p_value" else field.rpartition("_")[2]
    return getattr(change, attribute) if change else None
