"""The value of a method's main knob for a budget, found by bisection with few runs.

Every value that is tried is measured as `run` does and has its row, so nothing is measured twice and the tried settings
stand to choose like any others. Losses are judged by the paired test; what cannot be said counts as too much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tokenbench import backbones
from tokenbench.errors import UsageError
from tokenbench.methods.base import Method
from tokenbench.runs import runner
from tokenbench.runs.choose import Choice, Wanted, decide
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.runs.watch import Watch

RUNS = 7


def tune(plan: Plan, wanted: Wanted, results: Results, watch: Watch, runs: int = RUNS) -> Choice:
    """The choice among the values that were tried for each setting of the plan, the dense model beside them.

    With limits on costs alone, the value that changes least and keeps to them is looked for; else the one that changes
    most and is sure to lose at most so much.

    Args:
        plan: settings whose main knobs are to be found, on one backbone and one batch size.
        wanted: what is asked of them.
        results: where rows are written, and found again.
        watch: who is told.
        runs: values of a knob that are tried at most.

    Raises:
        UsageError: a knob cannot be tuned, or accuracy cannot be measured.
        TokenbenchError: the plan cannot be run at all.
    """
    if len(plan.backbones) != 1 or len(plan.batches) > 1:
        raise UsageError("A knob is tuned on one backbone at one batch size; give one of each.")
    vit = backbones.create(plan.backbones[0], plan.image_size, pixels=plan.pixels)
    wanted = replace(wanted, among=runs * len(plan.methods))
    tried: dict[str, Row] = {}

    def row(setting: Method) -> Row:
        for one in runner.run(replace(plan, methods=[setting]), results, watch):
            tried[one.id] = one
        return _of(setting, list(tried.values()))

    for setting in plan.methods:
        ladder = setting.ladder(vit)
        if not ladder:
            raise UsageError(f"{setting.label} has no value that {plan.backbones[0]} takes; give another method.")
        first = ladder.index(setting) if setting in ladder else len(ladder) // 2
        search(ladder, first, runs, lambda one: _within(row(one), list(tried.values()), wanted), wanted.drop is None)
    return decide(list(tried.values()), wanted)


def search(
    ladder: Sequence[Method], first: int, runs: int, keeps: Callable[[Method], bool], least: bool = False
) -> Method | None:
    """The last setting that keeps to something that later ones do not, or with `least` the first that keeps.

    Args:
        ladder: settings in order.
        first: where to begin.
        runs: how many may be tried.
        keeps: tries one.
        least: settings keep from some place on, rather than up to it.
    """
    low, high, at = -1, len(ladder), first
    while high - low > 1 and runs > 0:
        runs -= 1
        if keeps(ladder[at]) != least:
            low = at
        else:
            high = at
        at = (low + high) // 2
    best = high if least else low
    return ladder[best] if 0 <= best < len(ladder) else None


def _of(setting: Method, rows: Sequence[Row]) -> Row:
    mine = [row for row in rows if row.method == setting.name and row.setting == setting.model_dump(mode="json")]
    if not mine:
        raise UsageError(f"{setting.label} was not measured; look at what was said above.")
    return mine[-1]


def _within(row: Row, rows: Sequence[Row], wanted: Wanted) -> bool:
    """Whether a setting surely keeps to what is asked, looked at by itself."""
    dense = [one for one in rows if one.method == "dense"]
    if row.status == "ok" and wanted.drop is not None and row.metrics.get("diff_dense") is None:
        raise UsageError(
            f"{row.label} has no accuracy beside dense ({row.reason or 'no dense row'}), so nothing tunes it."
        )
    choice = decide([*dense, row], wanted)  # corrected for all that are going to be tried
    return any(offer.row is row and offer.keeps for offer in choice.offers)
