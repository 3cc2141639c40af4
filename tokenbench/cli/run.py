"""`tokenbench run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.runs.candidates import Plan
    from tokenbench.runs.row import Row

_LABELS = ("class_order", "labels", "restrict_classes")  # knobs of tasks that have flags of their own


_OPTIONS = (
    options.task,
    click.option(
        "--backbone", default="deit_nano", show_default=True, help="Short or timm names, separated by commas."
    ),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="The data to score on: an ImageFolder, or as the task has it.",
    ),
    options.class_order,
    options.labels,
    click.option("--restrict-classes", is_flag=True, help="Guess only from the classes that the data has."),
    options.scenes,
    options.weights,
    options.taking,
    click.option(
        "-b", "--batch-size", default=None, help="Sizes to time, as 1,32,128; or auto.  [default: 32; GPU 128]"
    ),
    options.workers,
    options.device,
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True),
    options.amp,
    click.option("--compile", "compiled", is_flag=True, help="Time under torch.compile."),
    options.image_size,
    options.pixels,
    options.limit,
    click.option(
        "--rounds", type=click.IntRange(min=3), default=10, show_default=True, help="Least number of timed runs."
    ),
    options.threads,
    options.seed,
    click.option("-o", "--output", type=click.Path(path_type=Path), default=options.DEFAULT_RESULTS, show_default=True),
    click.option("--force", is_flag=True, help="Run what is done already, too."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of a table."),
    options.quiet,
    options.verbose,
    options.config,
    options.plugin,
)


def measuring(command: Any) -> Any:
    """The flags of what is measured, and how; `plan_of` makes a plan of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@options.methods
@measuring
def run(**flags: Any) -> int:
    """Measure accuracy, GMACs, speed, memory and tokens.

    Finished work is skipped. Without --data-dir, accuracy is measured for deit_nano only, on the images that ship.
    """
    from tokenbench.cli import screen
    from tokenbench.runs.row import dumps

    rows = measured(flags)
    if flags["as_json"]:
        for row in rows:
            click.echo(dumps(row))
    else:
        screen.print_results(rows)
        click.echo(
            f"\nRows in {flags['output']}: {len(rows)}; `tokenbench report {flags['output']}` makes files of them."
        )
    return int(any(row.status in ("failed", "oom") for row in rows))


def measured(flags: dict[str, Any]) -> list[Row]:
    """The rows of what the flags of `run` describe, measured now or before; progress goes to stderr."""
    from tokenbench.cli import screen
    from tokenbench.runs import runner
    from tokenbench.runs.results import Results

    with screen.Watching(flags["quiet"]) as watch:
        return runner.run(plan_of(flags), Results(flags["output"]), watch)


def plan_of(flags: dict[str, Any]) -> Plan:
    """The plan that the flags describe; raises `UsageError` for a value that means nothing."""
    import torch

    from tokenbench.methods.sweep import parse
    from tokenbench.runs.candidates import Plan

    if flags["amp"] and flags["precision"] == "fp16":
        raise UsageError("--amp means bf16 and --precision says fp16; give one of them.")
    device = options.device_of(flags["device"])
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    task = options.task_of(flags, (*_LABELS, *options.SCENES))
    usual = task.batch or (128 if device.startswith("cuda") else 32)
    batch = flags["batch_size"] if flags["batch_size"] is not None else str(usual)
    return Plan(
        task=task,
        methods=parse(flags["methods"]),
        backbones=list(dict.fromkeys(name.strip() for name in flags["backbone"].split(",") if name.strip())),
        data_dir=flags["data_dir"],
        weights=str(flags["weights"]),
        device=device,
        precision="bf16" if flags["amp"] else flags["precision"],
        batches=[] if batch == "auto" else options.numbers("batch-size", str(batch), ","),
        workers=flags["workers"],
        seed=flags["seed"],
        limit=flags["limit"],
        image_size=options.size_of(flags["image_size"]),
        compile=flags["compiled"],
        rounds=flags["rounds"],
        force=flags["force"],
        pixels=options.pixels_of(flags),
        take=options.take_of(flags),
    )
