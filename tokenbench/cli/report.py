"""`tokenbench report` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenbench.cli import options, streams
from tokenbench.core.words import counted
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.runs.results import Rows
    from tokenbench.runs.row import Row


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports"), show_default=True)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Token maps to show, as `tokenbench trace` writes them.  [default: OUTPUT/maps, where there are any]",
)
@click.option("--table", "columns", metavar="COLUMNS", help="Print one LaTeX table instead, as method,top1,gmacs.")
@click.option("--caption", help="Of that table.  [default: its data and machine]")
@click.option("--label", help="Of that table, as tab:results.")
@options.margin
def report(
    results: tuple[Path, ...],
    output: Path,
    maps: Path | None,
    columns: str | None,
    caption: str | None,
    label: str | None,
    margin: float,
) -> None:
    """A page, tables and figures of RESULTS (results.jsonl if none is given) in --output; the tables here, too.

    Columns of --table: method, backbone, batch, top1 and other metrics, diff_dense, gmacs, saved, params_m,
    images_per_s, speedup, latency_p50, peak_memory_mb.
    """
    if columns is not None:
        from tokenbench.reports.paper import latex

        given = [name for name in ("output", "maps", "margin") if options.is_given(name)]
        if given:
            raise UsageError(f"--table prints one table, which --{given[0]} says nothing to; leave one of the two out.")
        click.echo(latex.table(_told(results)[1], columns, caption, label), nl=False)
        return
    if caption is not None or label is not None:
        raise UsageError("--caption and --label are of a LaTeX table; say which by --table method,top1,gmacs.")
    from tokenbench.cli import screen
    from tokenbench.reports import files
    from tokenbench.reports.paper import tables

    found, rows = _told(results)
    if maps is None and any((output / "maps").glob("*.npz")):
        maps = output / "maps"
    shown = _maps(maps) if maps else ""
    made = tables.tables(rows, margin)
    written = files.write(rows, output, shown, margin, lambda row: found.place(row.id), made)
    screen.print_tables(made)
    for sentence in written.left_out:
        click.echo(f"\n{sentence}", err=True)
    drawn = f"{counted(len(written.figures), 'file')} in {output / 'figures'}"
    click.echo(f"\nWritten: {', '.join(map(str, written.tables))}, {drawn}, and the page")
    click.echo(written.page)


def _maps(maps: Path) -> str:
    """Token maps as a part of the page, and how alike their settings are, where that was measured."""
    from tokenbench.maps import files, similarity
    from tokenbench.reports.maps import alike, viewer

    found, path = files.load(maps), maps / similarity.NAME
    compared = similarity.read(path) if path.is_file() else []
    settings = {label for one in compared for label in (one.setting, one.other)}
    if compared and (settings, compared[0].backbone) != ({m.label for m in found}, found[0].backbone):
        click.echo(f"Left out {path}: it is of other settings than the maps beside it; trace both at once.", err=True)
        compared = []
    return viewer.fragment(found) + alike.fragment(compared)


def _told(results: tuple[Path, ...]) -> tuple[Rows, list[Row]]:
    """The rows of results files; what is left out of them is told."""
    found, problems = options.rows_of(results)
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    return found, list(found)


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new file.")
def merge(results: tuple[Path, ...], output: Path) -> None:
    """One results file of several, from several machines: the newest good row of each job."""
    from tokenbench.runs.results import merge as merge_files

    rows, problems = merge_files(results, output)
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    click.echo(f"Rows in {output}: {len(rows)}, of {counted(len(results), 'file')}.")
