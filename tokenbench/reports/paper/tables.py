"""Tables of rows: one for each set of conditions, published numbers beside measured ones; Markdown, CSV and LaTeX.

Rows of different hardware, precision, batch, image size, weights, data or versions never share a table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbench.errors import UsageError
from tokenbench.measure.verdicts import MARGIN, Verdict, break_even
from tokenbench.reports import answers, cells, published
from tokenbench.reports.cells import MISSING, number
from tokenbench.reports.paper import latex, spreadsheet
from tokenbench.runs.conditions import dense_first, grouped, judged, setting
from tokenbench.runs.row import FIRST_TASK, Row, WeightsId
from tokenbench.tasks import known

if TYPE_CHECKING:
    import pandas as pd

    from tokenbench.methods.paper import Reported

_MARKDOWN = str.maketrans({"|": r"\|", "<": "&lt;", "\\": r"\\", "`": r"\`", "*": r"\*"})


@dataclass(frozen=True)
class Table:
    """Cells formatted for reading, the conditions they all share, in words, and what must be read with them."""

    title: str
    conditions: str
    lines: Sequence[Mapping[str, str]]  # the same keys in each, which are the columns
    notes: tuple[str, ...] = ()
    caption: str = ""  # all of that for a paper, without hashes
    answer: str = ""  # which setting to use, in a sentence without its full stop

    @property
    def frame(self) -> pd.DataFrame:
        """The cells as a table of pandas."""
        import pandas as pd

        return pd.DataFrame(self.lines)


def tables(rows: Iterable[Row], margin: float = MARGIN) -> list[Table]:
    """A table for each set of conditions in the order they first appear, then speed-ups where batch sizes differ.

    A loss of accuracy is called bounded where it is at most `margin` points.
    """
    rows = list(rows)
    measured = [_table(group, margin) for group in grouped(rows).values()]
    sweeps = [_sweep(group) for group in grouped(rows, "batch").values()]
    return measured + [table for table in sweeps if table is not None]


def write(rows: Sequence[Row], folder: Path, margin: float = MARGIN) -> list[Path]:
    """Write `results.md`, `results.csv` (every field of every row) and `results.tex` to `folder`/tables."""
    return written(tables(rows, margin), rows, folder)


def written(made: Sequence[Table], rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write tables that are made already, as `write` does."""
    if not rows:
        raise UsageError("There are no rows to report; run `tokenbench run` first, or give another results file.")
    texts = {
        "results.md": "\n".join(map(markdown, made)),
        "results.csv": spreadsheet.text(rows),
        "results.tex": latex.PREAMBLE + "\n".join(latex.whole(t.lines, t.caption) for t in made),
    }
    out = folder / "tables"
    out.mkdir(exist_ok=True)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def markdown(table: Table) -> str:
    """A heading, the conditions, the cells and the notes as GitHub's Markdown."""
    head = list(table.lines[0])
    lines = [f"### {_cell(table.title)}", "", _cell(table.conditions), ""]
    lines += [f"**{_cell(table.answer)}.**", ""] if table.answer else []
    lines += [_pipes(head), f"| --- |{' ---: |' * (len(head) - 1)}"]
    lines += [_pipes(line.values()) for line in table.lines]
    return "\n".join([*lines, "", *[f"- {_cell(note)}" for note in table.notes], ""])


def is_subset(rows: Iterable[Row]) -> bool:
    """Whether accuracy is of a part of the split only, so far as the rows tell."""
    return any(row.images and row.images + (row.skipped or 0) < (row.images_total or 0) for row in rows)


def _table(rows: list[Row], margin: float) -> Table:
    rows = dense_first(rows)
    first = rows[0]
    seen = max((row.images or 0 for row in rows), default=0)
    chosen = f"{seen} of {max(row.images_total or 0 for row in rows)}" if is_subset(rows) else f"{seen}"
    items = known(first.task).items
    images = f"{chosen} {items[:-1] if chosen == '1' else items} of {first.dataset} ({first.split}"
    data = f"{images}, sample {first.sample_hash})" if seen else "no accuracy"
    dense, verdicts = first if first.method == "dense" else None, judged(rows, margin)
    made = [_line(row, dense, verdicts.get(id(row))) for row in rows]
    names = dict.fromkeys(name for line in made for name in line)  # what a task measures may differ by row
    filled = [name for name in names if name == "method" or any(line.get(name, MISSING) != MISSING for line in made)]
    if not any(row.trained for row in rows):
        filled.remove("weights")
    lines = [{name: line.get(name, MISSING) for name in filled} for line in made]
    told = [f"{note}." for note in cells.notes(rows, verdicts, dense)]
    batch = f"batch {first.batch}"
    short = _conditions(rows, f"{images})" if seen else data, batch, hashes=False)
    caption = " ".join([f"{first.backbone}: {short}.", *_notes(rows, hashes=False), *told])
    notes = (*_notes(rows), *told)
    whole = _conditions(rows, data, batch)
    return Table(first.backbone, whole, lines, notes, caption, answers.of(rows, margin))


