"""`tokenbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokenbench.cli import options

if TYPE_CHECKING:
    from tokenbench.reports.published import Comparison
    from tokenbench.runs.verify import Check


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@options.plugin
def verify(results: tuple[Path, ...]) -> int:
    """Count every number that a paper printed and that needs no weights, and set it beside the paper's.

    GMACs, parameters and tokens of every method on every backbone that numbers were printed for, in seconds. Of
    RESULTS, which `tokenbench run --weights … --data-dir IMAGENET/val` wrote, accuracies too. Exit code 1 if one is
    off and no reason is known.
    """
    from tokenbench.cli.screen import console, plain
    from tokenbench.reports import published
    from tokenbench.runs.results import load
    from tokenbench.runs.verify import checks

    rows, problems = load(results) if results else ((), [])
    for problem in problems:
        click.echo(f"Left out {problem}", err=True)
    counted = list(checks())
    measured = [made for row in rows if row.status == "ok" for made in published.compared(row)]
    measured = [
        made for made in measured if made.reported.top1 is not None and made.row.metrics.get("top1") is not None
    ]
    out = console()
    out.print(_grid([_counted(check) for check in counted] + [_measured(made) for made in measured]))
    off = sum(check.off for check in counted) + sum(_is_off(made) for made in measured)
    out.print()
    out.print(plain(f"{len(counted) + len(measured)} published numbers, {off} off without a reason."))
    if results and not measured:
        out.print(plain("None of these rows has an accuracy that a paper printed, too.", "dim"))
    return int(off > 0)


def _counted(check: Check) -> tuple[str, ...]:
    digits = {"GMAC": 3, "params M": 3, "GMAC saved %": 1}.get(check.what, 0)
    verdict = "same" if check.same else "OFF" if check.off else "differs"
    why = "" if check.same else check.reason
    return (
        check.setting,
        check.backbone,
        check.what,
        f"{check.published:g}",
        f"{check.counted:.{digits}f}",
        verdict,
        why,
    )


def _is_off(made: Comparison) -> bool:
    """The published accuracy lies outside the interval, and nothing that is known differs."""
    return made.inside is False and made.reported.trained == (made.row.trained is not None)


def _measured(made: Comparison) -> tuple[str, ...]:
    from tokenbench.reports.cells import interval

    row, verdict = made.row, "OFF" if _is_off(made) else "same" if made.inside else "differs"
    shown = interval(row.top1, row.top1_low, row.top1_high, "{:.1f}")
    why = "" if made.inside else "; ".join(made.reasons)
    return (row.label, row.backbone, "top-1 %", f"{made.reported.top1:g}", shown, verdict, why)


def _grid(lines: list[tuple[str, ...]]) -> object:
    from rich.table import Table

    from tokenbench.cli.screen import plain

    grid = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(("setting", "backbone", "", "published", "now", "", "why")):
        grid.add_column(name, justify="right" if i in (3, 4) else "left", no_wrap=i < 6)
    for line in lines:
        grid.add_row(*map(plain, line))
    return grid
