"""A report as a folder: its page, tables and figures, all of one state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.measure.verdicts import MARGIN
from tokenbench.reports.page import html, pairs
from tokenbench.reports.paper import figures, tables
from tokenbench.runs.row import Row


@dataclass(frozen=True)
class Written:
    """The files of a report, and what was left out, in sentences."""

    page: Path
    tables: list[Path]
    figures: list[Path]
    left_out: list[str]


def write(
    rows: Sequence[Row],
    folder: Path,
    maps: str = "",
    margin: float = MARGIN,
    file: pairs.Of | None = None,
    made: Sequence[tables.Table] | None = None,
) -> Written:
    """Write `index.html`, `tables` and `figures` to a folder, all of them or none; the rest is as in `html.page`.

    Args:
        rows: as there.
        folder: what is not of a report in there stays.
        maps: as there.
        margin: as there.
        file: as there.
        made: the tables of the rows, if somebody made them already.

    Raises:
        ResultsError: the folder cannot be written.
        UsageError: there are no rows.
    """
    made = tables.tables(rows, margin) if made is None else made
    with atomic.filling(folder, ResultsError) as stage:
        texts = tables.written(made, rows, stage)
        drawn = figures.write(rows, stage)
        html.write(rows, stage, maps, margin, file)
    left_out = []
    if drawn.left_out:
        left_out.append(f"Of {folder / 'figures'}, {drawn.left_out}; report fewer results files to have them.")
    if html.runtime() is None:
        left_out.append(
            "The page has no charts, for the engine that draws them cannot start here; "
            "make the report where `ulimit -v` is unlimited, or use the figures."
        )

    def placed(files: Sequence[Path]) -> list[Path]:
        return [folder / file.relative_to(stage) for file in files]

    return Written(folder / html.NAME, placed(texts), placed(drawn.files), left_out)
