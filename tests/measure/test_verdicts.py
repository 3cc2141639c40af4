"""Verdicts: the formulas against other ways to the same numbers, their invariants, and how often they are wrong."""

from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from tokenbench.errors import UsageError
from tokenbench.measure import verdicts
from tokenbench.measure.verdicts import Difference, Paired, holm, judge, mcnemar, median_ends, quotient, wilson

counts = st.integers(0, 40)
tables = st.tuples(counts, counts, counts).map(lambda t: Paired(t[0], t[1], max(1, sum(t))))


@given(counts, counts)
def test_mcnemar_is_the_exact_binomial(gained: int, lost: int) -> None:
    tail = sum(Fraction(math.comb(gained + lost, i), 2 ** (gained + lost)) for i in range(min(gained, lost) + 1))
    assert mcnemar(gained, lost) == mcnemar(lost, gained) == float(min(Fraction(1), 2 * tail))
    assert 0 <= mcnemar(gained, lost) <= 1 == mcnemar(gained, gained)
    assert mcnemar(gained, gained + lost + 1) <= mcnemar(gained, gained + lost), "a larger lead is no weaker"


def test_mcnemar_known_and_large() -> None:
    assert mcnemar(5, 0) == 0.0625 and mcnemar(1, 9) == pytest.approx(22 / 1024)
    normal = math.erfc((400 - 1) / math.sqrt(50_000) / math.sqrt(2))  # with continuity correction
    assert mcnemar(24_800, 25_200) == pytest.approx(normal, rel=1e-3)
    assert mcnemar(2_500, 2_500) == 1.0 and mcnemar(0, 50_000) == 0.0


def test_wilson_by_published_values() -> None:
    """Newcombe, Stat. Med. 17, 1998, table I: four cases of one proportion."""
    for (right, images), ends in {
        (81, 263): (25.53, 36.62),
        (15, 148): (6.24, 16.05),
        (0, 20): (0.0, 16.11),
        (1, 29): (0.61, 17.18),
    }.items():
        assert wilson(right, images) == pytest.approx(ends, abs=0.005)
    assert all(wilson(0, n)[0] == 0.0 and wilson(n, n)[1] == 100.0 for n in range(1, 100))


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_estimate_and_has_a_width(images: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, images))
    low, high = wilson(right, images)
    assert 0 <= low <= 100 * right / images <= high <= 100 and low < high
    other = wilson(images - right, images)
    assert (low, high) == pytest.approx((100 - other[1], 100 - other[0]))
    longer = wilson(10 * right, 10 * images)
    assert longer[1] - longer[0] < high - low, "more images, narrower"
    assert wilson(right, images, 0.99)[1] >= high


def test_the_paired_interval_by_published_values() -> None:
    """Tango, Stat. Med. 17, 1998; Newcombe's cases of two proportions, method 7 (Stat. Med. 17, 2635)."""
    assert Paired(12, 2, 50).interval() == pytest.approx((6.11, 34.47), abs=0.005)
    z = 1.959963984540054
    for images in (4, 300, 2000):  # where no image differs it is Wilson's end of a share of 0
        end = 100 * z * z / (images + z * z)
        assert Paired(0, 0, images).interval() == pytest.approx((-end, end))


@given(tables)
def test_the_paired_interval(pair: Paired) -> None:
    low, high = pair.interval()
    swapped = Paired(pair.lost, pair.gained, pair.images)
    assert swapped.interval() == (-high, -low) and swapped.difference == -pair.difference and swapped.p == pair.p
    assert -100 <= low <= pair.difference + 1e-6 and pair.difference - 1e-6 <= high <= 100
    assert low < high, "it never collapses"
    assert (low > 0 or high < 0) == (pair.p < 0.05), "the interval and the exact test say the same"
    longer = Paired(8 * pair.gained, 8 * pair.lost, 8 * pair.images).interval()
    assert longer[1] - longer[0] < high - low
    wide = pair.interval(0.99)
    assert wide[0] <= low and high <= wide[1]
    assert (wide[0] > 0 or wide[1] < 0) == (pair.p < 0.01)


