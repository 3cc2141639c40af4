"""A knob's value for a budget: the order of its values, and the search among them."""

from __future__ import annotations

import bisect
from dataclasses import replace
from typing import Any

import pytest
from conftest import tiny_vit
from femto import Watch, plan
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from rows import row

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import UsageError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.reports import tuning
from tokenbench.runs import tune
from tokenbench.runs.axes import AXES
from tokenbench.runs.choose import Choice, Limit, Wanted
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row
from tokenbench.runs.tune import search


@given(st.integers(1, 99), st.data())
def test_the_search_ends_at_the_edge(count: int, data: Any) -> None:
    edge, first = data.draw(st.integers(0, count)), data.draw(st.integers(0, count - 1))
    ladder: Any = list(range(count))
    tried: list[int] = []

    def keeps(number: int, one: Any, left: Any) -> bool:
        tried.append(one)
        assert number == len(tried) and one in left and (edge in left or edge == left[-1] + 1), "the edge lies there"
        return bool(one < edge)

    assert search(ladder, first, 99, keeps) == (edge - 1 if edge else None)
    assert len(tried) == len(set(tried)) <= 8 and tried[0] == first, "a hundred values take no more than eight runs"
    tried.clear()
    found = search(ladder, first, 99, lambda number, one, left: not keeps(number, one, left), least=True)
    assert found == (edge if edge < count else None)
    tried.clear()
    found = search(ladder, first, 3, keeps)
    kept = [one for one in tried if one < edge]
    assert len(tried) <= 3 and found == (max(kept) if kept else None), "only what was tried is found"


def test_values_go_from_changing_least_to_changing_most() -> None:
    vit = Backbone(tiny_vit())
    tome = make(get("tome"), {"inflect": 0.0}).ladder(vit)
    assert [one.r for one in tome] == list(range(1, len(tome) + 1)) and all(one.refusal(vit) is None for one in tome)
    evit = make(get("evit"), {"fuse": False}).ladder(vit)
    assert [one.keep_rate for one in evit[:3]] == [0.99, 0.98, 0.97] and evit[-1].keep_rate < 0.1
    assert not any(one.fuse for one in evit), "other knobs stay as they are"
    names = [one.table for one in get("diffrate")().ladder(vit)]
    rates = [float(name.rpartition("-")[2]) for name in names]
    assert rates == sorted(rates, reverse=True) and all(name.startswith("deit_s-") for name in names)
    assert bisect.bisect([-rate for rate in rates], -2.9) >= 1
    with refused(UsageError, "stvit[tokens=16] cannot be tuned: tokens has no order…"):
        get("stvit")().ladder(vit)


class Run:
    """Plays `runner.run`: a token merged in each block more costs 0.1 points and saves 0.1 of 2 GMAC."""

    def __init__(self, **changes: Any) -> None:
        self.asked: list[Plan] = []
        self.changes = changes

    def __call__(self, plan: Plan, results: Results, watch: Any, again: bool = True) -> list[Row]:
        self.asked.append(plan)
        assert not again, "nobody asked how many of one value and dense are done"
        watch.say("deit_femto: random weights.")
        (method,) = plan.methods
        r: Any = method.model_dump()["r"]
        lost = {"diff_dense": -r / 10, "diff_dense_low": -r / 10 - 0.1, "diff_dense_high": -r / 10 + 0.1}
        setting = {"setting": method.model_dump(mode="json"), "label": method.label, "gmacs": 2 - r / 10}
        values = {**setting, **lost, "top1": 70 - r / 10, "p_value": 0.2, **self.changes}
        return [row(), row("tome", **values)]

    @property
    def tried(self) -> list[str]:
        return [method.label for plan in self.asked for method in plan.methods]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Run:
    made = Run()
    monkeypatch.setattr(tune.runner, "run", made)
    return made


GIVEN, NOWHERE = plan("tome[r=2]"), Results("nowhere.jsonl")


def test_a_loss_that_is_sure_is_kept_to_and_all_that_were_tried_stand_to_choose(asked: Run) -> None:
    choice = tune.tune(GIVEN, Wanted(0.5, by=AXES[0]), NOWHERE, Watch(), runs=6)
    assert choice.best is not None and choice.best.row.label == "tome[r=3]", "of six; of one alone r=4 would be sure"
    assert asked.tried[0] == "tome[r=2]" and set(asked.tried) > {"tome[r=3]", "tome[r=4]"} and len(asked.tried) <= 4
    assert sorted(row.label for row in choice.rows) == sorted(["dense", *asked.tried])
    assert choice.wanted == Wanted(0.5, by=AXES[0], among=6)
    assert all(replace(plan, methods=GIVEN.methods) == GIVEN for plan in asked.asked)
    both = plan("tome[r=2],tome[r=3]")
    assert tune.tune(both, Wanted(0.5, by=AXES[0]), NOWHERE, Watch(), runs=1).wanted.among == 2
    assert asked.tried[-2:] == ["tome[r=2]", "tome[r=3]"]


