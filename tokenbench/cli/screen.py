"""What the terminal shows: progress on stderr, tables on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from tokenbench.maps.arrays import TokenMaps
from tokenbench.measure.verdicts import MARGIN
from tokenbench.reports.cells import MISSING
from tokenbench.reports.paper import tables
from tokenbench.runs.row import Row

if TYPE_CHECKING:
    import pandas as pd

    from tokenbench.maps.similarity import Alike

SPARE = (  # first to go
    *(
        "params M",
        "top-5 %",
        "peak MiB",
        "selecting",
        "spread",
        "last tokens",
        "trained with",
        "ms a batch",
        "Δ GMAC",
        "verdict",
    ),
)
WIDE = 4000  # columns, for output that is piped: nothing is cut or wrapped


def console() -> Console:
    """Standard output, coloured and fitted only where it is a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDE)


class Watching:
    """A `runner.Watch` on stderr: a bar with the time left and sentences above it; only lines where it is piped.

    Quiet, only the sentences are shown. What a plug-in prints meanwhile goes to stderr, for stdout is for results.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._aside = quiet, redirect_stdout(sys.stderr)
        out = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=quiet or not out.is_terminal,
        )
        self._task: Any = None

    def __enter__(self) -> Watching:
        self._aside.__enter__()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._aside.__exit__(kind, error, trace)

    def stretch(self, what: str, total: int) -> None:
        """A new bar in place of the last, or a line."""
        self._line(what)
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def step(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """How it stands, beside the bar; a line where it is piped."""
        self._line(text)
        self._progress.update(self._task, description=text)

    def _line(self, text: str) -> None:
        if self._progress.disable and not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(plain(text), soft_wrap=True)


def print_results(rows: Sequence[Row], margin: float = MARGIN) -> None:
    """A table for each set of conditions, then speed-ups by batch size where several were timed."""
    out = console()
    for table in tables.tables(rows, margin):
        out.print()
        out.print(plain(table.title, "bold"))
        out.print(plain(table.conditions, "dim"))
        if table.answer:
            out.print(plain(f"{table.answer}.", "italic"))
        cells, notes = _fitted(table, out.width)
        out.print(_grid(cells))
        for note in notes:
            out.print(plain(f"· {note}", "dim"))


def _fitted(table: tables.Table, width: int) -> tuple[pd.DataFrame, Sequence[str]]:
    """The cells that fit in so many columns: without intervals if need be, then without the spare ones."""

    def fits() -> bool:
        widths = [max(len(str(name)), *map(len, cells[name])) for name in cells]
        return sum(widths) + 2 * (len(widths) - 1) <= width

    cells, spare = table.frame, [name for name in SPARE if name in table.frame]
    if fits():
        return cells, table.notes
    cells = cells.map(lambda cell: re.sub(r"(?<=\S) \[[^]]*, [^]]*\]$", "", cell))
    left_out = ["intervals"]
    while spare and not fits():
        left_out.append(spare.pop(0))
        cells = cells.drop(columns=left_out[-1])
    return cells, [*table.notes, f"too wide here: {', '.join(left_out)}; `tokenbench report` writes them to files."]


def print_environment(values: Mapping[str, Any]) -> None:
    """Hardware and versions."""
    grid = Grid(box=None, show_header=False)
    for key, value in values.items():
        add(grid, key, MISSING if value is None else str(value))
    console().print(grid)


def print_maps(maps: Sequence[TokenMaps], alike: Sequence[Alike] = ()) -> None:
    """The numbers of token maps, means over the images, and how far the settings agree, on more images if compared."""
    from tokenbench.reports.maps import numbers

    out = console()
    count = len(maps[0].names)
    title = f"{maps[0].backbone}, {count} image{'s' if count > 1 else ''}, after the last block"
    frames = {title: numbers.summary(maps)}
    if len(maps) > 1:
        frames["agreement: IoU of the kept patches / NMI of the clusters"] = numbers.between(maps)
    if alike:
        frames[f"features, {alike[0].images} images: CKA of the class token / of the other tokens' mean"] = numbers.cka(
            alike
        )
    for heading, frame in frames.items():
        out.print()
        out.print(plain(heading, "bold"))
        out.print(_grid(frame))


def plain(text: str, style: str = "") -> Text:
    """Text as it is: brackets are no markup, and what could steer a terminal is left out."""
    return Text("".join(sign if sign.isprintable() else " " for sign in text), style)


def print_lines(lines: Sequence[Mapping[str, str]]) -> None:
    """A table of lines that all have the same keys; columns in which nothing stands are left out."""
    import pandas as pd

    if lines:
        frame = pd.DataFrame(lines)
        console().print(_grid(frame[[name for name in frame if (frame[name] != MISSING).any()]]))


def _grid(cells: pd.DataFrame) -> Grid:
    """A table whose first column is the name of each line."""
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(cells.columns):
        grid.add_column(plain(str(name)), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for values in cells.itertuples(index=False, name=None):
        add(grid, *values)
    return grid


def add(grid: Grid, *cells: object) -> None:
    """A line of a table."""
    grid.add_row(*(plain(str(cell)) for cell in cells))
