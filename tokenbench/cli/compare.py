"""`tokenbench compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options

if TYPE_CHECKING:
    from tokenbench.runs.compare import Pair


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="RESULTS [RESULTS] [SETTING] [SETTING]")
@click.option(
    "--fail-if",
    "conditions",
    multiple=True,
    metavar="CONDITION",
    help="Exit code 1 where it holds: top1<-0.5 or box_ap<-0.5 (points), images_per_s<0.95 (second over first), "
    "p_value<0.05.",
)
@options.margin
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, one a pair, instead of tables.")
@options.plugin
def compare(what: tuple[str, ...], conditions: tuple[str, ...], margin: float, as_json: bool) -> int:
    """What changes from one row to another: what the task measures paired image by image, speed, GMACs, memory.

    Two results files are compared setting by setting; in one file, two settings, or dense and one. The second is told
    against the first: what the task measures as a difference, in points where it is in percent, everything else as a
    ratio. Conditions of --fail-if ask about these by the names that the CSV of a report has, and about top1_low,
    images_per_s_high and the like, the ends of 95 % intervals.
    """
    from tokenbench.runs import compare as comparing
    from tokenbench.runs import gates

    wanted = [gates.gate(text) for text in conditions]
    files = [Path(text) for text in what if comparing.is_file(text)]
    pairs = comparing.compare(files, [text for text in what if not comparing.is_file(text)], margin)
    failed = gates.failing(pairs, wanted)
    if as_json:
        for pair in pairs:
            click.echo(json.dumps(_plain(pair, [gate.text for of, gate in failed if of is pair]), allow_nan=False))
    else:
        seeds = {(pair.first.row.seed, pair.second.row.seed) for pair in pairs}
        seeded = len(seeds) > 1 and all(one == other for one, other in seeds)
        for pair in pairs:
            _show(pair, seeded)
        click.echo(f"\n{_note(pairs)}")
    for pair, gate in failed:
        click.echo(
            f"Failed: {gate.text}: {gates.value(pair, gate.field):.6g} from {pair.first} to {pair.second}.", err=True
        )
    return int(bool(failed))


def _show(pair: Pair, seeded: bool) -> None:
    from rich.table import Table

    from tokenbench.cli.screen import console, plain
    from tokenbench.reports import changes

    out, (first, second) = console(), (pair.first, pair.second)
    same = first.row.label == second.row.label
    names = [str(side.file) if same else side.row.label for side in (first, second)]
    title = f"{first.row.label if same else ' → '.join(names)}: {first.row.backbone}, batch {first.row.batch}"
    out.print()
    out.print(plain(f"{title}, seed {first.row.seed}" if seeded else title, "bold"))
    out.print(plain(str(first.file) if first.file == second.file else f"{first.file} → {second.file}", "dim"))
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(("", *names, "change", "")):
        grid.add_column(plain(name), justify="right" if 0 < i < 4 else "left", no_wrap=i != 4)
    for field, change in pair.changes.items():
        grid.add_row(*(plain(text) for text in changes.line(pair, field, change)))
    out.print(grid)
    for name, (mine, theirs) in pair.differ.items():
        out.print(plain(f"· {name} differs: {mine} → {theirs}", "dim"))


def _note(pairs: Sequence[Pair]) -> str:
    from tokenbench.tasks import all_tasks

    scored = [pair for pair in pairs if pair.main is not None and pair.main.p is not None]
    many = f" with Holm's correction over what is compared here ({len(scored)} pairs)" if len(scored) > 1 else ""
    speeds = "of speeds from those of both rows"
    if not scored:
        return f"Brackets: 95 % intervals, {speeds}."
    main, formula = scored[0].metrics[0], all_tasks()[scored[0].second.row.task].intervals.get("diff_dense")
    test = "McNemar's exact test" if formula == "Tango" else "the same draws"
    return (
        f"Brackets: 95 % intervals; of {main.short} paired ({formula or 'by the task'}), {speeds}. "
        f"{main.noun[:1].upper()}{main.noun[1:]} differs by {test} at 5 %{many}; p is of one pair alone."
    )


def _plain(pair: Pair, failed: list[str]) -> dict[str, Any]:
    sides = {
        name: {"file": str(side.file), "id": side.row.id, "label": side.row.label, "seed": side.row.seed}
        for name, side in (("first", pair.first), ("second", pair.second))
    }
    shared = {"backbone": pair.first.row.backbone, "batch": pair.first.row.batch}
    changes = {
        field: {
            **{"first": change.first, "second": change.second, "change": change.value},
            **{"low": change.low, "high": change.high, "p_value": change.p, "verdict": change.words or None},
        }
        for field, change in pair.changes.items()
    }
    return {**sides, **shared, "changes": changes, "differ": pair.differ, "failed": failed}