def test_values_are_those_of_the_images_that_are_asked_for(asked: Run) -> None:
    """At 64x64 the tokens are four times as many, and so are those that may be merged."""
    choice = tune.tune(plan("tome", image_size=64), Wanted(None, (Limit(AXES[0], 0.1),)), NOWHERE, Watch())
    small = tune.tune(plan("tome"), Wanted(None, (Limit(AXES[0], 0.1),)), NOWHERE, Watch())
    most, least = (max(int(row.setting["r"]) for row in one.rows if row.method == "tome") for one in (choice, small))
    assert most > least


def test_of_what_keeps_to_a_cost_the_least_change_is_looked_for(asked: Run) -> None:
    choice = tune.tune(plan("tome[r=1]"), Wanted(None, (Limit(AXES[0], 1.75),)), NOWHERE, Watch())
    assert choice.best is not None and choice.best.row.label == "tome[r=3]"
    odd = make(get("tome"), {"r": 99})  # none of the values there are, so the search begins in the middle
    tune.tune(replace(GIVEN, methods=[odd]), Wanted(None, (Limit(AXES[0], 1.75),)), NOWHERE, Watch(), runs=1)
    values = odd.ladder(backbones.create("deit_femto"))
    assert asked.tried[-1] == values[len(values) // 2].label


def test_what_cannot_be_tuned_is_told(asked: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(sentence: str, plan: Plan = GIVEN, drop: float | None = 1.0) -> None:
        with refused(UsageError, sentence):
            tune.tune(plan, Wanted(drop, (Limit(AXES[0], 1.75),)), NOWHERE, Watch())

    for changes in ({"batches": [1, 2]}, {"backbones": ["deit_femto"] * 2}, {"backbones": []}):
        says("A knob is tuned on one backbone at one batch size; give one of each.", plan("tome", **changes))
    asked.changes = {"setting": {}}
    says("tome[r=2] was not measured; look at what was said above.")
    for reason in ("no --data-dir, so no accuracy", None):
        asked.changes = {"diff_dense": None, "reason": reason}
        told = f"tome[r=2] has no accuracy beside dense ({reason or 'no dense row'}), so nothing tunes it."
        says(told)
    tune.tune(GIVEN, Wanted(None, (Limit(AXES[0], 1.75),)), NOWHERE, Watch(), runs=1)
    asked.changes |= {"status": "failed", "reason": "broke"}
    best = tune.tune(GIVEN, Wanted(1.0), NOWHERE, Watch(), runs=1).best
    assert best is not None and best.row.method == "dense"
    monkeypatch.setattr(get("tome"), "ladder", lambda method, vit: [])
    says("tome[r=2] has no value that deit_femto takes; give another method.")


def test_each_value_is_told_with_what_came_out_and_what_is_left(asked: Run) -> None:
    watch, said = Watch(), list[str]()

    def tuned(wanted: Wanted, runs: int) -> Choice:
        said.clear()
        return tune.tune(GIVEN, wanted, NOWHERE, watch, runs, lambda step: said.append(tuning.said(step)))

    choice = tuned(Wanted(0.5, by=AXES[0]), 6)
    few = "too few images (100) to say, which counts as not keeping to it"
    assert said[:4] + said[-1:] == [
        "Try 1 of at most 6: tome[r=2], out of r = 1 to 8 (8 values).",
        "tome[r=2]: -0.2 [-0.3, -0.1] points, -10 % GMAC, at most 0.4 points lost: keeps to it; "
        "left: r = 3 to 8 (6 values).",
        "Try 2 of at most 6: tome[r=5], out of r = 3 to 8 (6 values).",
        f"tome[r=5]: -0.5 [-0.6, -0.4] points, -25 % GMAC, at most 0.7 points lost: {few}; "
        "left: r = 3 to 4 (2 values).",
        f"tome[r=4]: -0.4 [-0.5, -0.3] points, -20 % GMAC, at most 0.6 points lost: {few}; nothing is left to try.",
    ]
    flags = "As a file: tokenbench export --method 'tome[r=3]' --backbone vit_x"
    assert tuning.use(choice) == ['In Python: tokenbench.build("tome", "vit_x", r=3)', flags]
    assert tuning.use(choice, "w.pt", None, ["--ema"]) == [f"{flags} --weights w.pt --ema"], "build takes no such thing"
    assert tuning.use(choice, "w.pt", "384") == [f"{flags} --weights w.pt --image-size 384"]
    tuned(Wanted(None, (Limit(AXES[0], 1.75),)), 2)
    assert said[1::2] == [
        "tome[r=2]: -0.2 [-0.3, -0.1] points, 1.80 GMAC: does not keep to it; left: r = 3 to 8 (6 values).",
        "tome[r=5]: -0.5 [-0.6, -0.4] points, 1.50 GMAC: keeps to it; "
        "left: r = 3 to 4 (2 values), but no more tries (--runs).",
    ]
    asked.changes = {"status": "failed", "reason": "broke"}
    assert tuning.use(tuned(Wanted(0.5, by=AXES[0]), 1)) == []
    assert said[1] == (
        "tome[r=2]: failed (broke), which counts as not keeping to it; left: r = 1, but no more tries (--runs)."
    )
    assert watch.said == ["deit_femto: random weights."] * 3, "said once each time, and not at each value"
