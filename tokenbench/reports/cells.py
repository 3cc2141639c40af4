"""What a row's numbers look like: rounded once, here, so that screen, tables and page show the same digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from tokenbench.measure.machine import BUSY
from tokenbench.measure.verdicts import ALPHA, Verdict
from tokenbench.runs import conditions
from tokenbench.runs.row import FIRST_TASK, Row
from tokenbench.tasks import known, metrics_of, parts_of
from tokenbench.tasks.base import PAIRED, Metric, Task

MISSING = "–"
FIRST_GOAL = 0.02  # of rows that do not say what their speed should be known to
ELSEWHERE = "†"  # of another session than the dense row beside it
UNEQUAL = "‡"  # trained with another budget than the dense row beside it


@dataclass(frozen=True)
class Column:
    """A column of every table of rows."""

    title: str
    name: str
    field: str  # of the row or of its point, to sort by
    brackets: str = ""  # what its brackets are
    spare: bool = False  # can be done without


_COSTS = (
    Column("GMAC", "gmacs", "gmacs"),
    Column("Δ GMAC", "change", "gmacs"),
    Column("params M", "params", "params_m", spare=True),
    Column(Task.rate, "speed", "images_per_s"),
    Column("speed-up", "speedup", "speedup", "95 % interval of the median over rounds"),
    Column("spread", "spread", "spread", spare=True),
    Column("ms a batch", "latency", "latency_p50", "10th and 90th percentile"),
    Column("selecting", "share", "reduction_share", spare=True),
    Column("peak MiB", "peak", "peak_memory_mb", spare=True),
    Column("J an image", "joules", "joules", spare=True),
    Column("last tokens", "last", "last_tokens", spare=True),
)


def columns(metrics: Sequence[Metric], parts: Sequence[str] = (), rate: str = Task.rate) -> tuple[Column, ...]:
    """The columns of rows whose task measures this, the main metric first; its column is always called `score`.

    Of models of several `parts` the first has columns of its own, so that what is saved in it is not taken for what is
    saved in all.
    """
    main, *others = metrics
    return (
        Column(main.heading, "score", "score", "95 % interval"),
        Column("Δ dense", "diff", "diff_dense", "paired 95 % interval"),
        Column("verdict", "verdict", "p_value"),
        *(Column(m.heading, m.name, m.name, "95 % interval", spare=True) for m in others if m.shown),
        Column("trained with", "budget", "budget_images", spare=True),
        *(replace(column, title=rate) if column.name == "speed" else column for column in _COSTS),
        *(_of_parts(parts) if parts else ()),
    )


def _of_parts(parts: Sequence[str]) -> tuple[Column, ...]:
    return (
        Column(f"{parts[0]} GMAC", "part_gmacs", "gmacs"),
        Column(f"Δ {parts[0]} GMAC", "part_change", "gmacs"),
        Column(f"GMAC: {' + '.join(parts)}", "parts_gmacs", "gmacs", spare=True),
        Column(f"ms: {' + '.join(parts)}", "parts_ms", "latency_p50", spare=True),
    )


def cells(row: Row, dense: Row | None, verdict: Verdict | None) -> dict[str, str]:
    """The text of each column, by the column's name.

    Args:
        row: what is shown.
        dense: the dense model's row beside it, if there is one.
        verdict: what may be said of the difference between them.
    """
    main, *others = metrics_of(row.task, list(row.metrics))
    saved = 100 * (row.gmacs / dense.gmacs - 1) if dense and row.gmacs and dense.gmacs and row is not dense else None
    share = None if row.reduction_share is None else 100 * row.reduction_share
    return {
        "score": score(row, main),
        "diff": _metric(row, "diff_dense", f"{{:+.{main.digits}f}}"),
        "verdict": verdict.words if verdict else MISSING,
        **{metric.name: score(row, metric) for metric in others},
        "budget": row.budget.words + UNEQUAL * is_unequal(row, dense) if row.budget else MISSING,
        "gmacs": number(row.gmacs, "{:.3f}"),
        "change": number(saved, "{:+.0f} %"),
        "params": number(row.params_m, "{:.2f}"),
        "speed": rate(row.images_per_s) + ELSEWHERE * is_elsewhere(row, dense),
        "speedup": interval(row.speedup, row.speedup_low, row.speedup_high, "{:.2f}"),
        "spread": MISSING if row.spread is None else ", ".join([f"{100 * row.spread:.0f} %", *_doubts(row)]),
        "latency": latency(row),
        "share": number(share, "{:.0f} %"),
        "peak": number(row.peak_memory_mb, "{:.0f}"),
        "joules": number(row.joules, "{:.3g}"),
        "last": number(row.tokens_mean[-1] if row.tokens_mean else None, "{:.0f}"),
        **_parts(row, dense),
    }


def score(row: Row, metric: Metric) -> str:
    """A metric with its interval."""
    return _metric(row, metric.name, f"{{:.{metric.digits}f}}")


def latency(row: Row) -> str:
    """Milliseconds of a batch, the 10th and 90th percentile in brackets."""
    return interval(row.latency_p50, row.latency_p10, row.latency_p90, "{:.1f}")


def _metric(row: Row, name: str, form: str) -> str:
    value, low, high = (row.metrics.get(f"{name}{end}") for end in ("", "_low", "_high"))
    return interval(value, low, high, form)


def _parts(row: Row, dense: Row | None) -> dict[str, str]:
    """What the parts of a model cost, in their order."""
    names = parts_of(row.task)
    own, other = ((one.gmacs_by_part if one else None) or {} for one in (row, dense))
    first, theirs = (by.get(names[0]) if names else None for by in (own, other))
    change = 100 * (first / theirs - 1) if first and theirs and row is not dense else None

    def each(values: Mapping[str, float | None] | None, form: str) -> str:
        return " + ".join(number(values.get(name), form) for name in names) if values and names else MISSING

    return {
        "part_gmacs": number(first, "{:.3f}"),
        "part_change": number(change, "{:+.0f} %"),
        "parts_gmacs": each(row.gmacs_by_part, "{:.1f}"),
        "parts_ms": each(row.ms_by_part, "{:.0f}"),
    }


def line(row: Row, dense: Row | None, verdict: Verdict | None) -> dict[str, str]:
    """The cells by the titles of their columns, in order."""
    texts, metrics = cells(row, dense, verdict), metrics_of(row.task, list(row.metrics))
    return {column.title: texts[column.name] for column in columns(metrics, parts_of(row.task), known(row.task).rate)}


def notes(rows: Sequence[Row], verdicts: Mapping[int, Verdict], dense: Row | None) -> list[str]:
    """What must be known to read the cells of some rows that are shown together."""
    shown = [(row, cells(row, dense, verdicts.get(id(row)))) for row in rows]
    kinds: dict[str, list[str]] = {}
    task = rows[0].task
    for column in columns(metrics_of(task, list(rows[0].metrics)), parts_of(task), known(task).rate):
        kind = _together([(_kind(column, row), row.label) for row, texts in shown if "[" in texts[column.name]])
        if kind:
            kinds.setdefault(kind, []).append(column.title)
    told = [f"{', '.join(names)}: {kind}" for kind, names in kinds.items()]
    found = [f"in brackets, {'; '.join(told)}"] if told else []
    found += [rule(verdict, rows[0].task == FIRST_TASK) for verdict in list(verdicts.values())[:1]]
    away = [row.label for row in rows if is_elsewhere(row, dense)]
    if away:
        found.append(
            f"{ELSEWHERE} {', '.join(away)}: timed in another session than the dense row here, so compare by speed-up, "
            "which is to dense in the same rounds"
        )
    if dense is not None:
        apart = [
            row.label
            for row in rows
            if row.metrics.get(PAIRED[0]) is not None and not conditions.is_against(row, dense)
        ]
        if apart:
            found.append(f"{', '.join(apart)}: the difference is from another dense model than the first row here")
    unequal = [row.label for row in rows if is_unequal(row, dense)]
    if unequal:
        theirs = f": {dense.budget.words}" if dense and dense.budget else ", of whose training nothing is known"
        found.append(
            f"{UNEQUAL} {', '.join(unequal)}: trained with another budget, or from another start, than the dense row "
            f"here{theirs}; so a difference may be of training, and not of the method"
        )
    if any(row.spread is not None for row in rows):
        found.append("spread: interquartile range of the timed passes over their median")
    if any(row.noisy for row in rows):
        goals = sorted({row.speed_goal or FIRST_GOAL for row in rows if row.noisy})
        known_to = " or ".join(f"{100 * goal:.3g}" for goal in goals)
        found.append(f"noisy: too few rounds, or too busy a machine, for the speed to be known to {known_to} %")
    if any(row.busy for row in rows):
        found.append(
            f"busy: other work, or a limit, kept more than {100 * BUSY:.0f} % of the machine; times are longer than "
            "they would be, and of speeds only the speed-up holds, whose rounds are interleaved"
        )
    return found


def _doubts(row: Row) -> list[str]:
    return ["noisy"] * bool(row.noisy) + ["busy"] * row.busy


def rule(verdict: Verdict, mcnemar: bool = True) -> str:
    """Which tests the verdicts of a table are by."""
    test = "McNemar's exact test" if mcnemar else "the test of the task"
    many = f", after Holm's correction for {verdict.judged} settings" if verdict.judged > 1 else ""
    return (
        f"verdict: more or less accurate by {test} at "
        f"{100 * ALPHA:.0f} %{many}; at most {verdict.margin} points lost where the 95 % interval ends above "
        f"-{verdict.margin}; else there are too few images to say"
    )


def of_speed(rows: Sequence[Row]) -> str:
    """What the intervals of speed-ups are; of several kinds, `notes` say which rows have which."""
    (column,) = (column for column in _COSTS if column.name == "speedup")
    return " or ".join(dict.fromkeys(_kind(column, row) for row in rows if row.speedup_low)) or column.brackets


def _kind(column: Column, row: Row) -> str:
    """What the brackets of a row's cell are; rows of earlier versions have percentiles of speed-ups."""
    if column.name == "speedup" and row.noisy is None:
        return "10th and 90th percentile over rounds"
    main = metrics_of(row.task, list(row.metrics))[0].name
    by = row.intervals.get({"score": main, "diff": PAIRED[0]}.get(column.name, column.name))
    return f"{column.brackets} ({by})" if by else column.brackets


