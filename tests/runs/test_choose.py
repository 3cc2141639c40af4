"""Which setting to use: what keeps to limits, in which order, and how sure that is."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from refusals import refused
from rows import row

from tokenbench.errors import UsageError
from tokenbench.measure.verdicts import Difference, Paired, bounds, independent, judge, quotient
from tokenbench.reports import answers
from tokenbench.reports.paper import tables
from tokenbench.runs.axes import AXES
from tokenbench.runs.choose import Limit, Offer, Saving, Wanted, _rank, _saving, choose, decide
from tokenbench.runs.row import Row

GMACS, LATENCY, SPEED, MEMORY, _ = AXES
Z = NormalDist().inv_cdf(0.975)


def setting(label: str, diff: float, half: float = 0.3, *, cost: float = 0.5, **changes: Any) -> Row:
    """A setting of 2,500 images that lost so much, `half` points sure, and takes a share of dense's time."""
    value = {"diff_dense": diff, "diff_dense_low": diff - half, "diff_dense_high": diff + half, "p_value": 0.5}
    timed = {"speedup": 1 / cost, "speedup_low": 0.98 / cost, "speedup_high": 1.02 / cost, "noisy": False}
    timed |= {"latency_p50": 100 * cost, "runs": 20, "spread": 0.02, "gmacs": 2 * cost}
    return row(label.split("[")[0], label, images=2500, **{"top1": 80 + diff, **value, **timed, **changes})


def dense(**changes: Any) -> Row:
    timed = {"latency_p50": 100.0, "gmacs": 2.0, "runs": 20, "spread": 0.02, "noisy": False}
    return row(images=2500, **{"top1": 80.0, **timed, **changes})


def test_the_cheapest_that_is_sure_is_used() -> None:
    made = [dense(), setting("tome[r=8]", -0.5, cost=0.75), setting("tome[r=4]", 0.0, cost=0.9)]
    made += [setting("tome[r=16]", -9.0, cost=0.3)]
    choice = decide(made, Wanted(1.0, by=LATENCY))
    assert choice.best is not None and choice.best.row.label == "tome[r=8]"
    # of three: 2.394 standard errors of 0.3 / 1.96 beyond 0.5 are 0.866
    assert (
        answers.headline(choice) == "Use tome[r=8]: -25 % latency, at most 0.9 points lost, 95 % sure on 2,500 images"
    )
    assert [o.row.label for o in choice.offers] == ["tome[r=8]", "tome[r=4]", "dense"]
    assert [o.row.label for o in choice.refused] == ["tome[r=16]"], "never the cheapest, whatever it loses"


def test_too_few_images_are_said_and_how_many_would_tell() -> None:
    few = setting("evit", -0.5, 0.8, cost=0.7, p_value=0.3)
    choice = decide([dense(), few], Wanted(1.0, by=LATENCY))
    assert choice.best is not None and choice.best.reference
    told = "too few images (2,500) to say whether evit (-30 % latency) loses at most 1.0 point"
    assert answers.headline(choice) == f"Stay with dense for now: {told}"
    (offer,) = choice.unsure
    assert offer.bound is not None and offer.bound.more == pytest.approx((0.8 / 0.5) ** 2)
    assert "; about 6,400 images would tell" in "".join(map(str, answers.lead(choice)))
    close = decide([dense(), setting("evit", -0.95, 0.8, cost=0.7, p_value=0.3)], Wanted(1.0, by=LATENCY))
    assert "; that is too close to the limit for more images to tell" in "".join(map(str, answers.lead(close)))


def test_a_dense_model_that_was_trained_with_the_others_is_what_they_are_held_against() -> None:
    trained = [
        row.model_copy(update={"trained": row.weights}) for row in (dense(), setting("evit", 0.5, 0.3, cost=0.7))
    ]
    choice = decide(trained, Wanted(1.0, by=LATENCY))
    assert choice.reference is trained[0] and choice.best is not None and choice.best.row is trained[1]
    assert decide([*trained, dense()], Wanted(1.0, by=LATENCY)).reference is not trained[0]


