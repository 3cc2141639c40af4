"""`tokenbench train`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import clusters, options
from tokenbench.errors import TokenbenchError, UnknownName, UsageError

if TYPE_CHECKING:
    from tokenbench.methods.base import Method
    from tokenbench.tasks.base import Task
    from tokenbench.training import Job, Trained
    from tokenbench.training.loop import Watch


@click.command()
@options.task
@click.option(
    "--method",
    "--methods",
    "method",
    required=True,
    help='A setting, or a sweep such as "dense,evit[keep_rate=0.7,0.5]".',
)
@options.backbone
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="ImageFolder with train and val, Parquet, hfds/NAME, wds/PATH, or as the task has it.",
)
@options.class_order
@options.labels
@options.viewing
@click.option("--strict", is_flag=True, help="Take anything odd in annotations for an error.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="The run's folder; of a sweep, one above them.",
)
@click.option("--recipe", help="One of the method's or task's recipes.  [default: its first]")
@click.option("--epochs", metavar="NUMBER", help="Other than the recipe's.")
@click.option("-b", "--batch-size", metavar="NUMBER", help="Images an update, over all processes.")
@click.option("--lr", metavar="NUMBER", help="Highest learning rate, at the recipe's lr_batch.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any other value of the recipe.")
@click.option(
    "--weights", default="auto", show_default=True, help="To start from: auto (the recipe's), random, a file."
)
@options.taking
@click.option(
    "--teacher",
    default="auto",
    show_default=True,
    help="The teacher's weights: auto, a file, or swept: what this sweep's dense ends with, trained first.",
)
@options.image_size
@options.pixels
@options.device
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@options.amp
@click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Passes an update.")
@click.option("--compile", "compiled", is_flag=True, help="Under torch.compile.")
@click.option("--grad-checkpointing", is_flag=True, help="Less memory, more time.")
@options.workers
@options.threads
@click.option("--save-every", type=click.IntRange(min=1), help="Updates.  [default: an epoch, at most 10 minutes]")
@click.option(
    "--eval-every", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Epochs."
)
@click.option("--tracker", help="trackio, wandb, mlflow or tensorboard.")
@click.option(
    "--together", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of a sweep that share batches."
)
@clusters.engine
@click.option("--seed", metavar="NUMBERS", default="42", show_default=True, help="One, or several as 0,1,2.")
@options.quiet
@options.verbose
@options.config
@options.plugin
@click.pass_context
def train(ctx: click.Context, /, **flags: Any) -> int:
    """Train or fine-tune methods by their own recipes.

    Stopped at any moment, the same command goes on from the last checkpoint. Under `torchrun`, many processes train one
    model. `tokenbench show METHOD` lists its recipes. Several settings or seeds are a sweep, each in a folder of
    its own below --output; with --engine ray, jobs of a cluster that shares that folder.
    """
    done = trained(flags, ctx.meta.get("recipe", {}))
    for job, found in done:  # not above, where what is printed goes to stderr
        if not isinstance(found, Exception):
            _say(job, found)
    return int(any(isinstance(found, Exception) for _, found in done))


def trained(flags: dict[str, Any], table: dict[str, Any]) -> list[tuple[Job, Trained | Exception]]:
    """Every run that the flags of `train` describe, with what came of it; of a sweep, an error stops its run only."""
    from tokenbench import training
    from tokenbench.cli import screen

    if flags["engine"] == "here":
        clusters.refuse(flags)
        jobs = _jobs(flags, table)
    else:
        flags = clusters.from_anywhere(flags)
        jobs = _jobs({**flags, "device": "cpu"}, table)  # the device is a worker's
    with screen.Watching(flags["quiet"]) as watch:
        if flags["engine"] == "ray":
            ended = _on_ray(flags, table, jobs, watch)
        elif len(jobs) == 1:
            return [(jobs[0], training.train(jobs[0], watch))]
        else:
            ended = training.train_all(jobs, watch, flags["together"])
        done: list[tuple[Job, Trained | Exception]] = []
        for job, found in ended:
            if isinstance(found, Exception):
                watch.say(f"{job.output} failed: {found}")
            done.append((job, found))
        return done


def _on_ray(
    flags: dict[str, Any], table: dict[str, Any], jobs: Sequence[Job], watch: Watch
) -> Iterator[tuple[Job, Trained | TokenbenchError]]:
    from tokenbench.training import cluster

    share, asked = clusters.share_of(flags), partial(_jobs, flags, table)
    return cluster.train_all(
        asked, jobs, watch, flags["output"], flags["together"], flags["address"], share, clusters.plugins()
    )


def _say(job: Job, found: Trained) -> None:
    if found.leads:
        main = job.task.metrics[0]
        value = "is not known" if found.value is None else f"{found.value:.2f} {main.unit}".rstrip()
        click.echo(f"{found.path}: {main.short} {value} on {found.images} {found.split} {job.task.items}.")


def _jobs(flags: dict[str, Any], table: dict[str, Any]) -> list[Job]:
    """The training jobs that the flags of `train` describe, one for each setting and seed."""
    import torch

    from tokenbench.methods.sweep import parse
    from tokenbench.training import RESULT

    settings, seeds = parse(flags["method"]), _seeds(flags["seed"])
    task, teacher = options.task_of(flags, ("class_order", "labels", "strict", *options.VIEWS)), str(flags["teacher"])
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    settings = [_on(method, task, flags["backbone"]) for method in settings]
    dense = next((method for method in settings if method.name == "dense"), None)
    if teacher == "swept" and (dense is None or len(settings) == 1):
        raise UsageError(
            f"--teacher swept needs dense among the methods, and others; they are {flags['method']}; add to them."
        )
    if len(settings) * len(seeds) == 1:
        return [_job(flags, table, task, settings[0], seeds[0], flags["output"], teacher)]
    jobs = []
    for seed in seeds:
        folder = flags["output"] / f"seed{seed}" if len(seeds) > 1 else flags["output"]
        taught = str(folder / _name(dense) / RESULT) if dense is not None and teacher == "swept" else teacher
        jobs += [_job(flags, table, task, method, seed, folder / _name(method), taught) for method in settings]
    return jobs


def _on(method: Method, task: Task, backbone: str) -> Method:
    """The setting as it is on that backbone, so that its folder is called so."""
    import torch

    from tokenbench import backbones
    from tokenbench.methods.base import Method

    if type(method).on is Method.on:
        return method
    with torch.device("meta"):  # no memory for weights
        return method.on(task.on(backbones.create(backbone)))


def _name(method: Method) -> str:
    """The folder of a setting in a sweep: stvit-tokens-16."""
    return re.sub(r"[^\w.-]+", "-", method.label).strip("-")


def _seeds(text: str) -> Sequence[int]:
    seeds = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if not all(0 <= seed < 2**32 for seed in seeds):
        raise UsageError(f"--seed {text} is not allowed; write a number from 0 to {2**32 - 1}, or several as 0,1,2.")
    return list(dict.fromkeys(seeds))


def _job(
    flags: dict[str, Any], table: dict[str, Any], task: Task, method: Method, seed: int, output: Path, teacher: str
) -> Job:
    """One of them; a flag wins over `--set`, and that over a TOML table."""
    from tokenbench.training import Job

    recipes = task.recipes(method)
    name = flags["recipe"] or next(iter(recipes), "")
    if name not in recipes:
        whose = task.name if task.has_head else method.name
        raise UnknownName(f"recipe of {whose}", name, recipes, f"`tokenbench show {whose}`")
    changes = dict(table)
    for text in flags["changes"]:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text} is not allowed; write it like --set weight_decay=0.05.")
        changes[key.strip()] = value.strip()
    named = {"epochs": flags["epochs"], "batch": flags["batch_size"], "lr": flags["lr"]}
    changes |= {key: value for key, value in named.items() if value is not None}
    return Job(
        method=method,
        backbone=flags["backbone"],
        recipe=recipes[name].change(changes),
        data_dir=flags["data_dir"],
        task=task,
        output=output,
        weights=str(flags["weights"]),
        teacher=teacher,
        image_size=options.size_of(flags["image_size"]),
        pixels=options.pixels_of(flags, task),
        take=options.take_of(flags),
        device=options.device_of(flags["device"]),
        precision="bf16" if flags["amp"] else flags["precision"],
        passes=flags["accumulate"],
        compile=flags["compiled"],
        recompute=flags["grad_checkpointing"],
        workers=flags["workers"],
        seed=seed,
        save_every=flags["save_every"],
        evaluate_every=flags["eval_every"],
        tracker=flags["tracker"],
    )
