"""Tables for papers: LaTeX with booktabs, true minus signs, knobs by their names, and no hashes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenbench.errors import UnknownName, UsageError
from tokenbench.reports import cells
from tokenbench.runs.conditions import dense_first, grouped
from tokenbench.runs.row import Row
from tokenbench.tasks import metrics_of

PREAMBLE = "% needs \\usepackage{booktabs}\n"
_ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "%_&#${}"},
        **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}"},
        **{"Δ": r"$\Delta$", "×": r"$\times$", "–": "--", "‡": r"$\ddagger$", "†": r"$\dagger$"},
    }
)
_MINUS = re.compile(r"(?<![\w.\-])-(\d[\d.]*)")
_LABEL = re.compile(r"([\w-]+)\[(.*)\]")


@dataclass(frozen=True)
class _Kind:
    """What a column holds: its title in LaTeX, and how its values are written."""

    title: str
    form: str
    text: bool = False


KINDS = {
    "method": _Kind("Method", "", text=True),
    "backbone": _Kind("Backbone", "", text=True),
    "precision": _Kind("Precision", "", text=True),
    "batch": _Kind("Batch", "{:d}"),
    "diff_dense": _Kind(r"$\Delta$", "{:+.1f}"),
    "gmacs": _Kind("GMAC", "{:.2f}"),
    "saved": _Kind(r"$\Delta$ GMAC (\%)", "{:+.0f}"),
    "params_m": _Kind("Params (M)", "{:.1f}"),
    "images_per_s": _Kind("Images/s", ""),
    "speedup": _Kind("Speed-up", "{:.2f}"),
    "latency_p50": _Kind("Latency (ms)", "{:.1f}"),
    "peak_memory_mb": _Kind("Memory (MiB)", "{:.0f}"),
    "joules": _Kind("Energy (J)", "{:.3g}"),
    "images": _Kind("Images", "{:,d}"),
}


def table(rows: Iterable[Row], columns: str, caption: str | None = None, label: str | None = None) -> str:
    """A `table` environment of chosen columns; a block of lines for each set of conditions.

    Args:
        rows: those that are ok are shown, dense first.
        columns: names separated by commas: method, backbone, a metric (top1), gmacs, images_per_s, …; see `KINDS`.
        caption: LaTeX as it is; None: the data and the machine.
        label: for `\\ref`.

    Raises:
        UsageError: no rows, or a column of another name.
    """
    groups = [dense_first(g) for g in grouped(_ok(rows)).values()]
    if not groups:
        raise UsageError("There are no good rows to show; run `tokenbench run` first, or give another results file.")
    kinds = _kinds(columns, groups[0][0])
    align = "".join("l" if kind.text else "r" for kind in kinds.values())
    body = [_row(kind.title for kind in kinds.values()), r"\midrule"]
    told = [_conditions(group) for group in groups]
    heads = _heads(told, groups)
    for i, group in enumerate(groups):
        if len(groups) > 1:
            body += [r"\addlinespace"] if i else []
            body.append(rf"\multicolumn{{{len(kinds)}}}{{l}}{{\textit{{{escaped(heads[i])}}}}} \\")
        dense = group[0] if group[0].method == "dense" else None
        body += [_row(_cell(name, kind, row, dense) for name, kind in kinds.items()) for row in group]
    return PREAMBLE + _environment(align, body, escaped(_caption(told)) if caption is None else caption, label)


def whole(lines: Sequence[Mapping[str, str]], caption: str) -> str:
    """A `table` environment of cells that are formatted already, settings in the first column."""
    head, body = list(lines[0]), []
    for line in lines:
        first, *others = line.values()
        body.append(_row([setting(first), *map(escaped, others)]))
    return _environment("l" + "r" * (len(head) - 1), [_row(map(escaped, head)), r"\midrule", *body], escaped(caption))


def _environment(align: str, body: Sequence[str], caption: str, label: str | None = None) -> str:
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    lines += [rf"\label{{{label}}}"] if label else []
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is, on one line, hyphens before numbers as minus signs."""
    return _MINUS.sub(r"$-\1$", " ".join(text.split()).translate(_ESCAPED))


