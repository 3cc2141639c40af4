"""What a choice says in words: the first sentence of report, page and `tokenbench choose`, and what follows it.

Texts to stress stand in lists of one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tokenbench.measure.verdicts import LEVEL
from tokenbench.reports import cells
from tokenbench.runs.axes import AXES, Axis
from tokenbench.runs.choose import Choice, Limit, Offer, Saving, Wanted, decide
from tokenbench.runs.conditions import same_model
from tokenbench.runs.row import Row
from tokenbench.tasks import known, metrics_of
from tokenbench.tasks.base import Metric

Text = list[Any]  # strings, and lists of one

_MOST = 100  # times the images measured: nobody has more


def usual(rows: Iterable[Row]) -> Axis:
    """What settings are ranked by unless something else is asked for: latency where it is known well, else GMACs."""
    timed = [row for row in rows if row.status == "ok" and AXES[1].of(row)]
    return AXES[1] if timed and 2 * sum(bool(row.noisy) for row in timed) < len(timed) else AXES[0]


def of(rows: Sequence[Row], margin: float) -> str:
    """The sentence on rows of one machine and one set of data; nothing where accuracy was not measured."""
    choice = decide(rows, Wanted(margin, by=usual(rows)))
    return headline(choice) if choice.rows and choice.rows != [choice.reference] else ""


def headline(choice: Choice) -> str:
    """What to use and how sure that is, or why that cannot be said, in one sentence without its full stop."""
    best, unsure = choice.best, choice.unsure
    if not choice.rows:
        return "No accuracy was measured here"
    if choice.wanted.by is not None and not choice.ranked:
        return f"Nothing to rank by: {choice.wanted.by.short} was not measured here"
    if choice.pointless and choice.reference is not None:
        told = f"{name(choice, choice.reference)} has {_score(choice, choice.reference)} {_metrics(choice)[0].heading}"
        return f"Nothing to lose: {told}; train it until it has more"
    if best is None and not unsure:
        return _nothing(choice)
    if choice.reference is None and (best is None or (best.drop is None and choice.wanted.by is not None)):
        return "Nothing to compare with: there is no dense row here; run dense too"
    if best is None:
        few = too_few(choice, unsure[0])
        return f"{_begun(few)} to say whether {name(choice, unsure[0].row)} {_does(choice, unsure[0])}"
    if choice.wanted.by is None:
        return _most_accurate(choice, best)
    if not best.reference and best.saving is not None and best.saving.sure:
        gain = change(choice.wanted.by, best.saving)
        return f"{_within(choice)} {name(choice, best.row)}: {gain}, {lost(choice, best)}, {_sure(choice, best)}"
    axis, stay = choice.wanted.by.short, f"Stay with {name(choice, best.row)}"
    if not best.reference:
        loses = "" if best.bound is None else f", {lost(choice, best)}, {_sure(choice, best)}"
        return f"{_within(choice)} {name(choice, best.row)}{loses}: nothing that keeps to this surely gains {axis}"
    saver = next((offer for offer in unsure if offer.likely and offer.saving is not None and offer.saving.sure), None)
    if saver is not None and saver.saving is not None:
        gain = change(choice.wanted.by, saver.saving)
        few = too_few(choice, saver)
        return f"{stay} for now: {few} to say whether {name(choice, saver.row)} ({gain}) {_does(choice, saver)}"
    bound = "" if choice.wanted.drop is None else f" and loses at most {points(choice, choice.wanted.drop)}"
    return f"{stay}: nothing else {limits(choice.wanted) or 'here'} surely gains {axis}{bound}"


def lead(choice: Choice) -> Text:
    """What follows the headline: the numbers behind it, what would gain more, and how many images would tell."""
    best, found = choice.best, list[Any]()
    if best is not None and not best.reference:
        found += ["In full: ", [name(choice, best.row)], f", {numbers(choice, best)}. "]
    if not choice.pointless:
        others = [o for o in choice.offers if o.keeps and o is not best and not o.reference]
        others = [o for o in others if choice.wanted.by is None or (o.saving is not None and o.saving.sure)]
        if others:
            found += ["Next: ", [name(choice, others[0].row)], f", {numbers(choice, others[0])}. "]
        found += _would(choice)
    over = sum(not offer.reference for offer in choice.refused)
    if over:
        do = "does" if over == 1 else "do"
        found.append(f"{_count(over, 'setting')} {do} not keep to it.")
    return found


def table(choice: Choice, most: int) -> list[dict[str, str]]:
    """A line an offer, the best first, with how sure it is."""
    lines, (metric, *_) = [], _metrics(choice)
    for offer in choice.offers[:most]:
        texts = cells.cells(offer.row, choice.reference, None)
        form = f"{{:+.{metric.digits}f}}"
        drop = offer.drop if offer.drop and not offer.reference else None
        value, low, high = (drop.value, drop.low, drop.high) if drop else (None, None, None)
        lines.append(
            {
                "setting": name(choice, offer.row),
                "sure": verdict(choice, offer),
                metric.heading: texts["score"],
                "Δ reference": cells.interval(value, low, high, form),
                "surely lost": cells.MISSING if drop is None else lost(choice, offer),
                "saved": _saved(choice, offer),
                "ms a batch": texts["latency"],
                known(offer.row.task).rate: texts["speed"],
                "GMAC": texts["gmacs"],
                "peak MiB": texts["peak"],
            }
        )
    return lines


def verdict(choice: Choice, offer: Offer) -> str:
    """How sure it is that a setting keeps to everything, in a few words."""
    if offer.reference:
        return "the reference"
    if choice.pointless:
        return "nothing to lose"
    if offer.keeps:
        return f"{100 * LEVEL:.0f} %" if offer.bound is not None or offer.row.runs else "yes"
    return f"{too_few(choice, offer)} to say"


def name(choice: Choice, row: Row) -> str:
    """A setting as it is told from the others of a choice."""
    weights = ""
    if row.trained is not None:
        twice = sum(other.label == row.label and same_model(row, other) for other in choice.rows) > 1
        weights = f" (trained{f', {row.trained.hash}' if twice else ''})"
    return f"{row.label}{weights}{_backbone(choice, row) if choice.several else ''}"


def _backbone(choice: Choice, row: Row) -> str:
    """Which backbone, and with which weights where several are there, by their hash where that alone tells them."""
    weights = {other.weights for other in choice.rows if other.backbone == row.backbone}
    twice = sum(other.name == row.weights.name for other in weights) > 1
    own = f" with {row.weights.name}{f' ({row.weights.hash})' if twice else ''}" if len(weights) > 1 else ""
    return f" on {row.backbone}{own}"


def change(axis: Axis, saving: Saving) -> str:
    """A saving as the axis has it: -25 % latency, +33 % images/s."""
    share = 100 * (1 / (1 - saving.share) - 1 if axis.more_is_better else -saving.share)
    return f"{share:+.{0 if abs(share) >= 1 else 1}f} % {axis.short}"


def lost(choice: Choice, offer: Offer) -> str:
    """What is lost at most: the end of the interval, after correction for all that stand to choose."""
    if offer.reference:
        return "nothing lost"
    if offer.bound is None or offer.bound.at_most is None:
        return "not known what is lost"
    digits = _metrics(choice)[0].digits
    most = math.ceil(offer.bound.at_most * 10**digits - 1e-6) / 10**digits
    return f"at most {points(choice, most)} lost" if most > 0 else "nothing lost"


def points(choice: Choice, value: float) -> str:
    """A difference in the unit of the task's main metric."""
    metric = _metrics(choice)[0]
    shown = f"{value:.{metric.digits}f}" if round(value, metric.digits) == value else f"{value:g}"
    unit = "point" if metric.points == "points" and value == 1 else metric.points
    return f"{shown} {unit}".rstrip()