def _together(kinds: Sequence[tuple[str, str]]) -> str:
    """What some cells have, from the kind and the label of each: the commonest, and the rows that have another."""
    labels: dict[str, list[str]] = {}
    for kind, label in kinds:
        labels.setdefault(kind, []).append(label)
    usual, *others = sorted(labels, key=lambda kind: -len(labels[kind])) or [""]
    return usual + "".join(f", but of {', '.join(labels[kind])} {kind}" for kind in others)


def is_elsewhere(row: Row, dense: Row | None) -> bool:
    """Whether a row was timed in another session than the dense row beside it, measured anew since."""
    if dense is None or row is dense or None in (row.images_per_s, dense.images_per_s):
        return False
    mine, theirs = row.env.get("session"), dense.env.get("session")
    if mine and theirs:
        return bool(mine != theirs)
    return dense.time - row.time > timedelta(seconds=1)  # in one session dense is written first


def all_trained(rows: Sequence[Row]) -> bool:
    """Whether the weights of all that was measured came of trainings, and the random ones they share were not used."""
    measured = [row for row in rows if row.status == "ok"]
    return bool(measured) and all(row.weights.kind == "random" and row.trained for row in measured)


def is_unequal(row: Row, dense: Row | None) -> bool:
    """Whether a row's weights were trained with another budget than those of the dense row beside it."""
    return row.budget is not None and dense is not None and not row.budget.equals(dense.budget)


def items(count: int, task: str) -> str:
    """How many items of a task: 1 image, 2,000 videos."""
    name = known(task).items
    return f"{count:,} {name[:-1] if count == 1 else name}"


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
