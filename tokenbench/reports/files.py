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
    rows: Sequence[Row], folder: Path, maps: str = "", margin: float = MARGIN, file: pairs.Of | None = None
) -> Written:
    """Write `index.html`, `tables` and `figures` to a folder, all of them or none; the rest is as in `html.page`.

    Raises:
        ResultsError: the folder cannot be written.
        UsageError: there are no rows.
    """
    with atomic.filling(folder, ResultsError) as stage:
        made = tables.write(rows, stage, margin)
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

    return Written(folder / html.NAME, placed(made), placed(drawn.files), left_out)
