"""The value of a method's main knob for a budget, found by bisection with few runs.

Every value that is tried is measured as `run` does and has its row, so nothing is measured twice and the tried settings
stand to choose like any others. Losses are judged by the paired test; what cannot be said counts as too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from tokenbench import backbones
from tokenbench.errors import UsageError
from tokenbench.methods.base import Method
from tokenbench.runs import runner
from tokenbench.runs.choose import Choice, Offer, Wanted, decide
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.runs.watch import Watch

RUNS = 7


@dataclass(frozen=True)
class Step:
    """A value of a knob that is about to be tried or, with its row, was tried."""

    number: int  # from 1, of so many
    most: int
    setting: Method
    left: Sequence[Method]  # what may still be the value that is looked for and is not tried
    choice: Choice | None = None  # of dense and this value
    row: Row | None = None
    before: bool = False  # measured by an earlier run

    @property
    def offer(self) -> Offer | None:
        """What came out; None where it was not measured."""
        every = (*self.choice.offers, *self.choice.refused) if self.choice else ()
        return next((offer for offer in every if offer.row is self.row), None)

    @property
    def keeps(self) -> bool:
        """Whether the value surely keeps to what is asked, looked at by itself."""
        return self.offer is not None and self.offer.keeps is True


Tell = Callable[[Step], None]


def tune(
    plan: Plan, wanted: Wanted, results: Results, watch: Watch, runs: int = RUNS, tell: Tell | None = None
) -> Choice:
    """The choice among the values that were tried for each setting of the plan, the dense model beside them.

    With limits on costs alone, the value that changes least and keeps to them is looked for; else the one that changes
    most and is sure to lose at most so much.

    Args:
        plan: settings whose main knobs are to be found, on one backbone and one batch size.
        wanted: what is asked of them.
        results: where rows are written, and found again.
        watch: who is told.
        runs: values of a knob that are tried at most.
        tell: is given each value before it is tried, and again with what came out.

    Raises:
        UsageError: a knob cannot be tuned, or accuracy cannot be measured.
        TokenbenchError: the plan cannot be run at all.
    """
    if len(plan.backbones) != 1 or len(plan.batches) > 1:
        raise UsageError("A knob is tuned on one backbone at one batch size; give one of each.")
    vit = backbones.create(plan.backbones[0], plan.image_size, pixels=plan.pixels)
    wanted = replace(wanted, among=runs * len(plan.methods))
    least, began = wanted.drop is None, datetime.now(UTC)
    tried: dict[str, Row] = {}
    once = _Once(watch)

    def keeps(number: int, setting: Method, left: Sequence[Method]) -> bool:
        step = Step(number, runs, setting, left)
        if tell is not None:
            tell(step)
        found = runner.run(replace(plan, methods=[setting]), results, once, again=False)
        tried.update({row.id: row for row in found})
        row, choice = _judged(setting, list(tried.values()), wanted)
        step = replace(step, choice=choice, row=row, before=row.time < began)
        place = left.index(setting)
        if tell is not None:
            tell(replace(step, left=left[:place] if step.keeps == least else left[place + 1 :]))
        return step.keeps

    for setting in (method.on(vit) for method in plan.methods):
        ladder = setting.ladder(vit)
        if not ladder:
            raise UsageError(f"{setting.label} has no value that {plan.backbones[0]} takes; give another method.")
        search(ladder, ladder.index(setting) if setting in ladder else len(ladder) // 2, runs, keeps, least)
    return decide(list(tried.values()), wanted)


def search(
    ladder: Sequence[Method],
    first: int,
    runs: int,
    keeps: Callable[[int, Method, Sequence[Method]], bool],
    least: bool = False,
) -> Method | None:
    """The last setting that keeps to something that later ones do not, or with `least` the first that keeps.

    Args:
        ladder: settings in order.
        first: where to begin.
        runs: how many may be tried.
        keeps: tries one, the first, second and so on, of those that it is still among.
        least: settings keep from some place on, rather than up to it.
    """
    low, high, at, number = -1, len(ladder), first, 1
    while high - low > 1 and number <= runs:
        if keeps(number, ladder[at], ladder[low + 1 : high]) != least:
            low = at
        else:
            high = at
        at, number = (low + high) // 2, number + 1
    best = high if least else low
    return ladder[best] if 0 <= best < len(ladder) else None


class _Once:
    """A `Watch` for run after run: what each of them says is said once."""

    def __init__(self, watch: Watch) -> None:
        self.stretch, self.step = watch.stretch, watch.step
        self._watch, self._said = watch, set[str]()

    def say(self, text: str) -> None:
        """A sentence that was not said before."""
        if text not in self._said:
            self._said.add(text)
            self._watch.say(text)


def _judged(setting: Method, rows: Sequence[Row], wanted: Wanted) -> tuple[Row, Choice]:
    """The row of a setting, and the choice of dense and it alone, corrected for all that are going to be tried."""
    mine = [row for row in rows if row.method == setting.name and row.setting == setting.model_dump(mode="json")]
    if not mine:
        raise UsageError(f"{setting.label} was not measured; look at what was said above.")
    row = mine[-1]
    dense = [one for one in rows if one.method == "dense"]
    if row.status == "ok" and wanted.drop is not None and row.metrics.get("diff_dense") is None:
        raise UsageError(
            f"{row.label} has no accuracy beside dense ({row.reason or 'no dense row'}), so nothing tunes it."
        )
    return row, decide([*dense, row], wanted)