def limits(wanted: Wanted) -> str:
    """The limits on costs in words."""
    return " and ".join(limit_words(limit) for limit in wanted.limits)


def limit_words(limit: Limit) -> str:
    """A limit in words: within 20 ms a batch."""
    return f"{'with at least' if limit.axis.more_is_better else 'within'} {limit.value:g} {limit.axis.unit}"


def _metrics(choice: Choice) -> tuple[Metric, ...]:
    first = choice.rows[0]
    return metrics_of(first.task, list(first.metrics))


def _score(choice: Choice, row: Row) -> str:
    """The main metric without its interval."""
    return cells.score(row, _metrics(choice)[0]).split(" [")[0]


def _begun(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _within(choice: Choice) -> str:
    told = limits(choice.wanted)
    return f"{_begun(told)}, use" if told else "Use"


def _sure(choice: Choice, offer: Offer) -> str:
    return f"{100 * LEVEL:.0f} % sure on {cells.items(offer.row.images or 0, offer.row.task)}"


def _items(choice: Choice) -> str:
    return known(choice.rows[0].task).items


def too_few(choice: Choice, offer: Offer) -> str:
    """What there is too little of to say whether a setting keeps to everything: all that there is."""
    found = ["too few timed rounds"] if offer.doubts else []
    if _is_unbounded(choice, offer) and offer.drop is None:
        found.append("too little measured")
    elif _is_unbounded(choice, offer):
        seen = f" ({offer.row.images:,})" if offer.row.images else ""
        found.append(f"too few {_items(choice)}{seen}")
    return " and ".join(found)


def _does(choice: Choice, offer: Offer) -> str:
    """What it is asked of a setting and cannot be said, as verbs."""
    doubted = [limit_words(limit) for limit in choice.wanted.limits if limit.axis in offer.doubts]
    found = [f"keeps {' and '.join(doubted)}"] if doubted else []
    if _is_unbounded(choice, offer):
        found.append(f"loses at most {points(choice, choice.wanted.drop or 0.0)}")
    return " and ".join(found)


def _is_unbounded(choice: Choice, offer: Offer) -> bool:
    """Whether it cannot be said that a setting loses little enough."""
    asked = choice.wanted.drop is not None and not offer.reference
    return asked and (offer.bound is None or offer.bound.holds is None)


def _nothing(choice: Choice) -> str:
    """Nothing keeps to what is asked, and how far the nearest is from it."""
    wanted = choice.wanted
    loses = None if wanted.drop is None else f"surely loses at most {points(choice, wanted.drop)}"
    if not wanted.limits:
        return f"Nothing here {loses}"
    unknown = [limit for limit in wanted.limits if all(limit.axis.of(offer.row) is None for offer in choice.refused)]
    if unknown:
        return f"Nothing to choose from: {unknown[0].axis.short} was not measured here"
    near = choice.refused[0]
    found = [
        limit.axis.text(value, limit.value)
        for i, limit in enumerate(wanted.limits)
        if (value := limit.axis.of(near.row)) is not None and (i == 0 or limit.keeps(near.row) is False)
    ]
    if not near.likely and near.drop is not None:
        found.append(f"{points(choice, -round(near.drop.value, _metrics(choice)[0].digits))} lost")
    also = f" and {loses}" if loses else ""
    return f"Nothing here keeps {limits(wanted)}{also}: the nearest is {name(choice, near.row)} with {_and(found)}"


def _and(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _most_accurate(choice: Choice, best: Offer) -> str:
    metric, drop = _metrics(choice)[0], best.drop
    has = f"{_score(choice, best.row)} {metric.unit or metric.short}"
    told = f"{_within(choice)} {name(choice, best.row)}, the most accurate: {has}"
    if best.reference or drop is None or choice.reference is None:
        return told
    beside = name(choice, choice.reference)
    if best.bound is None or best.bound.at_most is None:
        return f"{told}, {points(choice, abs(round(drop.value, metric.digits)))} from {beside}"
    return f"{told}, {lost(choice, best)} against {beside}, {_sure(choice, best)}"


def numbers(choice: Choice, offer: Offer) -> str:
    """What a setting loses and saves, with intervals."""
    drop, metric = offer.drop, _metrics(choice)[0]
    form = f"{{:+.{metric.digits}f}}"
    parts = [f"{cells.interval(drop.value, drop.low, drop.high, form)} {metric.points}" if drop else ""]
    if offer.saving is not None:
        parts.append(_saved(choice, offer))
    if offer.row.latency_p50 is not None and choice.wanted.by is not AXES[1]:
        parts.append(f"{cells.latency(offer.row)} ms a batch")
    if cells.is_unequal(offer.row, choice.reference):
        parts.append("trained with another budget than dense")
    return ", ".join(filter(None, parts))


def _saved(choice: Choice, offer: Offer) -> str:
    """A saving with its interval."""
    axis, saving = choice.wanted.by or AXES[1], offer.saving
    if saving is None:
        return cells.MISSING
    shown = change(axis, saving)
    if saving.low is None or saving.high is None:
        return shown
    low, high = (change(axis, Saving(end)).split(" ")[0] for end in (saving.low, saving.high))
    return f"{shown} [{min(low, high, key=float)}, {max(low, high, key=float)}]"


def _would(choice: Choice) -> Text:
    """What cannot be said now and would be better, and with how many images it could."""
    best, by = choice.best, choice.wanted.by
    least = best.saving.share if best is not None and best.saving is not None and best.saving.sure else 0.0
    for offer in choice.unsure:
        if by is not None and (offer.saving is None or not offer.saving.sure or offer.saving.share <= least):
            continue
        more = offer.bound.more if offer.bound else None
        found: Text = [[name(choice, offer.row)], f" cannot be judged yet ({numbers(choice, offer)})"]
        if not offer.doubts and more is not None and offer.row.images:
            items = _items(choice)
            would = f"about {_round(more * offer.row.images):,} {items} would tell"
            found[-1] += f"; {would if more <= _MOST else f'that is too close to the limit for more {items} to tell'}"
        return [*found, ". "]
    return []


def _round(count: float) -> int:
    """A number of images to two digits, upwards."""
    unit = 10 ** max(0, math.floor(math.log10(count)) - 1)
    return int(math.ceil(count / unit - 1e-6) * unit)


def _count(number: int, noun: str) -> str:
    return f"one {noun}".capitalize() if number == 1 else f"{number} {noun}s"