def _conditions(rows: Sequence[Row], data: str, batch: str, hashes: bool = True) -> str:
    row, kind = rows[0], "own" if cells.all_trained(rows) else rows[0].weights.kind
    height, width = row.image_size
    name = f" {_weights(row.weights, hashes)}" if row.weights.hash else ""
    parts = [] if row.task == FIRST_TASK else [row.task]
    parts += [f"{height}×{width}", f"{kind} weights{name}", data]
    parts += [f"{row.hardware}, {row.precision}, {batch}, {row.mode}"]
    parts += [f"{key.replace('_', ' ')} {value}" for key, value in row.shared.items()]
    versions = f"tokenbench {row.version}, torch {row.env.get('torch')}, timm {row.env.get('timm')}"
    return "; ".join([*parts, f"seed {row.seed}, {versions}"])


def _weights(weights: WeightsId, hashes: bool) -> str:
    return f"{weights.name} ({weights.hash})" if hashes else weights.name.partition("@")[0]


def _notes(rows: Iterable[Row], hashes: bool = True) -> tuple[str, ...]:
    """Why a cell is empty, what was skipped or failed, and under which conditions a published number holds."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            notes.setdefault(row.reason if row.status == "ok" else f"{row.status}: {row.reason}", []).append(row.label)
        for made in published.compared(row):
            for why in ([f"published for {made.reported.note}"] if made.reported.note else []) + made.hinders:
                notes.setdefault(why, []).append(row.label)
        if row.trained:
            name = _weights(row.trained, hashes)
            notes.setdefault(f"weights of its own, trained with the method: {name}", []).append(row.label)
        if "file" in row.conditions:
            name = str(row.conditions["file"])
            notes.setdefault(f"as exported: {name if hashes else name.partition(' (')[0]}", []).append(row.label)
        if "method_source" in row.conditions:
            source = f", source {row.conditions['method_source']}" if hashes else ""
            notes.setdefault(f"a plug-in{source}", []).append(row.label)
        if row.skipped:
            notes.setdefault(f"unreadable images left out: {row.skipped}", []).append(row.label)
    return tuple(f"{', '.join(labels)}: {why}." for why, labels in notes.items())


def _line(row: Row, dense: Row | None, verdict: Verdict | None) -> dict[str, str]:
    printed = published.of(row)
    return {
        "method": row.label,
        "weights": "own" if row.trained else "dense",
        **cells.line(row, dense, verdict),
        "published": "; ".join(_both(r) for r in printed if not r.trained) or MISSING,
        "published, trained": "; ".join(_both(r) for r in printed if r.trained) or MISSING,
    }


def _sweep(rows: Sequence[Row]) -> Table | None:
    """Speed-up over dense by batch size, with the smallest batch from which on it is no slower; None for one size."""
    found: dict[tuple[str, WeightsId | None, str], dict[int, float]] = {}
    for row in rows:
        if row.status == "ok" and row.speedup is not None and row.method != "dense":
            found.setdefault(setting(row), {})[row.batch] = row.speedup
    sizes = sorted({batch for speedups in found.values() for batch in speedups})
    if len(sizes) < 2:
        return None
    lines = []
    for (label, trained, _), speedups in found.items():
        even = break_even(speedups)
        line = {"method": f"{label} (trained)" if trained else label} | {
            f"batch {b}": number(speedups.get(b), "{:.2f}×") for b in sizes
        }
        lines.append(line | {"no slower from batch": MISSING if even is None else str(even)})
    title = f"{rows[0].backbone}: speed-up over dense by batch size"
    told, short = (_conditions(rows, "random images", "several batch sizes", hashes) for hashes in (True, False))
    return Table(title, told, lines, caption=f"{title}: {short}.")


def _both(reported: Reported) -> str:
    top1 = number(reported.top1, "{:g} %")
    return top1 if reported.gmacs is None else f"{top1}, {reported.gmacs:g} G"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    cell = _flat(text).translate(_MARKDOWN)
    return f"\\{cell}" if spreadsheet.is_formula(cell) else cell


def _pipes(texts: Iterable[str]) -> str:
    return "| " + " | ".join(map(_cell, texts)) + " |"