def test_more_images_are_asked_for_what_may_keep_to_it_and_not_for_what_hardly_does() -> None:
    """A cheaper setting that was seen to lose 2.2 points might still lose only 1, but nobody would bet on it."""
    may, hardly = setting("ppt[r=34]", -0.3, 1.1, cost=0.8), setting("topk", -2.2, 1.5, cost=0.5)
    choice = decide([dense(), may, hardly], Wanted(1.0, by=LATENCY))
    assert [offer.row.label for offer in choice.unsure] == ["ppt[r=34]", "topk"]
    sure = setting("tome[r=4]", 0.0, cost=0.95)
    every = decide([dense(), hardly, may, sure], Wanted(1.0, by=LATENCY)).offers
    assert [offer.row.label for offer in every] == ["tome[r=4]", "dense", "ppt[r=34]", "topk"], (
        "what is sure comes first"
    )
    assert "whether ppt[r=34] (-20 % latency) loses" in answers.headline(choice)
    alone = answers.headline(decide([dense(), hardly], Wanted(1.0, by=LATENCY)))
    assert alone.startswith("Stay with dense: nothing else here surely gains latency")


def test_nothing_gained_or_no_dense_row_is_said() -> None:
    slower = setting("evit", 0.0, cost=1.2)
    assert answers.headline(decide([dense(), slower], Wanted(1.0, by=LATENCY))) == (
        "Stay with dense: nothing else here surely gains latency and loses at most 1.0 point"
    )
    busy = setting("evit", 0.0, cost=0.7, noisy=True, speedup_low=None, speedup_high=None)
    assert answers.headline(decide([dense(), busy], Wanted(1.0, by=LATENCY))).startswith("Stay with dense")
    assert (
        answers.usual([row(latency_p50=1.0, noisy=True), busy]) is GMACS
        and answers.usual([dense(), dense(), busy]) is LATENCY
    )
    same = setting("evit", 0.0, cost=0.99)  # the interval of its speed-up holds 1
    assert answers.headline(decide([dense(), same], Wanted(1.0, by=LATENCY))).startswith("Stay with dense")
    alone = answers.headline(decide([row("evit")], Wanted(1.0, by=GMACS)))
    assert alone == "Nothing to compare with: there is no dense row here; run dense too"
    assert answers.headline(decide([row(top1=None)], Wanted())) == "No accuracy was measured here"
    assert answers.of([row(top1=None)], 1.0) == "" and answers.of([row()], 1.0) == ""


def test_costs_alone_take_the_most_accurate() -> None:
    made = [dense(), setting("tome[r=8]", -0.5, cost=0.75), setting("tome[r=16]", -3.0, cost=0.4)]
    choice = decide(made, Wanted(None, (Limit(LATENCY, 80.0),)))
    assert answers.headline(choice).startswith(
        "Within 80 ms a batch, use tome[r=8], the most accurate: 79.5 %, at most 0.9"
    )
    choice = decide(made, Wanted(None, (Limit(LATENCY, 45.0), Limit(GMACS, 1.0))))
    assert answers.headline(choice).startswith("Within 45 ms a batch and within 1 GMAC, use tome[r=16]")
    choice = decide(made, Wanted(1.0, (Limit(LATENCY, 45.0),), by=LATENCY))
    assert choice.best is None and not choice.unsure
    assert answers.headline(choice) == (
        "Nothing here keeps within 45 ms a batch and surely loses at most 1.0 point: "
        "the nearest is tome[r=16] with 40.0 ms a batch and 3.0 points lost"
    )
    choice = decide(made, Wanted(1.0, (Limit(LATENCY, 35.0), Limit(GMACS, 0.5), Limit(SPEED, 10.0)), by=LATENCY))
    assert answers.headline(choice).endswith("tome[r=16] with 40.0 ms a batch, 0.80 GMAC and 3.0 points lost"), (
        "all that hinders, and nothing else"
    )
    choice = decide(made, Wanted(None, (Limit(MEMORY, 100.0),)))
    assert answers.headline(choice) == "Nothing to choose from: memory was not measured here"
    choice = decide(made, Wanted(None, (Limit(GMACS, 1.0), Limit(MEMORY, 100.0))))
    assert answers.headline(choice) == "Nothing to choose from: memory was not measured here"


