"""Which setting to use: those that keep to some limits, ranked, with how sure each of them is. Needs no torch.

One place decides, for the command, the report's first sentence and the page's. Settings of several backbones stand to
choose together where data and machine are the same: against the best dense model there, and then not paired.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from tokenbench.errors import UsageError
from tokenbench.measure import verdicts
from tokenbench.measure.verdicts import Bound, Difference, Ends
from tokenbench.runs.axes import AXES, SLACK, Axis
from tokenbench.runs.conditions import across, difference, is_against, same_model, score, sign
from tokenbench.runs.row import Row
from tokenbench.tasks import metrics_of

SAME = Difference(0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Limit:
    """A cost that must not be more than a value, or a speed that must not be less."""

    axis: Axis
    value: float

    def keeps(self, row: Row) -> bool | None:
        """Whether a row keeps to it; None where the interval of what was timed holds the limit."""
        return self.holds(self.axis.ends(row))

    def holds(self, ends: Ends | None) -> bool | None:
        """Whether that is so of an interval; None of the axis's values is no keeping to it."""
        if ends is None:
            return False
        best, worst = sorted(map(self.axis.cost, ends))
        most = self.axis.cost(self.value)
        return True if worst <= most else False if best > most else None


@dataclass(frozen=True)
class Wanted:
    """What is asked of a setting, and what those that keep to it are ranked by.

    Raises:
        UsageError: a number that limits nothing.
    """

    drop: float | None = verdicts.MARGIN  # points that may be lost against dense; None: any
    limits: tuple[Limit, ...] = ()
    by: Axis | None = None  # None: by accuracy
    among: int = 0  # of so many that are going to be looked at in the end

    def __post_init__(self) -> None:
        for limit in self.limits:
            if not 0 < limit.value < math.inf:
                raise UsageError(
                    f"A limit of {limit.value:g} {limit.axis.unit} is not allowed; give a finite number above 0."
                )


@dataclass(frozen=True)
class Saving:
    """What share of the reference's cost is saved; below 0 where more is spent."""

    share: float
    low: float | None = None  # the 95 % interval, of what is timed
    high: float | None = None
    noisy: bool = False  # timed on a machine too busy for an interval

    @property
    def sure(self) -> bool:
        """Whether something is saved at all."""
        return not self.noisy and (self.low > 0 if self.low is not None else self.share > SLACK)


@dataclass(frozen=True)
class Offer:
    """A setting that stands to choose."""

    row: Row
    value: float  # its accuracy, more being better
    drop: Difference | None  # that minus the reference's
    bound: Bound | None
    saving: Saving | None  # on the axis that it is ranked by, or latency
    keeps: bool | None  # to everything that is asked; None: it cannot be said
    doubts: tuple[Axis, ...] = ()  # whose limit lies in the interval of what was timed
    reference: bool = False
    likely: bool = True  # what was measured is within what may be lost, however sure that is


@dataclass(frozen=True)
class Choice:
    """Settings of one machine and one set of data, those to use first."""

    wanted: Wanted
    reference: Row | None  # the best dense model
    offers: tuple[Offer, ...]  # that keep to all, then those of which it cannot be said; each part the best first
    refused: tuple[Offer, ...]  # the others that were measured, the nearest to the first limit first
    several: bool = False  # of several backbones, or weights of them

    @property
    def best(self) -> Offer | None:
        """The one to use, if there is one, anything to rank by and anything to lose."""
        use = self.ranked and not self.pointless
        return next((offer for offer in self.offers if offer.keeps), None) if use else None

    @property
    def pointless(self) -> bool:
        """Whether the reference has no more percent than points may be lost, so that having none keeps to it too."""
        row, drop = self.reference, self.wanted.drop
        if row is None or drop is None:
            return False
        metric = metrics_of(row.task, list(row.metrics))[0]
        return metric.unit == "%" and metric.sign > 0 and (score(row) or 0.0) <= min(drop, verdicts.MARGIN)

    @property
    def ranked(self) -> bool:
        """Whether what settings are to be ranked by was measured."""
        by = self.wanted.by
        return by is None or any(by.of(row) is not None for row in self.rows)

    @property
    def unsure(self) -> tuple[Offer, ...]:
        """Those of which it cannot be said."""
        return tuple(offer for offer in self.offers if offer.keeps is None)

    @property
    def rows(self) -> list[Row]:
        """All that stand to choose, and those that do not keep to a limit."""
        return [offer.row for offer in (*self.offers, *self.refused)]


