"""Every verdict of the project, and the test behind it. Numbers in, words out; needs no torch.

Two models on the same images differ where McNemar's exact test says so. That no difference is shown does not make them
equal: a loss is bounded where the paired interval ends above minus the margin (non-inferiority), and else there are too
few images to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist

from tokenbench.errors import UsageError

LEVEL = 0.95
ALPHA = 0.05
MARGIN = 1.0  # points of top-1

Ends = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """The accuracy of one model minus that of another on the same images, in points, and how sure it is."""

    value: float
    low: float | None  # the 95 % interval
    high: float | None
    p: float  # McNemar's, exact

    def turned(self) -> Difference:
        """The other way round: where less is better, or of the second minus the first."""
        low, high = (None if end is None else -end for end in (self.high, self.low))
        return Difference(-self.value, low, high, self.p)


@dataclass(frozen=True)
class Paired:
    """What two models made of the same images, the second being the reference.

    Raises:
        UsageError: the counts cannot be.
    """

    gained: int  # images that only the first got right
    lost: int  # images that only the reference got right
    images: int

    def __post_init__(self) -> None:
        if min(self.gained, self.lost) < 0 or self.images < max(1, self.gained + self.lost):
            raise UsageError(
                f"{self.gained} images gained and {self.lost} lost of {self.images} cannot be; "
                f"give counts of 0 or more that are together no more than the images."
            )

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the reference, in points."""
        return round(100 * (self.gained - self.lost) / self.images, 6)

    @cached_property
    def p(self) -> float:
        """The p-value that both are equally often right; see `mcnemar`."""
        return mcnemar(self.gained, self.lost)

    def interval(self, level: float = LEVEL) -> Ends:
        """The interval of the difference, in points: Tango's score interval for paired proportions.

        (Stat. Med. 17, 1998, equations 6 to 10.) It has a width where no image differs, too. The exact test is a little
        more careful than the score test; where it shows no difference, the interval is stretched to hold 0, so that
        interval and verdict never say opposite things.
        """
        z = _normal(level)
        low, high = -_tango(self.lost, self.gained, self.images, z), _tango(self.gained, self.lost, self.images, z)
        if self.p >= 1 - level:
            low, high = min(low, 0.0), max(high, 0.0)
        return 100 * low, 100 * high

    @property
    def told(self) -> Difference:
        """The difference with its 95 % interval and its p-value."""
        return Difference(self.difference, *self.interval(), self.p)


@dataclass(frozen=True)
class Verdict:
    """What may be said of a setting beside the reference."""

    differs: bool  # by McNemar's exact test, after Holm's correction
    better: bool  # the sign of the difference; says nothing unless `differs`
    bounded: bool | None  # the loss is at most the margin (True) or more than it (False); None: too few images to say
    margin: float
    p: float  # after the correction
    judged: int  # how many were judged at once

    @property
    def words(self) -> str:
        """A clause, as it stands in tables."""
        if self.differs and self.better:
            return "more accurate"
        if self.bounded is None:
            return "less accurate" if self.differs else "too few images to say"
        bound = f"{'at most' if self.bounded else 'more than'} {self.margin} lost"
        return f"less accurate, {bound}" if self.differs else bound