def test_a_timed_limit_must_hold_the_whole_interval() -> None:
    made = [dense(), setting("tome[r=8]", 0.0, cost=0.5)]  # 50 ms, ±0.4 by 20 rounds of spread 2 %
    assert [decide(made, Wanted(None, (Limit(LATENCY, at),))).best is not None for at in (49.0, 50.1, 51.0)] == [
        *(False, False, True)
    ]
    near = decide(made, Wanted(None, (Limit(LATENCY, 50.1),)))
    assert near.unsure[0].doubts == (LATENCY,) and answers.headline(near).startswith("Too few timed rounds to say")
    wide = setting("evit", -0.5, 0.8, cost=0.5)
    few, much = "too few images (2,500)", "loses at most 1.0 point"
    for limits, told in {
        (50.1, 9.0): f"Too few timed rounds and {few} to say whether evit keeps within 50.1 ms a batch and {much}",
        (51.0, 9.0): f"{few.capitalize()} to say whether evit {much}",
    }.items():
        given = zip((LATENCY, GMACS), limits, strict=True)
        choice = decide([dense(), wide], Wanted(1.0, tuple(Limit(*one) for one in given), by=LATENCY))
        assert answers.headline(choice) == told, "every reason that holds, and no limit that is kept to"
    half = 1.96 * 1.25 * 0.02 / (1.35 * math.sqrt(20))
    assert LATENCY.ends(made[1]) == pytest.approx((50 / (1 + half), 50 * (1 + half)))
    assert Limit(SPEED, 40.0).keeps(row(images_per_s=50.0)) is True and Limit(SPEED, 60.0).keeps(row()) is False
    with refused(UsageError, "A limit of 0 ms a batch is not allowed; give a finite number above 0."):
        Wanted(None, (Limit(LATENCY, 0.0),))


def test_backbones_stand_to_choose_together_on_the_same_images_and_machine() -> None:
    ends = {"top1_low": 79.0, "top1_high": 81.0}
    big = dense(backbone="vit_s", **ends)
    small = dense(backbone="vit_ti").model_copy(update={"latency_p50": 30.0, "metrics": {"top1": 79.8, **ends}})
    pruned = setting("evit", -4.0, cost=0.5, backbone="vit_s")
    (choice,) = choose([big, small, pruned], Wanted(3.0, by=LATENCY))  # 2.241 of hypot(0.8, 1.0) / 1.96, and 0.2
    assert choice.reference is big and choice.best is not None and choice.best.row is small
    assert answers.headline(choice).startswith("Use dense on vit_ti: -70 % latency, at most 1.7 points lost")
    assert len(choose([big, small.model_copy(update={"hardware": "B"})], Wanted())) == 2
    orders = {"mean": 0.5, "std": 0.5}, {"std": 0.5, "mean": 0.5}
    assert len(choose([big.model_copy(update={"conditions": order}) for order in orders], Wanted())) == 1
    better = setting("evit", 0.4, backbone="vit_s")
    assert decide([big, better], Wanted(3.0)).reference is big, "the dense one, however good another is"


def test_of_one_setting_the_bound_is_the_verdict_of_tables() -> None:
    for gained, lost in ((3, 5), (0, 0), (10, 60), (30, 4), (20, 40)):
        found = Paired(gained, lost, 1000).told
        for margin in (0.5, 1.0, 2.0, 5.0):
            (bound,), (verdict,) = bounds([found], margin), judge([found], margin)
            assert bound.holds == verdict.bounded or (bound.holds is False and verdict.bounded is None), (found, margin)
    assert bounds([Difference(0.0, 0.0, 0.0, 1.0)])[0].holds is None, "without width nothing is bounded"


