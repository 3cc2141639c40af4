"""What is weighed against accuracy: costs and speeds, each a field of the row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tokenbench.measure.verdicts import Ends, median_ends
from tokenbench.runs.row import Row

DIGITS = 9  # after the decimal point, at most
SLACK = 0.005  # two counters of GMACs agree to this; a smaller saving is none


@dataclass(frozen=True)
class Axis:
    """A cost or a speed: the field of the row, its name with the unit, and which way is better."""

    field: str
    title: str
    short: str
    unit: str  # of a value in a sentence
    digits: int  # after the decimal point
    more_is_better: bool = False
    timed: bool = False  # a speed: a ratio of two is that of interleaved rounds
    varies: tuple[str, str] | None = None  # the fields of its spread and of how often it was measured
    rare: bool = False  # few machines can tell it

    def cost(self, value: float) -> float:
        """A value as a cost: less is better, and positive if the value is."""
        return 1 / value if self.more_is_better else value

    def of(self, row: Row) -> float | None:
        """The value of a row; None where it was not measured."""
        return getattr(row, self.field) or None

    def text(self, value: float, beside: float = 0.0) -> str:
        """A value with its unit, in as many digits as tell it from 0 and from another."""
        digits = self.digits
        while digits < DIGITS and value != beside and float(f"{value:.{digits}f}") in (0.0, beside):
            digits += 1
        return f"{value:.{digits}f} {self.unit}"

    def ends(self, row: Row) -> Ends | None:
        """The 95 % interval of the value; the value twice where it does not vary. None where nothing was measured."""
        value = self.of(row)
        if value is None:
            return None
        spread, runs = (getattr(row, field) for field in self.varies) if self.varies else (None, None)
        return median_ends(value, spread, runs) if spread is not None and runs else (value, value)


_ROUNDS = ("spread", "runs")
AXES = (
    Axis("gmacs", "GMAC an image", "GMAC", "GMAC", 2),
    Axis("latency_p50", "median latency of a batch, ms", "latency", "ms a batch", 1, timed=True, varies=_ROUNDS),
    Axis("images_per_s", "images a second", "images/s", "images/s", 0, more_is_better=True, timed=True, varies=_ROUNDS),
    Axis("peak_memory_mb", "peak memory, MiB", "memory", "MiB", 0),
    Axis(
        "joules", "joules an image", "energy", "J an image", 3, varies=("joules_spread", "joules_readings"), rare=True
    ),
)


def measured(rows: Iterable[Row]) -> tuple[Axis, ...]:
    """The axes of some rows: without those that few machines can tell, where no row has them."""
    rows = list(rows)
    return tuple(axis for axis in AXES if not axis.rare or any(axis.of(row) is not None for row in rows))
