"""`tokenbench run`."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import clusters, options
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.runs.plan import Plan
    from tokenbench.runs.results import Results
    from tokenbench.runs.row import Row
    from tokenbench.runs.watch import Watch

_LABELS = ("class_order", "labels", "restrict_classes")  # knobs of tasks that have flags of their own


_OPTIONS = (
    options.task,
    click.option(
        "--backbone",
        help="Short or timm names, separated by commas.  [default: deit_nano; or those of exported files]",
    ),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        help="The data to score on: an ImageFolder, Parquet, hfds/NAME, wds/PATH, or as the task has it.",
    ),
    options.class_order,
    options.labels,
    click.option("--restrict-classes", is_flag=True, help="Guess only from the classes that the data has."),
    options.scenes,
    options.viewing,
    options.weights,
    options.taking,
    click.option(
        "-b", "--batch-size", default=None, help="Sizes to time, as 1,32,128; or auto.  [default: 32; GPU 128]"
    ),
    options.workers,
    options.device,
    click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16", "int8"]), default="fp32", show_default=True),
    options.amp,
    click.option(
        "--runtime",
        type=click.Choice(["torch", "onnxruntime", "openvino"]),
        default="torch",
        show_default=True,
        help="Score and time models exported to it, on the CPU.",
    ),
    click.option("--compile", "compiled", is_flag=True, help="Time under torch.compile."),
    options.image_size,
    options.pixels,
    options.limit,
    click.option(
        "--precision-goal",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.02,
        show_default=True,
        help="Time until each speed-up is known to this share of it,",
    ),
    click.option(
        "--max-seconds",
        type=click.FloatRange(min=0),
        default=20.0,
        show_default=True,
        help="or for so long a backbone and batch size,",
    ),
    click.option("--rounds", type=click.IntRange(min=3), default=10, show_default=True, help="but so often at least."),
    click.option("--energy", is_flag=True, help="Measure joules an image, where NVML or RAPL tells them."),
    options.threads,
    options.seed,
    click.option("-o", "--output", type=click.Path(path_type=Path), default=options.DEFAULT_RESULTS, show_default=True),
    click.option("--force", is_flag=True, help="Run what is done already, too."),
    click.option("--json", "as_json", is_flag=True, help="Print rows as JSON lines instead of a table."),
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
@click.option(
    "--methods",
    "--method",
    help=f'A sweep such as "tome[r=4,8,13],evit", or all.  [default: {options.SHIPPED}; or those of exported files]',
)
@measuring
@clusters.engine
@click.option("--settings-per-job", type=click.IntRange(min=1), help="With --engine ray.  [default: 1]")
@click.option("--shard", metavar="I/N", help="Only this part of the settings, as 3/16; see `merge`.")
def run(**flags: Any) -> int:
    """Measure accuracy, GMACs, speed, memory and tokens.

    Finished work is skipped. Without --data-dir, accuracy is measured for deit_nano only, on the images that ship.
    """
    from tokenbench.cli import screen
    from tokenbench.runs.row import dumps

    rows = measured(flags)
    if int(os.environ.get("RANK", 0)):  # of the processes that torchrun started, the first one speaks
        return 0
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
    from tokenbench.runs.results import Results

    with screen.Watching(flags["quiet"]) as watch:
        return (_on_ray if flags["engine"] == "ray" else _here)(flags, Results(flags["output"]), watch)


def _here(flags: dict[str, Any], results: Results, watch: Watch) -> list[Row]:
    from tokenbench.runs import runner

    clusters.refuse(flags)
    return runner.run(plan_of(flags), results, watch)


def _on_ray(flags: dict[str, Any], results: Results, watch: Watch) -> list[Row]:
    from tokenbench.runs import cluster

    if flags["shard"] is not None:
        raise UsageError("--shard and --engine ray both divide the settings; give one of them.")
    flags = clusters.from_anywhere(flags)
    plan = plan_of({**flags, "device": "cpu"})  # the device is a worker's
    make, share = partial(plan_of, flags), clusters.share_of(flags)
    return cluster.run(make, plan, results, watch, flags["address"], share, clusters.plugins())


def plan_of(flags: dict[str, Any]) -> Plan:
    """The plan that the flags describe; raises `UsageError` for a value that means nothing."""
    import torch

    from tokenbench.methods.sweep import parse
    from tokenbench.runs import exported
    from tokenbench.runs.plan import Plan

    if flags["amp"] and flags["precision"] not in ("fp32", "bf16"):
        raise UsageError(f"--amp means bf16 and --precision says {flags['precision']}; give one of them.")
    elsewhere = flags["runtime"] != "torch" and flags["device"] == "auto"
    device = "cpu" if elsewhere else options.device_of(flags["device"])
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    task = options.task_of(flags, (*_LABELS, *options.SCENES, *options.VIEWS))
    usual = task.batch or (128 if device.startswith("cuda") else 32)
    batch = flags["batch_size"] if flags["batch_size"] is not None else str(usual)
    weights, found = exported.read(str(flags["weights"]), flags["runtime"])
    named, backbone = flags["methods"], flags["backbone"]
    theirs = [header.backbone for header in found.values()] or ["deit_nano"]
    return Plan(
        task=task,
        methods=exported.methods(found)
        if found and named is None
        else parse(options.SHIPPED if named is None else named),
        backbones=list(
            dict.fromkeys(filter(None, map(str.strip, theirs if backbone is None else backbone.split(","))))
        ),
        data_dir=flags["data_dir"],
        weights=weights,
        exported=found,
        device=device,
        precision="bf16" if flags["amp"] else flags["precision"],
        batches=[] if batch == "auto" else options.numbers("batch-size", str(batch), ","),
        workers=flags["workers"],
        seed=flags["seed"],
        limit=flags["limit"],
        image_size=options.size_of(flags["image_size"]),
        compile=flags["compiled"],
        rounds=flags["rounds"],
        precision_goal=flags["precision_goal"],
        max_seconds=flags["max_seconds"],
        force=flags["force"],
        energy=flags["energy"],
        pixels=options.pixels_of(flags, task),
        take=options.take_of(flags),
        shard=_shard(flags.get("shard")),
        runtime=flags["runtime"],
    )


def _shard(text: str | None) -> tuple[int, int] | None:
    """Which part of how many; raises `UsageError` for what is none."""
    if text is None:
        return None
    which, _, count = (part.strip() for part in str(text).partition("/"))
    good = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in (which, count))
    if not good or not 1 <= int(which) <= int(count):
        raise UsageError(f"--shard {text} is not allowed; write which of how many, from 1/16 to 16/16.")
    return int(which), int(count)