@pytest.mark.parametrize("p", [(0.02, 0.02), (0.10, 0.12), (0.002, 0.01), (0.3, 0.2)], ids=str)
@pytest.mark.parametrize("images", [50, 400, 2000])
def test_how_often_the_interval_misses_and_the_test_cries(images: int, p: tuple[float, float]) -> None:
    """By 1,500 draws: 95 % of the intervals hold the truth, to the noise of the draws and a point of the formula."""
    draws = np.random.default_rng(0).multinomial(images, [*p, 1 - sum(p)], 1500)
    seen: dict[tuple[int, int], int] = {}
    for gained, lost, _ in draws:
        seen[int(gained), int(lost)] = seen.get((int(gained), int(lost)), 0) + 1
    made = [(Paired(*key, images).told, n) for key, n in seen.items()]
    truth = 100 * (p[0] - p[1])
    held = sum(n for one, n in made if one.low <= truth <= one.high) / 1500
    assert held >= 0.93
    if p[0] == p[1]:
        assert sum(n for one, n in made if judge([one])[0].differs) / 1500 <= 0.05
    lost = sum(n for one, n in made if truth < -1 and judge([one])[0].bounded) / 1500
    assert lost <= 0.05, "a loss of more than a point is called at most one"


@pytest.mark.parametrize("images", [4, 20, 300])
def test_wilson_holds_the_truth_on_average(images: int) -> None:
    """Exactly, by summing over all outcomes; at single shares it dips, as every interval of counts does."""
    held = [
        sum(math.comb(images, k) * s**k * (1 - s) ** (images - k) for k in range(images + 1) if holds(k, images, s))
        for s in np.linspace(0.01, 0.99, 50)
    ]
    assert 0.94 <= np.mean(held) <= 0.97 and min(held) > 0.82


def holds(right: int, images: int, share: float) -> bool:
    low, high = wilson(right, images)
    return low <= 100 * share <= high


def test_the_exact_test_cries_in_at_most_one_of_twenty_however_many_differ() -> None:
    for n in range(200):
        cries = sum(math.comb(n, k) for k in range(n + 1) if mcnemar(k, n - k) < verdicts.ALPHA) / 2**n
        assert cries <= 0.05


@given(st.lists(st.floats(0, 1), max_size=9))
def test_holm(ps: list[float]) -> None:
    found = holm(ps)
    assert all(p <= f <= min(1.0, len(ps) * p + 1e-12) for p, f in zip(ps, found, strict=True))
    assert sorted(found) == [f for _, f in sorted(zip(ps, found, strict=True))], "the order stays"
    assert holm(ps[::-1]) == found[::-1]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([0.2]) == [0.2]


@pytest.mark.parametrize(
    ("pair", "margin", "words"),
    [
        (Paired(60, 20, 2000), 1.0, "more accurate"),
        (Paired(100, 120, 50_000), 1.0, "at most 1.0 lost"),
        (Paired(100, 120, 50_000), 0.05, "too few images to say"),
        (Paired(100, 180, 50_000), 1.0, "less accurate, at most 1.0 lost"),
        (Paired(20, 50, 2000), 1.0, "less accurate"),
        (Paired(10, 90, 2000), 1.0, "less accurate, more than 1.0 lost"),
        (Paired(0, 0, 4), 1.0, "too few images to say"),
        (Paired(0, 0, 2000), 1.0, "at most 1.0 lost"),
        (Paired(0, 4, 100), 1.0, "too few images to say"),
        (Paired(0, 5, 100), 1.0, "too few images to say"),  # p = 0.0625
        (Paired(0, 6, 100), 1.0, "less accurate, more than 1.0 lost"),  # p = 0.031
        (Paired(40, 24, 2000), 1.0, "at most 1.0 lost"),  # p = 0.0599, and the score test has 0.0455
    ],
    ids=str,
)
def test_words(pair: Paired, margin: float, words: str) -> None:
    assert judge([pair.told], margin)[0].words == words


def test_of_many_some_differ_by_chance() -> None:
    one = Paired(0, 6, 100)  # p = 0.031
    assert judge([one.told])[0].differs
    among = judge([one.told, *[Paired(5, 5, 100).told] * 9])
    assert not among[0].differs and among[0].judged == 10 and among[0].words == "too few images to say"
    strong = judge([Paired(0, 12, 100).told, *[Paired(5, 5, 100).told] * 9])[0]
    assert strong.differs, "p = 0.0005 stands among ten"
    assert judge([]) == []


