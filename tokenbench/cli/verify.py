"""`tokenbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options, streams
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenbench.reports.published import Comparison
    from tokenbench.runs.plan import Plan
    from tokenbench.runs.row import Row
    from tokenbench.runs.verify import Check


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("--weights", help="Measure accuracies that were printed for these: auto (the hub's), files, folders.")
@options.taking
@click.option("--backbone", help="Of these weights, where they do not say it; of auto, those to measure.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="ImageNet-1k's validation set, for --weights.")
@options.labels
@options.workers
@options.device
@options.limit
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("verified.jsonl"), show_default=True)
@options.quiet
@options.plugin
def verify(results: tuple[Path, ...], **flags: Any) -> int:
    """Count every number that a paper printed and that needs no weights, and set it beside the paper's.

    GMACs, parameters and tokens of every method on every backbone that numbers were printed for, in seconds. With
    --weights and --data-dir accuracies too: what `tokenbench run` measures of the settings that these weights are
    of, kept in --output. Of RESULTS, which `tokenbench run` wrote, those that are in them. Exit code 1 if a number is
    off and no reason is known, or could not be measured.
    """
    from tokenbench.cli.screen import console, plain
    from tokenbench.reports import published
    from tokenbench.runs.results import load
    from tokenbench.runs.verify import checks

    found, problems = load(results) if results else ((), [])
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    rows = [*found, *(_run(_plan(flags), flags) if _asks_for_accuracy(flags) else ())]
    counted = list(checks())
    beside = [made for row in rows for made in published.compared(row) if made.reported.top1 is not None]
    measured = [made for made in beside if made.row.status == "ok" and made.row.metrics.get("top1") is not None]
    failed = {id(made.row): made.row for made in beside if made.row.status in ("failed", "oom")}
    for row in failed.values():
        click.echo(streams.printable(f"{row.label} on {row.backbone} has no accuracy: {row.reason}."), err=True)
    out = console()
    out.print(_grid([_counted(check) for check in counted] + [_measured(made) for made in measured]))
    off = sum(check.off for check in counted) + sum(_is_off(made) for made in measured)
    out.print()
    out.print(plain(f"{len(counted) + len(measured)} published numbers, {off} off without a reason."))
    if measured:
        out.print(plain(f"In brackets: {_brackets([made.row for made in measured])}.", "dim"))
    elif rows:
        out.print(plain("None of these rows has an accuracy that a paper printed, too.", "dim"))
    return int(off > 0 or bool(failed))


def _asks_for_accuracy(flags: dict[str, Any]) -> bool:
    """Whether accuracies are to be measured; raises `UsageError` where a part of what that takes is missing."""
    if flags["weights"] is None and flags["data_dir"] is None:
        odd = next((name for name in ("backbone", "labels", "limit", "ema", "weights_key") if flags[name]), None)
        if odd:
            raise UsageError(f"--{odd.replace('_', '-')} says how to measure accuracies; give --weights too.")
        return False
    if flags["data_dir"] is None:
        raise UsageError("--weights needs images too; give ImageNet-1k's validation set as --data-dir.")
    if flags["weights"] is None:
        raise UsageError("--data-dir needs weights too; give files as --weights, or auto for the hub's.")
    return True


def _plan(flags: dict[str, Any]) -> Plan:
    from tokenbench.runs.plan import Plan
    from tokenbench.tasks.classification import Classification

    device = options.device_of(flags["device"])
    return Plan(
        methods=(),
        backbones=list(filter(None, (name.strip() for name in (flags["backbone"] or "").split(",")))),
        task=Classification(labels=None if flags["labels"] is None else str(flags["labels"])),
        data_dir=flags["data_dir"],
        weights=flags["weights"],
        device=device,
        batches=[128 if device.startswith("cuda") else 32],
        workers=flags["workers"],
        limit=flags["limit"],
        take=options.take_of(flags),
    )


def _run(plan: Plan, flags: dict[str, Any]) -> list[Row]:
    from tokenbench.cli.screen import Watching
    from tokenbench.runs import printed, runner
    from tokenbench.runs.results import Results

    with Watching(flags["quiet"]) as watch:
        asked = printed.plans(plan)
        return [row for one in asked for row in runner.run(one, Results(flags["output"]), watch)]


def _brackets(rows: Sequence[Row]) -> str:
    """By which formulas their intervals are, with the settings where there are several."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kinds.setdefault(row.intervals.get("top1", "unknown"), []).append(row.label)
    several = len(kinds) > 1
    told = (f"{kind}'s" + (f" of {', '.join(dict.fromkeys(of))}" if several else "") for kind, of in kinds.items())
    return f"95 % intervals, {'; '.join(told)}"


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