class Field:
    """Rows of one machine and one set of data, to be asked again and again which of them to use."""

    def __init__(self, rows: Iterable[Row]) -> None:
        scored = [row for row in rows if row.status == "ok" and score(row) is not None]
        dense = [row for row in scored if row.method == "dense"]
        plain = [row for row in dense if row.trained is None]  # none where the weights of all came of trainings
        self.reference = max(plain or dense, key=lambda row: sign(row) * (score(row) or 0.0), default=None)
        self._rows = [(row, _against(row, self.reference)) for row in scored]
        self._values = [sign(row) * (score(row) or 0.0) for row in scored]
        self._several = any(not same_model(row, scored[0]) for row in scored[1:])

        @cache  # the same for whatever is asked, which may be hundreds of things
        def ends(axis: Axis) -> list[Ends | None]:
            return [axis.ends(row) for row in scored]

        @cache
        def savings(axis: Axis) -> list[Saving | None]:
            return [_saving(row, self.reference, axis) for row in scored]

        self._ends, self._savings = ends, savings

    def choice(self, wanted: Wanted) -> Choice:
        """Those that keep to what is asked, ranked, and the others."""
        columns = [[limit.holds(ends) for ends in self._ends(limit.axis)] for limit in wanted.limits]
        kept = [[column[i] for column in columns] for i in range(len(self._rows))]
        standing = [
            i
            for i, (row, drop) in enumerate(self._rows)
            if row is not self.reference and drop is not None and False not in kept[i]
        ]
        margin = verdicts.MARGIN if wanted.drop is None else wanted.drop
        told = verdicts.bounds([self._rows[i][1] or SAME for i in standing], margin, wanted.among)
        bounds = dict(zip(standing, told, strict=True))
        offers = [self._offer(i, wanted, kept[i], bounds.get(i)) for i in range(len(self._rows))]
        good = sorted((offer for offer in offers if offer.keeps is not False), key=lambda offer: _rank(offer, wanted))
        first = wanted.limits[0].axis if wanted.limits else None
        refused = sorted((offer for offer in offers if offer.keeps is False), key=lambda offer: _cost(offer.row, first))
        return Choice(wanted, self.reference, tuple(good), tuple(refused), self._several)

    def _offer(self, index: int, wanted: Wanted, kept: Sequence[bool | None], bound: Bound | None) -> Offer:
        row, drop = self._rows[index]
        doubts = tuple(limit.axis for limit, keeps in zip(wanted.limits, kept, strict=True) if keeps is None)
        loses = True if row is self.reference or wanted.drop is None else bound.holds if bound else None
        keeps = False if False in (*kept, loses) else None if doubts or loses is None else True
        saving = self._savings(wanted.by or AXES[1])[index]
        likely = drop is None or wanted.drop is None or drop.value >= -wanted.drop
        return Offer(row, self._values[index], drop, bound, saving, keeps, doubts, row is self.reference, likely)


def choose(rows: Iterable[Row], wanted: Wanted) -> list[Choice]:
    """A choice for each machine, set of data, batch and image size among the rows."""
    return [decide(members, wanted) for members in across(rows).values()]


def decide(rows: Iterable[Row], wanted: Wanted) -> Choice:
    """The choice among rows of one machine and one set of data."""
    return Field(rows).choice(wanted)


def _against(row: Row, reference: Row | None) -> Difference | None:
    """A row's main metric minus the reference's; paired where it was paired with just that one."""
    if row is reference:
        return SAME
    if reference is None or (same_model(row, reference) and is_against(row, reference)):
        return difference(row)
    mine, theirs = score(row), score(reference)
    ends = [_own_ends(side) for side in (row, reference)]
    if mine is None or theirs is None or ends[0] is None or ends[1] is None:
        return None
    found = verdicts.independent(mine, ends[0], theirs, ends[1])
    return found if sign(row) > 0 else found.turned()


def _own_ends(row: Row) -> Ends | None:
    name = metrics_of(row.task, list(row.metrics))[0].name
    low, high = row.metrics.get(f"{name}_low"), row.metrics.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def _saving(row: Row, reference: Row | None, axis: Axis) -> Saving | None:
    """Of one dense model in one session by the ratio of interleaved rounds, which a noisy machine does not bend."""
    mine, theirs = axis.of(row), axis.of(reference) if reference else None
    if row is reference or mine is None or theirs is None or reference is None:
        return None
    if axis.timed and row.speedup and same_model(row, reference):
        if row.noisy is None or not row.speedup_low or not row.speedup_high:
            unsure = row.noisy or (row.speedup_low is not None and row.speedup_low <= 1)  # percentiles, of before
            return Saving(1 - 1 / row.speedup, noisy=bool(unsure))
        return Saving(1 - 1 / row.speedup, 1 - 1 / row.speedup_low, 1 - 1 / row.speedup_high)
    share = 1 - axis.cost(mine) / axis.cost(theirs)
    own, others = axis.ends(row), axis.ends(reference)
    if own is None or others is None or own[0] == own[1] or others[0] == others[1]:
        return Saving(share)
    low, high = sorted(verdicts.quotient(mine, own, theirs, others))
    low, high = (1 / high, 1 / low) if axis.more_is_better else (low, high)
    return Saving(share, 1 - high, 1 - low)


def _rank(offer: Offer, wanted: Wanted) -> tuple[float, ...]:
    """The best first: what keeps to all, what may, what hardly does; by a cost, savers before the reference."""
    value, cost = offer.value, _cost(offer.row, wanted.by or AXES[1])
    sure = 0.0 if offer.keeps else 1.0 if offer.likely else 2.0
    if wanted.by is None:
        return sure, -value, cost
    saves = offer.reference or (offer.saving is not None and offer.saving.sure)
    return sure, 0.0 if saves else 1.0, cost, -value


def _cost(row: Row, axis: Axis | None) -> float:
    value = axis.of(row) if axis else None
    return float("inf") if axis is None or value is None else axis.cost(value)
