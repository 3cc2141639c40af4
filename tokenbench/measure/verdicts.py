"""Every verdict of the project, and the test behind it. Numbers in, words out; needs no torch.

Two models on the same images differ where McNemar's exact test says so. That no difference is shown does not make them
equal: a loss is bounded where the paired interval ends above minus the margin (non-inferiority), and else there are too
few images to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    if not 0 <= margin <= 100:
        raise UsageError(f"A margin of {margin} points is not allowed; give 0 to 100.")
    verdicts = []
    for one, p in zip(found, holm([one.p for one in found]), strict=True):
        differs, bounded = p < ALPHA, None
        if one.low is not None and one.high is not None and one.low < one.high:
            bounded = True if one.low >= -margin else False if differs and one.high < -margin else None
        verdicts.append(Verdict(differs, one.value > 0, bounded, float(margin), p, len(found)))
    return verdicts


def speed(low: float | None, high: float | None) -> str:
    """What an interval of a ratio of speeds says."""
    if low is None or high is None:
        return "not judged"
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


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
