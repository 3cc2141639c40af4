"""`tokenbench train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options
from tokenbench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from tokenbench.training import Job


@click.command()
@options.task
@click.option("--method", "--methods", "method", required=True, help='One setting, such as "evit[keep_rate=0.7]".')
@options.backbone
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    required=True,
    help="ImageFolder with train and val, or as the task has it.",
)
@options.class_order
@options.labels
@click.option("--strict", is_flag=True, help="Take anything odd in annotations for an error.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option("--recipe", help="One of the method's or task's recipes.  [default: its first]")
@click.option("--epochs", metavar="NUMBER", help="Other than the recipe's.")
@click.option("-b", "--batch-size", metavar="NUMBER", help="Images an update, over all processes.")
@click.option("--lr", metavar="NUMBER", help="Highest learning rate, at the recipe's lr_batch.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any other value of the recipe.")
@click.option(
    "--weights", default="auto", show_default=True, help="To start from: auto (the recipe's), random, a file."
)
@options.taking
@click.option("--teacher", default="auto", show_default=True, help="The teacher's weights: auto, or a file.")
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
@click.option("--tracker", help="trackio or wandb.")
@options.seed
@options.quiet
@options.verbose
@options.config
@options.plugin
@click.pass_context
def train(ctx: click.Context, /, **flags: Any) -> None:
    """Train or fine-tune a method by its own recipe.

    Stopped at any moment, the same command goes on from the last checkpoint. Under `torchrun`, many processes train one
    model. `tokenbench show METHOD` lists its recipes.
    """
    from tokenbench import training
    from tokenbench.cli import screen

    job = _job(flags, ctx.meta.get("recipe", {}))
    with screen.Watching(flags["quiet"]) as watch:
        found = training.train(job, watch)
    if found.leads:
        main = job.task.metrics[0]
        value = "is not known" if found.value is None else f"{found.value:.2f} {main.unit}".rstrip()
        click.echo(f"{found.path}: {main.short} {value} on {found.images} {found.split} images.")


def _job(flags: dict[str, Any], table: dict[str, Any]) -> Job:
    """The training job that the flags of `train` describe; a flag wins over `--set`, and that over a TOML table."""
    import torch

    from tokenbench.methods.sweep import parse
    from tokenbench.training import Job

    settings = parse(flags["method"])
    if len(settings) != 1:
        raise UsageError(f"--method {flags['method']} gives {len(settings)} settings; train one at a time.")
    method, task = settings[0], options.task_of(flags, ("class_order", "labels", "strict"))
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
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    return Job(
        method=method,
        backbone=flags["backbone"],
        recipe=recipes[name].change(changes),
        data_dir=flags["data_dir"],
        task=task,
        output=flags["output"],
        weights=str(flags["weights"]),
        teacher=str(flags["teacher"]),
        image_size=options.size_of(flags["image_size"]),
        pixels=options.pixels_of(flags),
        take=options.take_of(flags),
        device=options.device_of(flags["device"]),
        precision="bf16" if flags["amp"] else flags["precision"],
        passes=flags["accumulate"],
        compile=flags["compiled"],
        recompute=flags["grad_checkpointing"],
        workers=flags["workers"],
        seed=flags["seed"],
        save_every=flags["save_every"],
        evaluate_every=flags["eval_every"],
        tracker=flags["tracker"],
    )