def test_no_loss_is_bounded_without_an_interval_that_has_a_width() -> None:
    for low, high in ((None, None), (0.0, 0.0)):
        assert judge([Difference(0.0, low, high, 1.0)])[0].words == "too few images to say"
    assert judge([Difference(-4.0, None, None, 0.001)])[0].words == "less accurate"
    assert judge([Difference(0.9, 0.01, 1.8, 0.0503)])[0].words == "at most 1.0 lost", "no win at p = 0.0503"
    assert judge([Difference(-0.5, -1.0, 0.1, 0.05)])[0].words == "at most 1.0 lost", "just so"
    assert judge([Difference(-2.0, -3.0, -1.0, 0.01)])[0].words == "less accurate"
    assert judge([Difference(0.0, -3.0, 3.0, 0.01)])[0].words == "less accurate", "0 is no gain"


@given(st.lists(tables, max_size=5), st.floats(0, 5))
def test_verdicts_follow_from_the_interval(pairs: list[Paired], margin: float) -> None:
    for pair, verdict in zip(pairs, judge([pair.told for pair in pairs], margin), strict=True):
        low, high = pair.interval()
        assert not verdict.differs or not low <= 0 <= high
        assert (verdict.bounded is True) == (low >= -margin)
        assert verdict.bounded is not False or (verdict.differs and not verdict.better and high < -margin)
        mirror = judge([Paired(pair.lost, pair.gained, pair.images).told])[0]
        assert mirror.differs == judge([pair.told])[0].differs and (
            not mirror.differs or mirror.better != verdict.better
        )


def test_a_difference_the_other_way_round() -> None:
    assert Difference(1.5, -0.5, 3.0, 0.04).turned() == Difference(-1.5, -3.0, 0.5, 0.04)
    assert Difference(1.5, None, None, 0.04).turned() == Difference(-1.5, None, None, 0.04)


def test_the_interval_of_a_median() -> None:
    half = 1.96 * 1.25 * 0.2 / (1.35 * 5)
    assert median_ends(80.0, 0.2, 25) == pytest.approx((80 / (1 + half), 80 * (1 + half)), rel=1e-12)


def test_the_interval_of_a_quotient() -> None:
    low, high = quotient(2.0, (1.9, 2.1), 1.0, (1.0, 1.0))
    assert (low, high) == pytest.approx((1.9, 2.1)), "of a constant, nothing is added"
    draw, ratios = np.random.default_rng(0), []
    for _ in range(2000):
        a, b = math.exp(draw.normal(0.7, 0.05)), math.exp(draw.normal(0.1, 0.1))
        low, high = quotient(
            a, (a * math.exp(-0.098), a * math.exp(0.098)), b, (b * math.exp(-0.196), b * math.exp(0.196))
        )
        ratios.append(low <= math.exp(0.6) <= high)
    assert np.mean(ratios) == pytest.approx(0.95, abs=0.015)
    forth, back = quotient(2.0, (1.8, 2.5), 1.5, (1.2, 1.6)), quotient(1.5, (1.2, 1.6), 2.0, (1.8, 2.5))
    assert forth == pytest.approx((1 / back[1], 1 / back[0]))


def test_words_of_speed() -> None:
    found = [verdicts.speed(*ends) for ends in ((1.01, 1.2), (0.8, 0.99), (0.9, 1.1), (1.0, 1.0), (None, 1.0))]
    assert found == ["faster", "slower", "no difference shown", "no difference shown", "not judged"]


def test_what_cannot_be_judged() -> None:
    for wrong in ((-1, 0, 5), (0, -1, 5), (3, 3, 5), (0, 0, 0)):
        gained, lost, images = wrong
        together = "give counts of 0 or more that are together no more than the images."
        with refused(UsageError, f"{gained} images gained and {lost} lost of {images} cannot be; {together}"):
            Paired(*wrong)
    for right, images in ((-1, 5), (6, 5), (0, 0)):
        limits = "give 0 <= right <= images and 1 <= images."
        with refused(UsageError, f"{right} of {images} images cannot be right; {limits}"):
            wilson(right, images)
    for level in (0.0, 1.0):
        with refused(UsageError, f"level={level} makes no interval; give 0 < level < 1."):
            Paired(1, 2, 5).interval(level)
    for margin in (-0.1, 101, math.nan):
        with refused(UsageError, f"A margin of {margin} points is not allowed; give 0 to 100."):
            judge([], margin)


def test_verdicts_need_no_torch() -> None:
    code = "import sys, tokenbench.measure.verdicts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
