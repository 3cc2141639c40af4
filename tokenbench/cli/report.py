"""`tokenbench report` and `merge`."""

from __future__ import annotations

from pathlib import Path

import click

from tokenbench.cli import options, streams
from tokenbench.errors import UsageError


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports"), show_default=True)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Token maps to show, as `tokenbench trace` writes them.  [default: OUTPUT/maps, where there are any]",
)
@options.margin
def report(results: tuple[Path, ...], output: Path, maps: Path | None, margin: float) -> None:
    """A page, tables and figures of RESULTS (results.jsonl if none is given) in --output; the tables here, too."""
    from tokenbench.cli import screen
    from tokenbench.maps import files as mapfiles
    from tokenbench.reports import files
    from tokenbench.reports.maps import viewer
    from tokenbench.runs.results import load

    if not results and not options.DEFAULT_RESULTS.exists():
        raise UsageError(
            f"There is no {options.DEFAULT_RESULTS} here; run `tokenbench run` first, or name a results file."
        )
    found, problems = load(results or (options.DEFAULT_RESULTS,))
    rows = list(found)
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    if maps is None and any((output / "maps").glob("*.npz")):
        maps = output / "maps"
    shown = viewer.fragment(mapfiles.load(maps)) if maps else ""
    written = files.write(rows, output, shown, margin)
    screen.print_results(rows, margin)
    for sentence in written.left_out:
        click.echo(f"\n{sentence}", err=True)
    drawn = f"{len(written.figures)} files in {output / 'figures'}"
    click.echo(f"\nWritten: {', '.join(map(str, written.tables))}, {drawn}, and the page")
    click.echo(written.page)


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new file.")
def merge(results: tuple[Path, ...], output: Path) -> None:
    """One results file of several, from several machines: the newest good row of each job."""
    from tokenbench.runs.results import merge as merge_files

    rows, problems = merge_files(results, output)
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    click.echo(f"Rows in {output}: {len(rows)}, of {len(results)} files.")