def test_among_forty_that_lose_too_much_one_is_called_good_at_most_once_in_twenty() -> None:
    """The one that looks best of many is chance's: forty settings that lose 1.2 points, on 2,000 images, 200 times."""
    rng, wrong, alone = np.random.default_rng(0), 0, 0
    told = cache(lambda gained, lost: Paired(gained, lost, 2000).told)
    for _ in range(200):
        shares = rng.multinomial(2000, [0.02, 0.032, 0.948], size=40)
        found = [told(int(gained), int(lost)) for gained, lost, _ in shares]
        wrong += any(bound.holds for bound in bounds(found, 1.0))
        alone += any(verdict.bounded for verdict in judge(found, 1.0))
    assert wrong <= 16 and alone > 60  # 5 % of 200, and three standard errors; without the correction far more


def test_unpaired_differences_are_newcombes() -> None:
    """The example of his table II: 56/70 and 48/80 differ by 0.0524 to 0.3339."""
    from tokenbench.measure.verdicts import wilson

    found = independent(80.0, wilson(56, 70), 60.0, wilson(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=0.01) and found.p < 0.05


def test_where_less_is_better_less_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenbench.tasks import base

    metric = (base.Metric("error", "error", unit="%", better="down"),)
    for module in ("conditions", "choose"):
        monkeypatch.setattr(f"tokenbench.runs.{module}.metrics_of", lambda name, keys: metric)
    monkeypatch.setattr(answers, "metrics_of", lambda name, keys: metric)
    paired = {"diff_dense": 0.2, "diff_dense_low": -0.1, "diff_dense_high": 0.5, "p_value": 0.4}
    made = [
        row(metrics={"error": 20.0}, task="mine", gmacs=2.0),
        row("evit", metrics={"error": 20.2, **paired}, task="mine"),
    ]
    (offer,) = [o for o in decide(made, Wanted(1.0, by=GMACS)).offers if not o.reference]
    assert offer.keeps and offer.drop is not None and offer.drop.value == -0.2 and offer.drop.low == -0.5
    ends = {"error_low": 19.0, "error_high": 21.0}
    other = row("evit", backbone="vit_y", metrics={"error": 22.0, "error_low": 20.0, "error_high": 24.0}, task="mine")
    first = made[0].model_copy(update={"metrics": {"error": 20.0, **ends}})
    (offer,) = [o for o in decide([first, other], Wanted(None)).offers if not o.reference]
    half = math.hypot(1.0, 2.0)
    assert offer.value == -22.0 and offer.drop is not None
    assert (offer.drop.value, offer.drop.low, offer.drop.high) == pytest.approx((-2.0, -2.0 - half, -2.0 + half))


@pytest.mark.parametrize(
    ("axis", "limit", "ends", "keeps"),
    [
        (GMACS, 1.0, (1.0, 1.0), True),
        (GMACS, 1.0, (0.5, 1.1), None),
        (GMACS, 1.0, (1.0, 2.0), None),
        (GMACS, 1.0, (1.1, 2.0), False),
        (SPEED, 4.0, (4.0, 8.0), True),
        (SPEED, 4.0, (2.0, 8.0), None),
        (SPEED, 4.0, (2.0, 4.0), None),
        (SPEED, 4.0, (1.0, 2.0), False),
        (SPEED, 4.0, None, False),
    ],
)
def test_a_limit_is_kept_to_where_the_whole_interval_does(axis: Any, limit: float, ends: Any, keeps: Any) -> None:
    assert Limit(axis, limit).holds(ends) is keeps


def test_only_those_that_keep_to_limits_stand_to_choose() -> None:
    """What is refused for its cost is none of those among which chance picks; more that are yet to come are."""
    made = [dense(), setting("tome[r=8]", -0.5, cost=0.5), setting("evit", -0.4, cost=0.4), setting("ppt", 0, cost=0.9)]
    broken = made[1].model_copy(update={"status": "failed", "reason": "broke", "seed": 7})
    wanted = Wanted(1.0, (Limit(GMACS, 1.0),), by=LATENCY)
    choice = decide([*made, broken, row("topk", top1=None)], wanted)
    assert [offer.row.label for offer in choice.offers] == ["evit", "tome[r=8]"]
    assert [offer.row.label for offer in choice.refused] == ["ppt", "dense"], "the nearest to the limit first"
    assert choice.rows == [made[2], made[1], made[3], made[0]] and not choice.several
    drops = [Difference(-0.4, -0.7, -0.1, 0.5), Difference(-0.5, -0.8, -0.2, 0.5)]
    for offer, drop in zip(choice.offers, drops, strict=True):
        assert offer.drop is not None
        assert (offer.drop.value, offer.drop.low, offer.drop.high, offer.drop.p) == pytest.approx(
            (drop.value, drop.low, drop.high, drop.p)
        )
    told = bounds([offer.drop for offer in choice.offers if offer.drop is not None], 1.0)
    assert [offer.bound for offer in choice.offers] == told and {offer.bound for offer in choice.refused} == {None}
    more = decide(made, Wanted(1.0, (Limit(GMACS, 1.0),), among=40))
    both = [offer.drop for offer in more.offers if offer.drop is not None]
    assert [offer.bound for offer in more.offers] == bounds(both, 1.0, 40) != told
    assert decide([dense(backbone="vit_y"), dense()], Wanted()).several


def test_offers_say_all_that_is_asked() -> None:
    none, half = setting("evit", -1.0, 0.3), setting("tome", -1.25, 0.3)
    choice = decide([dense(), none, half], Wanted(1.0))
    likely = {offer.row.method: offer.likely for offer in (*choice.offers, *choice.refused)}
    assert likely == {"dense": True, "evit": True, "tome": False}, "just as much as may be lost is within it"
    (reference,) = [offer for offer in choice.offers if offer.reference]
    assert (reference.keeps, reference.bound, reference.saving, reference.drop) == (
        True,
        None,
        None,
        Difference(0.0, 0.0, 0.0, 1.0),
    )
    nobody = decide([row(top1=0.0), row("evit", top1=0.0)], Wanted(None))
    assert [offer.value for offer in nobody.offers] == [0.0, 0.0]
    assert [offer.drop for offer in nobody.offers if not offer.reference] == [None], "not paired"
    apart = decide([dense(), dense(backbone="vit_y", latency_p50=50.0)], Wanted(1.0, by=LATENCY))
    assert [(o.drop, o.bound, o.keeps) for o in apart.offers if not o.reference] == [(None, None, None)], "no intervals"


def test_what_is_saved() -> None:
    reference = dense(peak_memory_mb=400.0, images_per_s=100.0)

    def saved(axis: Any, made: Row, than: Row | None = reference) -> Saving | None:
        return _saving(made, than, axis)

    assert saved(LATENCY, reference) is saved(MEMORY, setting("evit", 0.0)) is saved(GMACS, dense(), None) is None
    assert saved(MEMORY, setting("evit", 0.0), dense()) is saved(MEMORY, dense(peak_memory_mb=1.0), dense()) is None
    timed = setting("evit", 0.0, cost=0.5)
    assert saved(LATENCY, timed) == Saving(0.5, pytest.approx(1 - 0.5 / 0.98), pytest.approx(1 - 0.5 / 1.02))
    for changes, noisy in (
        ({"noisy": None}, False),
        ({"noisy": True, "speedup_low": None, "speedup_high": None}, True),
        ({"speedup_low": None}, False),
        ({"speedup_high": None}, False),
    ):
        assert saved(LATENCY, setting("evit", 0.0, cost=0.5, **changes)) == Saving(0.5, noisy=noisy), changes
    assert saved(MEMORY, setting("evit", 0.0, peak_memory_mb=100.0)) == Saving(0.75)
    other = setting("evit", 0.0, cost=0.5, backbone="vit_y", images_per_s=400.0)
    ends = [axis.ends(made) for axis in (LATENCY, SPEED) for made in (other, reference)]
    low, high = sorted(quotient(50.0, ends[0], 100.0, ends[1]))  # type: ignore[arg-type]
    assert saved(LATENCY, other) == Saving(0.5, 1 - high, 1 - low)
    low, high = sorted(quotient(400.0, ends[2], 100.0, ends[3]))  # type: ignore[arg-type]
    assert saved(SPEED, other) == Saving(0.75, pytest.approx(1 - 1 / low), pytest.approx(1 - 1 / high))
    steady = {"spread": None}
    assert saved(LATENCY, setting("evit", 0.0, cost=0.5, backbone="vit_y", **steady)) == Saving(0.5)
    assert saved(LATENCY, other, dense(spread=None)) == Saving(0.5)
    assert saved(LATENCY, setting("evit", 0.0, cost=0.5, speedup=None)) != Saving(0.5), "by its own times"
    assert [Saving(0.006).sure, Saving(0.005).sure, Saving(0.5, noisy=True).sure] == [True, False, False]
    assert [Saving(0.5, 0.0, 0.9).sure, Saving(0.5, 0.1, 0.9).sure] == [False, True]


def test_the_order_of_offers() -> None:
    made = setting("evit", -0.5, cost=0.5)

    def ranked(by: Any = None, **changes: Any) -> tuple[float, ...]:
        told = {
            "row": made,
            "value": 79.5,
            "drop": None,
            "bound": None,
            "saving": Saving(0.5),
            "keeps": True,
            **changes,
        }
        return _rank(Offer(**told), Wanted(1.0, by=by))

    assert ranked() == (0.0, -79.5, 50.0), "of equal accuracy the faster"
    assert [ranked(keeps=None)[0], ranked(keeps=None, likely=False)[0], ranked(likely=False)[0]] == [1.0, 2.0, 0.0]
    assert ranked(GMACS) == (0.0, 0.0, 1.0, -79.5) and ranked(LATENCY) == (0.0, 0.0, 50.0, -79.5)
    for changes in ({"saving": None}, {"saving": Saving(0.5, noisy=True)}):
        assert ranked(GMACS, **changes) == (0.0, 1.0, 1.0, -79.5)
    assert ranked(GMACS, saving=None, reference=True) == (0.0, 0.0, 1.0, -79.5)
    assert ranked(MEMORY) == (0.0, 0.0, math.inf, -79.5), "what was not measured comes last"
    assert ranked(SPEED) == (0.0, 0.0, 1 / 50.0, -79.5)


def test_a_difference_from_another_dense_model_is_not_taken_for_one_from_the_reference() -> None:
    """Of several trainings in one file each setting was paired with the dense model of its own."""
    own = {"weights": {"kind": "random", "name": "random"}, "top1_low": 79.0, "top1_high": 81.0}
    first, second = ({"kind": "file", "name": "model.safetensors", "hash": name} for name in "ab")
    made = [dense(**own, trained=first), dense(**own, trained=second).model_copy()]
    made[1].metrics["top1"] = 82.0
    made += [setting("tome[r=8]", -0.5, **own, trained={"kind": "file", "name": "t", "hash": "c"})]
    choice = decide(made, Wanted(1.0, by=LATENCY))
    assert choice.reference is made[1]
    (offer,) = [offer for offer in (*choice.offers, *choice.refused) if offer.row is made[2]]
    assert offer.drop is not None and offer.drop.value == -2.5 and not offer.keeps, "0.5 below a, but 2.5 below b"
    (table,) = tables.tables(made)
    assert "tome[r=8]: the difference is from another dense model than the first row here." not in table.notes
    (table,) = tables.tables([made[1], made[0], made[2]])
    assert "tome[r=8]: the difference is from another dense model than the first row here." in table.notes


def test_what_was_not_measured_ranks_nothing() -> None:
    choice = decide([dense(), setting("tome", -0.1)], Wanted(1.0, by=AXES[-1]))
    assert choice.best is None and answers.headline(choice) == "Nothing to rank by: energy was not measured here"


def test_a_dense_model_that_gets_nothing_right_has_nothing_to_lose() -> None:
    """Two detectors at 0.0 AP: the second surely loses at most a point, which says nothing of it."""
    made = [dense(top1=0.3), setting("tome", -0.1, 0.2, top1=0.2), setting("evit", -0.2, 0.9, top1=0.1)]
    for wanted in (Wanted(1.0, by=LATENCY), Wanted(0.3), Wanted(90.0, (Limit(LATENCY, 60.0),), LATENCY)):
        choice = decide(made, wanted)
        assert choice.pointless and choice.best is None
        assert {answers.verdict(choice, offer) for offer in choice.offers} <= {"the reference", "nothing to lose"}
        assert answers.headline(choice) == "Nothing to lose: dense has 0.3 top-1 %; train it until it has more"
        assert not [text for text in answers.lead(choice) if "would tell" in text or "Next" in text]
    for rows, drop in ((made, 0.2), (made, None), ([dense(), *made[1:]], 90.0), (made[1:], 1.0)):
        assert not decide(rows, Wanted(drop, by=LATENCY)).pointless
    assert decide([dense(), *made[1:]], Wanted(90.0, by=LATENCY)).best is not None
    shares = [one.model_copy(update={"task": "others", "metrics": {"share": 0.8}}) for one in made]
    assert not decide(shares, Wanted(1.0, by=LATENCY)).pointless, "0.8 of 1 is no accuracy near none"


def test_sentences_name_the_limits_that_others_do_not_keep_to() -> None:
    fast = setting("stvit", -0.1, peak_memory_mb=120.0)
    kept = decide([dense(peak_memory_mb=90.0), fast], Wanted(1.0, (Limit(MEMORY, 100.0),), LATENCY))
    assert answers.headline(kept) == (
        "Stay with dense: nothing else within 100 MiB surely gains latency and loses at most 1.0 point"
    )
    even = setting("tome", -0.1, gmacs=1.0, speedup=1.0, speedup_low=0.9, speedup_high=1.1)
    used = decide([dense(), even], Wanted(1.0, (Limit(GMACS, 1.5),), LATENCY))
    assert answers.headline(used) == (
        "Within 1.5 GMAC, use tome, at most 0.4 points lost, 95 % sure on 2,500 images: "
        "nothing that keeps to this surely gains latency"
    )
    alone = decide([setting("tome", -0.1, diff_dense=None)], Wanted(None, (Limit(LATENCY, 60.0),)))
    assert answers.headline(alone) == "Within 60 ms a batch, use tome, the most accurate: 79.9 %", "needs no dense row"


def test_small_numbers_are_not_rounded_to_nothing_or_to_the_limit() -> None:
    little = setting("tome", -0.1, cost=0.998, speedup_low=1.001, speedup_high=1.003)
    assert answers.headline(decide([dense(), little], Wanted(1.0, by=LATENCY))).startswith("Use tome: -0.2 % latency")
    near = decide([dense(), setting("tome", -0.1, gmacs=1.504)], Wanted(None, (Limit(GMACS, 1.5),)))
    assert answers.headline(near).endswith("the nearest is tome with 1.504 GMAC")
    slow = decide([dense(images_per_s=0.2), setting("tome", 0.0, images_per_s=0.4)], Wanted(None, (Limit(SPEED, 1.0),)))
    assert answers.headline(slow).endswith("the nearest is tome with 0.4 images/s")


def test_speed_ups_of_before_are_sure_only_where_the_slow_rounds_were_faster_too() -> None:
    for low, said in ((0.9, "Stay with dense"), (1.01, "Use tome: -2 % latency")):
        old = setting("tome", 0.0, noisy=None, cost=0.98, speedup_low=low, speedup_high=1.2)
        assert answers.headline(decide([dense(), old], Wanted(1.0, by=LATENCY))).startswith(said)


def test_settings_are_told_apart_by_weights_and_counted_in_the_items_of_their_task() -> None:
    ends, other = {"top1_low": 79.5, "top1_high": 80.5}, {"kind": "file", "name": "mae.pth", "hash": "m"}
    made = [dense(**ends), dense(**ends, weights=other), setting("tome", -0.1, cost=0.4, weights=other, **ends)]
    (named,) = [answers.name(decide(made, Wanted(3.0)), row) for row in made[2:]]
    assert named == "tome on vit_x with mae.pth"
    videos = [one.model_copy(update={"task": "video"}) for one in (dense(), setting("tome", -0.1))]
    assert answers.headline(decide(videos, Wanted(1.0, by=LATENCY))).endswith("95 % sure on 2,500 videos")
    assert "clips/s" in answers.table(decide(videos, Wanted(1.0)), 5)[0]
