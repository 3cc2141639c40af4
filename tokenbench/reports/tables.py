"""Tables of rows: one for each set of conditions, published numbers beside measured ones; Markdown, CSV and LaTeX.

Rows of different hardware, precision, batch, image size, weights or data never share a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbench.errors import ResultsError, UsageError
from tokenbench.results import Row, frame

if TYPE_CHECKING:
    import pandas as pd

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """The rows that share all conditions, dense first, and those conditions in words."""

    title: str
    conditions: str
    rows: tuple[Row, ...]

    def frame(self) -> pd.DataFrame:
        """A line a setting, formatted for reading; a column nobody filled is left out."""
        import pandas as pd

        dense = next((row for row in self.rows if row.method == "dense"), None)
        table = pd.DataFrame([_line(row, dense) for row in self.rows])
        return table.loc[:, [name for name in table if (table[name] != MISSING).any()]]

    def notes(self) -> list[str]:
        """What must be read with the table: why a cell is empty, what was skipped, what is a subset."""
        notes: dict[str, list[str]] = {}
        for row in self.rows:
            if row.reason:
                prefix = "" if row.status == "ok" else f"{row.status}: "
                notes.setdefault(prefix + row.reason, []).append(row.label)
        lines = [f"{', '.join(labels)}: {why}." for why, labels in notes.items()]
        unread = max((row.skipped or 0 for row in self.rows), default=0)
        return lines + ([f"{unread} images could not be read and were left out."] if unread else [])


def tables(rows: Iterable[Row]) -> list[Table]:
    """A table for each set of conditions, in the order they first appear."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        key = (row.backbone, row.weights.model_dump_json(), row.sample_hash, row.image_size, row.hardware)
        groups.setdefault((*key, row.precision, row.batch, row.compile, row.seed, row.version), []).append(row)
    return [_table(group) for group in groups.values()]


def batches(rows: Iterable[Row]) -> pd.DataFrame | None:
    """Speed-up over dense by batch size, with the smallest batch from which on it is no slower; None for one size."""
    import pandas as pd

    from tokenbench.measure.speed import break_even

    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        if row.speedup is not None and row.method != "dense":
            found.setdefault((row.backbone, row.label), {})[row.batch] = row.speedup
    sizes = sorted({batch for speedups in found.values() for batch in speedups})
    if len(sizes) < 2:
        return None
    lines = []
    for (backbone, label), speedups in found.items():
        even = break_even(speedups)
        line = {"backbone": backbone, "method": label}
        line |= {f"batch {b}": f"{speedups[b]:.2f}×" if b in speedups else MISSING for b in sizes}
        lines.append(line | {"no slower from batch": MISSING if even is None else str(even)})
    return pd.DataFrame(lines)


def write(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write `results.md`, `results.csv` (every field of every row) and `results.tex` to `folder`/tables."""
    if not rows:
        raise UsageError("There are no rows to report; run `tokenbench run` first, or give another results file.")
    made = tables(rows)
    texts = {
        "results.md": "\n".join(_markdown(table) for table in made),
        "results.csv": frame(rows).to_csv(index=False),
        "results.tex": "\n".join(_latex(table) for table in made),
    }
    out = folder / "tables"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultsError(
            f"The report cannot be written to {out} ({error.strerror}); give another --output."
        ) from None
    return [out / name for name in texts]


def _table(rows: list[Row]) -> Table:
    first = rows[0]
    height, width = first.image_size
    weights = first.weights
    seen = max((row.images or 0 for row in rows), default=0)
    conditions = [
        f"{height}×{width}",
        f"{weights.kind} weights" + (f" {weights.name} ({weights.hash})" if weights.hash else ""),
        f"{seen} images of {first.dataset} ({first.split}, sample {first.sample_hash})" if seen else "no accuracy run",
        f"{first.hardware}, {first.precision}, batch {first.batch}, {'compiled' if first.compile else 'eager'}",
        f"seed {first.seed}, tokenbench {first.version}, torch {first.env.get('torch')}, timm {first.env.get('timm')}",
    ]
    return Table(first.backbone, "; ".join(conditions), tuple(sorted(rows, key=lambda row: row.method != "dense")))


def _line(row: Row, dense: Row | None) -> dict[str, str]:
    saved = None
    if row.gmacs is not None and dense is not None and dense.gmacs and row is not dense:
        saved = 100 * (row.gmacs / dense.gmacs - 1)
    free, trained = _published(row)
    return {
        "method": row.label,
        "top-1 %": _interval(row.top1, row.top1_low, row.top1_high, "{:.1f}"),
        "Δ dense": _interval(row.diff_dense, row.diff_dense_low, row.diff_dense_high, "{:+.1f}"),
        "top-5 %": _number(row.top5, "{:.1f}"),
        "GMAC": _number(row.gmacs, "{:.3f}"),
        "Δ GMAC": _number(saved, "{:+.0f} %"),
        "params M": _number(row.params_m, "{:.2f}"),
        "img/s": _number(row.images_per_s, "{:.0f}"),
        "speed-up": _interval(row.speedup, row.speedup_low, row.speedup_high, "{:.2f}"),
        "latency ms": _interval(row.latency_p50, row.latency_p10, row.latency_p90, "{:.1f}"),
        "selecting": _number(None if row.reduction_share is None else 100 * row.reduction_share, "{:.0f} %"),
        "peak MB": _number(row.peak_memory_mb, "{:.0f}"),
        "last tokens": _number(row.tokens_mean[-1] if row.tokens_mean else None, "{:.0f}"),
        "published": free,
        "published, trained": trained,
    }


def _published(row: Row) -> tuple[str, str]:
    """The paper's own top-1 and GMAC for this setting, off the shelf and after its training."""
    from tokenbench.methods import all_methods
    from tokenbench.methods.base import make

    cells = {False: MISSING, True: MISSING}
    cls = all_methods().get(row.method)
    if cls is None:  # a plug-in that is not loaded now
        return MISSING, MISSING
    for reported in cls.reported:
        if reported.backbone == row.backbone and make(cls, reported.settings).model_dump(mode="json") == row.setting:
            gmacs = f", {reported.gmacs:g} G" if reported.gmacs is not None else ""
            top1 = f"{reported.top1:g} %" if reported.top1 is not None else MISSING
            cells[reported.trained] = top1 + gmacs
    return cells[False], cells[True]


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else form.format(value)


def _interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    if value is None:
        return MISSING
    if low is None or high is None:
        return form.format(value)
    return f"{form.format(value)} [{form.format(low)}, {form.format(high)}]"


def _markdown(table: Table) -> str:
    cells = table.frame()
    head = list(cells.columns)
    lines = [f"### {table.title}", "", table.conditions, "", _pipes(head), _pipes(["---", *["---:"] * (len(head) - 1)])]
    lines += [_pipes(map(str, values)) for values in cells.itertuples(index=False, name=None)]
    return "\n".join([*lines, "", *[f"- {note}" for note in table.notes()], ""])


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _latex(table: Table) -> str:
    signs = {"Δ ": r"$\Delta$ ", "×": r"$\times$", "–": "--", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#"}

    def escaped(text: str) -> str:
        for sign, tex in signs.items():
            text = text.replace(sign, tex)
        return text

    cells = table.frame().map(escaped)
    cells.columns = [escaped(name) for name in cells.columns]
    caption = escaped(f"{table.title}: {table.conditions}. {' '.join(table.notes())}".strip())
    body = cells.to_latex(
        index=False, escape=False, caption=caption, column_format="l" + "r" * (len(cells.columns) - 1)
    )
    return str(body)
