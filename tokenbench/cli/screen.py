"""What the terminal shows: progress on stderr, tables on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from tokenbench.core.words import counted
from tokenbench.maps.arrays import TokenMaps
from tokenbench.measure.verdicts import MARGIN
from tokenbench.reports.cells import MISSING
from tokenbench.reports.paper import tables
from tokenbench.runs.row import Row

if TYPE_CHECKING:
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
Cells = dict[str, list[str]]  # by column
_INTERVAL = re.compile(r"(?<=\S) \[[^]]*, [^]]*\]$")
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
    print_tables(tables.tables(rows, margin))


def print_tables(made: Iterable[tables.Table]) -> None:
    """Tables of rows, each with what must be read with it."""
    out = console()
    for table in made:
        out.print()
        out.print(plain(table.title, "bold"))
        out.print(plain(table.conditions, "dim"))
        if table.answer:
            out.print(plain(f"{table.answer}.", "italic"))
        cells, notes = _fitted(table, out.width)
        _print_cells(out, cells)
        for note in notes:
            out.print(plain(f"· {note}", "dim"))


def _fitted(table: tables.Table, width: int) -> tuple[Cells, Sequence[str]]:
    """The cells that fit in so many columns: without intervals if need be, then without the spare ones."""
    cells = {name: [line[name] for line in table.lines] for name in table.lines[0]}
    spare = [name for name in SPARE if name in cells]
    if _width(cells) <= width:
        return cells, table.notes
    cells = {name: [_INTERVAL.sub("", cell) for cell in column] for name, column in cells.items()}
    left_out = ["intervals"]
    while spare and _width(cells) > width:
        left_out.append(spare.pop(0))
        del cells[left_out[-1]]
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
    title = f"{maps[0].backbone}, {counted(len(maps[0].names), 'image')}, after the last block"
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
        _print_cells(out, {str(name): [*map(str, frame[name])] for name in frame})


def plain(text: str, style: str = "") -> Text:
    """Text as it is: brackets are no markup, and what could steer a terminal is left out."""
    return Text(_shown(text), style)


def _shown(text: str) -> str:
    return text if text.isprintable() else "".join(sign if sign.isprintable() else " " for sign in text)


def print_lines(lines: Sequence[Mapping[str, str]]) -> None:
    """A table of lines that all have the same keys; columns in which nothing stands are left out."""
    if lines:
        cells = {name: [line[name] for line in lines] for name in lines[0]}
        _print_cells(console(), {name: column for name, column in cells.items() if {*column} != {MISSING}})


def _print_cells(out: Console, cells: Cells) -> None:
    """A table by its columns, the first of which is the name of each line."""
    if _width(cells) <= out.width:  # line by line, for rich takes seconds for a thousand of them
        widths = [_widest(name, column) for name, column in cells.items()]
        out.print(_line([*cells], widths), style="bold")
        for line in zip(*cells.values(), strict=True):
            out.print(_line(line, widths))
        return
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(cells):
        grid.add_column(plain(name), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for line in zip(*cells.values(), strict=True):
        add(grid, *line)
    out.print(grid)


def _line(cells: Sequence[str], widths: Sequence[int]) -> Text:
    """The first cell on the left, the others on the right of their columns."""
    texts = [*map(_shown, cells)]
    spaces = [" " * (width - cell_len(text)) for text, width in zip(texts, widths, strict=True)]
    others = [f"{space}{text}" for space, text in zip(spaces[1:], texts[1:], strict=True)]
    return Text("  ".join([f"{texts[0]}{spaces[0]}", *others]))


def _widest(name: str, column: Sequence[str]) -> int:
    return max(cell_len(_shown(text)) for text in (name, *column))


def _width(cells: Cells) -> int:
    """How many columns of the screen a table takes."""
    return sum(_widest(*column) for column in cells.items()) + 2 * (len(cells) - 1)


def add(grid: Grid, *cells: object) -> None:
    """A line of a table."""
    grid.add_row(*(plain(str(cell)) for cell in cells))