def setting(label: str) -> str:
    """A label with its knobs by name: `tome[r=13]` is ToMe's r = 13, as `tome ($r = 13$)`."""
    match = _LABEL.fullmatch(label)
    if match is None:
        return escaped(label)
    knobs = [knob.partition("=") for knob in match[2].split(",")]
    return f"{escaped(match[1])} ({', '.join(_knob(name, value) for name, _, value in knobs)})"


def _knob(name: str, value: str) -> str:
    if value in ("true", "false"):
        return f"{'' if value == 'true' else 'no '}{escaped(name.replace('_', ' '))}"
    if len(name) == 1 and name.isalpha() and re.fullmatch(r"-?[\d.]+", value):
        return f"${name} = {value}$"
    return escaped(f"{name.replace('_', ' ')} {value}".strip())


def _ok(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.status == "ok"]


def _kinds(columns: str, row: Row) -> Mapping[str, _Kind]:
    """By name, the columns that are asked for; the metrics of the rows' task are known too."""
    metrics = {
        m.name: _Kind(
            escaped(f"{m.short[:1].upper()}{m.short[1:]}{f' ({m.unit})' if m.unit else ''}"), f"{{:.{m.digits}f}}"
        )
        for m in metrics_of(row.task, list(row.metrics))
    }
    every, asked = KINDS | metrics, [name.strip() for name in columns.split(",") if name.strip()]
    odd = next((name for name in asked if name not in every), None)
    if odd is not None:
        raise UnknownName("column", odd, every, f"`--table {','.join(every)}`")
    if not asked:
        raise UsageError("--table names no column; write them like method,top1,gmacs,images_per_s.")
    return {name: every[name] for name in asked}


def _cell(name: str, kind: _Kind, row: Row, dense: Row | None) -> str:
    if name == "method":
        return setting(row.label) + (" (trained)" if row.trained else "")
    value: Any = row.metrics.get(name, getattr(row, name, None) if name != "saved" else None)
    if name == "saved" and dense and dense.gmacs and row.gmacs and row is not dense:
        value = 100 * (row.gmacs / dense.gmacs - 1)
    if kind.text:
        return escaped(str(value))
    return escaped(cells.number(value, kind.form) if kind.form else cells.rate(value))


def _conditions(group: Sequence[Row]) -> dict[str, str]:
    """What a block of lines was measured under, each in words."""
    row, images = group[0], max((row.images or 0 for row in group), default=0)
    return {
        "data": f"{cells.items(images, row.task)} of {row.dataset} ({row.split})" if images else "no accuracy",
        "backbone": row.backbone,
        "image_size": "×".join(map(str, row.image_size)),
        "hardware": row.hardware,
        "precision": row.precision,
        "batch": f"batch {row.batch}",
        "mode": row.mode,
        "task": row.task,
        "weights": f"weights {row.weights.name.partition('@')[0]}",
        "shared": ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.shared.items()) or "as usual",
        "seed": f"seed {row.seed}",
        "versions": f"tokenbench {row.version}, torch {row.env.get('torch')}, timm {row.env.get('timm')}",
    }


def _heads(told: Sequence[Mapping[str, str]], groups: Sequence[Sequence[Row]]) -> list[str]:
    """What tells each block of lines from the others; hashes only where nothing else does."""
    differ = [name for name in told[0] if len({each[name] for each in told}) > 1]
    heads = [", ".join(each[name] for name in differ) for each in told]
    if len(set(heads)) == len(groups):
        return heads
    hashes = [f"weights {group[0].weights.hash}, sample {group[0].sample_hash}" for group in groups]
    return [", ".join(filter(None, both)) for both in zip(heads, hashes, strict=True)]


def _caption(told: Sequence[Mapping[str, str]]) -> str:
    """The conditions that all share, in a sentence."""
    shown = ("data", "backbone", "image_size", "hardware", "precision", "batch", "mode")
    same = [name for name in shown if len({each[name] for each in told}) == 1]
    return f"{'; '.join(told[0][name] for name in same if told[0][name] != 'no accuracy')}."