@dataclass(frozen=True)
class Bound:
    """Whether a setting loses at most the margin, where one is going to be picked of several."""

    holds: bool | None  # at most the margin (True), more than it (False), or None: too few images to say
    at_most: float | None  # points lost at most, of all of them at once; below 0 where something is gained
    more: float | None  # how many times the images would make it hold, if the difference stays what it is


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value that two models are equally often right (McNemar's test on the same images).

    Only the n images that just one of them gets right count; under the null hypothesis each falls to either model
    like a fair coin. Whole-number arithmetic throughout, so nothing is lost however large n is.
    """
    n = gained + lost
    term = tail = 1  # n choose 0
    for i in range(min(gained, lost)):
        term = term * (n - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << n))


def wilson(right: int, images: int, level: float = LEVEL) -> Ends:
    """The interval of one accuracy, in percent: Wilson's score interval (J. Am. Stat. Assoc. 22, 1927)."""
    if not 0 <= right <= images or images < 1:
        raise UsageError(f"{right} of {images} images cannot be right; give 0 <= right <= images and 1 <= images.")
    z = _normal(level)
    share, spread = right / images, z * z / images
    middle, half = share + spread / 2, z * math.sqrt(share * (1 - share) / images + spread / (4 * images))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return 100 * (low if right else 0.0), 100 * (high if right < images else 1.0)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values for several tests at once, so that any false alarm at all stays as rare as one test's (Holm, 1979)."""
    found, most = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        most = max(most, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = most
    return found


def judge(found: Sequence[Difference], margin: float = MARGIN) -> list[Verdict]:
    """The verdict on each of several settings that stand beside one reference and are looked at together.

    An interval without width, which only other formulas than `Paired.interval` give, bounds nothing.

    Raises:
        UsageError: the margin is no number of points.
    """
    _check_margin(margin)
    verdicts = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        differs, bounded = p < ALPHA, None
        if one.low is not None and one.high is not None and one.low < one.high:
            bounded = True if one.low >= -margin else False if differs and one.high < -margin else None
        verdicts.append(Verdict(differs, one.value > 0, bounded, float(margin), p, len(found)))
    return verdicts


def bounds(found: Sequence[Difference], margin: float = MARGIN, among: int = 0) -> list[Bound]:
    """For each of several settings, one of which is going to be picked, whether it loses at most the margin.

    Who picks the cheapest of forty that seem good enough picks chance too. So the one-sided tests of non-inferiority
    are corrected by Holm for all that stand to choose, at half of 5 %; of a single one that is `judge`'s rule, that the
    95 % interval ends above minus the margin. Between an interval's middle and its ends differences count as normal.

    Args:
        found: differences from the reference.
        margin: points that may be lost.
        among: of how many they are, where more are going to be looked at.

    Raises:
        UsageError: the margin is no number of points.
    """
    _check_margin(margin)
    ends = [_halves(one) for one in found]
    able = [i for i, half in enumerate(ends) if half is not None]
    tests = [_tail(found[i].value + margin, half) for i, half in enumerate(ends) if half is not None]
    held = dict(zip(able, holm([*tests, *[1.0] * (among - len(able))]), strict=False))
    strict = _normal(1 - ALPHA / max(1, among, len(able)))
    made = []
    for i, (one, half) in enumerate(zip(found, ends, strict=True)):
        if half is None:
            made.append(Bound(None, None, None))
            continue
        below, above = half
        at_most = strict * below - one.value
        if held[i] <= ALPHA / 2 * (1 + 1e-9):
            made.append(Bound(True, min(at_most, margin), 1.0))
        elif one.value + _normal(LEVEL) * above < -margin:
            made.append(Bound(False, at_most, None))
        else:
            room = one.value + margin
            made.append(Bound(None, at_most, (strict * below / room) ** 2 if room > 0 else None))
    return made


def independent(value: float, ends: Ends, reference: float, reference_ends: Ends) -> Difference:
    """The difference of two accuracies in percent that were not paired, from the interval of each.

    By the method of variance estimates recovery, as `quotient` (Newcombe, Stat. Med. 17, 1998, method 10, where the
    intervals are Wilson's). Of the same images it is wider than need be, for models err on the same ones.
    """
    low = math.hypot(value - ends[0], reference_ends[1] - reference)
    high = math.hypot(ends[1] - value, reference - reference_ends[0])
    d = value - reference
    towards = low if d > 0 else high
    p = min(1.0, 2 * NormalDist().cdf(-abs(d) * _normal(LEVEL) / towards)) if towards else 1.0
    return Difference(d, d - low, d + high, p)


def speed(low: float | None, high: float | None) -> str:
    """What an interval of a ratio of speeds says."""
    if low is None or high is None:
        return "not judged"
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


def break_even(speedups: Mapping[int, float]) -> int | None:
    """The smallest batch from which on the model is no slower than the reference.

    Args:
        speedups: measured speed-up by batch size.

    Returns:
        The smallest measured batch such that it and every larger one have a speed-up of 1 or more; None if none has.
    """
    found = None
    for batch in sorted(speedups, reverse=True):
        if speedups[batch] < 1:
            break
        found = batch
    return found


def median_ends(median: float, spread: float, runs: int) -> Ends:
    """The 95 % interval of a median from its sample's interquartile range over the median.

    For samples that are near normal (McGill, Tukey and Larsen, Am. Stat. 32, 1978, with 1.96 in place of their 1.7).
    """
    half = 1.96 * 1.25 * spread / (1.35 * math.sqrt(runs))
    return median / (1 + half), median * (1 + half)


def quotient(value: float, ends: Ends, reference: float, reference_ends: Ends) -> Ends:
    """The interval of value / reference from the interval of each.

    On the logarithms, by the method of variance estimates recovery (Zou and Donner, Stat. Med. 27, 2008), which takes
    both to vary on their own.
    """
    mine, theirs = math.log(value), math.log(reference)
    low = math.hypot(mine - math.log(ends[0]), math.log(reference_ends[1]) - theirs)
    high = math.hypot(math.log(ends[1]) - mine, theirs - math.log(reference_ends[0]))
    return math.exp(mine - theirs - low), math.exp(mine - theirs + high)


def _check_margin(margin: float) -> None:
    if not 0 <= margin <= 100:
        raise UsageError(f"A margin of {margin} points is not allowed; give 0 to 100.")


def _halves(one: Difference) -> Ends | None:
    """The standard errors below and above a difference, from its 95 % interval; None where that has no width."""
    if one.low is None or one.high is None or not one.low < one.high:
        return None
    z = _normal(LEVEL)
    return (one.value - one.low) / z, (one.high - one.value) / z


def _tail(room: float, half: Ends) -> float:
    """The one-sided p-value that the true difference is so far below the one found."""
    below = half[0]
    if below <= 0:
        return 0.0 if room >= 0 else 1.0
    return NormalDist().cdf(-room / below)


@cache
def _normal(level: float) -> float:
    """How many standard deviations hold that share of a normal distribution."""
    if not 0 < level < 1:
        raise UsageError(f"level={level} makes no interval; give 0 < level < 1.")
    return NormalDist().inv_cdf((1 + level) / 2)


def _tango(gained: int, lost: int, images: int, z: float) -> float:
    """The upper end of the interval of (gained - lost) / images: where the score statistic falls to -z."""

    def score(d: float) -> float:
        """Of the hypothesis that the difference is d; falls as d grows."""
        a, b, c = 2 * images, (2 * images - gained + lost) * d - gained - lost, -lost * d * (1 - d)
        share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # lost, most likely under it
        variance = images * (2 * share + d * (1 - d))
        return (gained - lost - images * d) / math.sqrt(variance) if variance > 0 else -math.inf

    return _where(lambda d: score(d) < -z, (gained - lost) / images, 1.0)


def _where(beyond: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that fails at `low` and holds at `high` begins to hold."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return high
