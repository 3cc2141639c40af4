"""What a row's numbers look like: rounded once, here, so that screen, tables and page show the same digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from tokenbench.measure.verdicts import ALPHA, MARGIN, Difference, Verdict, judge
from tokenbench.runs.results import Row

MISSING = "–"
ELSEWHERE = "†"  # of another session than the dense row beside it


@dataclass(frozen=True)
class Column:
    """A column of every table of rows."""

    title: str
    name: str
    field: str  # of the row or of its point, to sort by
    brackets: str = ""  # what its brackets are
    spare: bool = False  # can be done without


COLUMNS = (
    Column("top-1 %", "top1", "top1", "95 % interval (Wilson)"),
    Column("Δ dense", "diff", "diff_dense", "95 % interval, paired (Tango)"),
    Column("verdict", "verdict", "p_value"),
    Column("top-5 %", "top5", "top5", spare=True),
    Column("GMAC", "gmacs", "gmacs"),
    Column("Δ GMAC", "change", "gmacs"),
    Column("params M", "params", "params_m", spare=True),
    Column("img/s", "speed", "images_per_s"),
    Column("speed-up", "speedup", "speedup", "as `of_speed` has it"),
    Column("spread", "spread", "spread", spare=True),
    Column("ms a batch", "latency", "latency_p50", "10th and 90th percentile"),
    Column("selecting", "share", "reduction_share", spare=True),
    Column("peak MiB", "peak", "peak_memory_mb", spare=True),
    Column("last tokens", "last", "last_tokens", spare=True),
)


def judged(rows: Sequence[Row], margin: float = MARGIN) -> dict[int, Verdict]:
    """By `id(row)`, the verdicts on those of some rows, shown together, that were compared with dense."""
    told = [row for row in rows if row.status == "ok" and row.diff_dense is not None and row.p_value is not None]
    changes = [Difference(r.diff_dense or 0.0, r.diff_dense_low, r.diff_dense_high, r.p_value or 0.0) for r in told]
    return {id(row): verdict for row, verdict in zip(told, judge(changes, margin), strict=True)}


def cells(row: Row, dense: Row | None, verdict: Verdict | None) -> dict[str, str]:
    """The text of each column.

    Args:
        row: what is shown.
        dense: the dense model's row beside it, if there is one.
        verdict: what may be said of the difference between them.
    """
    saved = 100 * (row.gmacs / dense.gmacs - 1) if dense and row.gmacs and dense.gmacs and row is not dense else None
    share = None if row.reduction_share is None else 100 * row.reduction_share
    texts = (
        interval(row.top1, row.top1_low, row.top1_high, "{:.1f}"),
        interval(row.diff_dense, row.diff_dense_low, row.diff_dense_high, "{:+.1f}"),
        verdict.words if verdict else MISSING,
        number(row.top5, "{:.1f}"),
        number(row.gmacs, "{:.3f}"),
        number(saved, "{:+.0f} %"),
        number(row.params_m, "{:.2f}"),
        rate(row.images_per_s) + ELSEWHERE * is_elsewhere(row, dense),
        interval(row.speedup, row.speedup_low, row.speedup_high, "{:.2f}"),
        MISSING if row.spread is None else f"{100 * row.spread:.0f} %{', noisy' if is_noisy(row) else ''}",
        interval(row.latency_p50, row.latency_p10, row.latency_p90, "{:.1f}"),
        number(share, "{:.0f} %"),
        number(row.peak_memory_mb, "{:.0f}"),
        number(row.tokens_mean[-1] if row.tokens_mean else None, "{:.0f}"),
    )
    return {column.title: text for column, text in zip(COLUMNS, texts, strict=True)}


def notes(rows: Sequence[Row], verdicts: Mapping[int, Verdict], dense: Row | None) -> list[str]:
    """What must be known to read the cells of some rows that are shown together."""
    shown = [cells(row, dense, verdicts.get(id(row))) for row in rows]
    kinds: dict[str, list[str]] = {}
    for column in COLUMNS:
        if any("[" in texts[column.title] for texts in shown) and column.brackets:
            kind = of_speed(rows) if column.name == "speedup" else column.brackets
            kinds.setdefault(kind, []).append(column.title)
    told = [f"{', '.join(names)}: {kind}" for kind, names in kinds.items()]
    found = [f"in brackets, {'; '.join(told)}"] if told else []
    for verdict in list(verdicts.values())[:1]:
        found.append(rule(verdict))
    away = [row.label for row in rows if is_elsewhere(row, dense)]
    if away:
        found.append(
            f"{ELSEWHERE} {', '.join(away)}: timed in another session than the dense row here, so compare by speed-up, "
            "which is to dense in the same rounds"
        )
    if any(row.spread is not None for row in rows):
        found.append("spread: interquartile range of the timed passes over their median")
    return found


def rule(verdict: Verdict) -> str:
    """Which tests the verdicts of a table are by."""
    many = f", after Holm's correction for {verdict.judged} settings" if verdict.judged > 1 else ""
    return (
        f"verdict: more or less accurate by McNemar's exact test at {100 * ALPHA:.0f} %{many}; at most "
        f"{verdict.margin} points lost where the 95 % interval ends above -{verdict.margin}; else there are too few "
        "images to say"
    )


def of_speed(rows: Sequence[Row]) -> str:
    """What the interval of a speed-up is: rows of earlier versions, which do not say whether they are noisy, have
    percentiles.
    """
    old = all(getattr(row, "noisy", None) is None for row in rows)
    return "10th and 90th percentile over rounds" if old else "95 % interval of the median over rounds"


def is_noisy(row: Row) -> bool:
    """Whether its speed was found to be unsure when it was measured."""
    return bool(getattr(row, "noisy", None))


def is_elsewhere(row: Row, dense: Row | None) -> bool:
    """Whether a row was timed in another session than the dense row beside it, measured anew since."""
    if dense is None or row is dense or None in (row.images_per_s, dense.images_per_s):
        return False
    mine, theirs = row.env.get("session"), dense.env.get("session")
    if mine and theirs:
        return bool(mine != theirs)
    return dense.time - row.time > timedelta(seconds=1)  # in one session dense is written first


def number(value: float | None, form: str) -> str:
    """A value in its format; a dash where it was not measured."""
    return MISSING if value is None else form.format(value)


def rate(value: float | None) -> str:
    """Images a second, to three digits or more where there are decimals."""
    return number(value, "{:.1f}" if value is not None and value < 10 else "{:.0f}")


def interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    """A value and the ends of its interval, if it has one."""
    if value is None:
        return MISSING
    if low is None or high is None:
        return form.format(value)
    return f"{form.format(value)} [{form.format(low)}, {form.format(high)}]"
