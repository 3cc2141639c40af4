"""What the page says of rows, as text: the script shows these and rounds, counts and judges nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tokenbench.reports import cells, pareto
from tokenbench.reports.cells import MISSING, number
from tokenbench.reports.groups import Group, Point
from tokenbench.reports.published import Comparison


def of(point: Point, dense: Any) -> dict[str, str]:
    """The cells of a row, and what its marks in charts say on hover; by `t_` and the name of the column or field."""
    row, p = point.row, point.row.metrics.get("p_value")
    shown = cells.cells(row, dense, point.verdict)
    found = {f"t_{name}": text for name, text in shown.items()}
    low, high = (None if not s else 100 - 100 / s for s in (row.speedup_low, row.speedup_high))
    came_true = None
    if point.saved is not None and point.saved > 0.01 and point.time_saved is not None:
        came_true = point.time_saved / point.saved
    inner = row.label[row.label.index("[") + 1 : -1] if "[" in row.label else row.label
    return found | {
        "t_setting": inner.replace("keep_rate=", ""),
        "t_p": MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
        "t_images": MISSING if row.images is None else f"{row.images:,}",
        "t_timed": MISSING if row.runs is None else str(row.runs),
        "t_saved": _percent(point.saved),
        "t_time_saved": cells.interval(_hundred(point.time_saved), low, high, "{:.0f} %"),
        "t_came_true": _percent(came_true),
        "t_tokens": " ".join(number(count, "{:.0f}") for count in row.tokens_mean or ()),
    }


def compared(made: Comparison) -> dict[str, Any]:
    """A measured row beside a published number."""
    reported, ratio = made.reported, made.gmacs
    return {
        "t_published": number(reported.top1, "{:.2f}"),
        "t_published_gmacs": number(reported.gmacs, "{:g}"),
        "t_how": "trained" if reported.trained else "off the shelf",
        "t_difference": number(made.top1, "{:+.1f}"),
        "t_inside": "inside the interval" if made.inside else "",
        "t_ratio": "" if ratio is None else f"{100 * ratio:+.1f} %",
        "t_why": "; ".join(made.reasons),
    }


def answers(group: Group) -> dict[str, dict[str, Any]]:
    """By axis, the headline of a group and what follows it: texts, and those to stress in lists of one."""
    scored = [p for p in group.points if p.row.status == "ok" and p.score is not None]
    return {axis.field: _answer(group, scored, axis) for axis in pareto.AXES}


def _answer(group: Group, scored: Sequence[Point], axis: pareto.Axis) -> dict[str, Any]:
    backbone = group.first.backbone
    if not scored:
        why = dict.fromkeys(p.row.reason for p in group.points if p.row.status == "ok" and p.row.reason)
        lead = [f"Why: {'; '.join(map(str, why))}. " if why else "", "GMACs, speed, memory and tokens were."]
        return {"headline": f"{backbone}: no {group.metrics[0].noun} was measured here", "lead": lead}
    others = [p for p in scored if p.row.method != "dense"]
    front = [p for p in others if axis.field in p.fronts]
    held = [name for name, _ in Counter(p.row.method for p in front).most_common()]
    who = f"{_list(held) or 'nothing but dense'} {'are' if len(held) > 1 else 'is'}"
    beaten = f"{len(front)} of {len(others)} settings {'is' if len(front) == 1 else 'are'} beaten by no other. "
    headline = f"{backbone}: {who} on the front of {group.metrics[0].noun} against {axis.short}"
    return {"headline": headline, "lead": [beaten, *_verdicts(group, others)]}


def _verdicts(group: Group, points: Sequence[Point]) -> list[Any]:
    """How many settings are how sure of what, and which saves most of those that lose little."""
    judged = [(p, p.verdict) for p in points if p.verdict is not None]
    if not judged:
        return []
    margin = f"{judged[0][1].margin} point"
    fine = [p for p, v in judged if v.bounded]
    better = sum(v.differs and v.better for _, v in judged)
    held = sum(bool(v.bounded) and not (v.differs and v.better) for _, v in judged)
    less = sum(v.differs and not v.better and v.bounded is None for _, v in judged)
    unsure = sum(not v.differs and v.bounded is None for _, v in judged)
    kinds = [
        (better, "is more accurate than dense", "are more accurate than dense"),
        (held, f"loses at most {margin}", f"lose at most {margin}"),
        (sum(v.bounded is False for _, v in judged), f"loses more than {margin}", f"lose more than {margin}"),
        (less, "is less accurate", "are less accurate"),
        (unsure, "cannot be judged", "cannot be judged"),
    ]
    told = [f"{'one' if n == 1 else n} {one if n == 1 else many}" for n, one, many in kinds if n]
    few = "; for that there are too few images" if unsure else ""
    found: list[Any] = [f"On {group.images:,} images {_list(told)}{few}."]
    if fine:
        best = max(fine, key=lambda p: p.saved or 0.0)
        shown = cells.cells(best.row, group.dense, best.verdict)
        speed = f"; speed-up {shown['speedup']}" if best.row.speedup is not None else ""
        rest = f", {shown['change']} GMAC for {shown['diff']} points{speed}."
        found += [" Saving most without losing more: " if len(fine) > 1 else " It is ", [best.row.label], rest]
    return found


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _percent(share: float | None) -> str:
    return number(_hundred(share), "{:.0f} %")
