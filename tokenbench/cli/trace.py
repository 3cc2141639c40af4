"""`tokenbench trace`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options, streams
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.tasks.base import Task

AT_ONCE = 32  # images whose maps are held while settings are compared
SHOWN = 8  # images of a task's data that are drawn where no limit is given


@click.command()
@options.task
@options.methods
@options.backbone
@click.option("--images", type=click.Path(path_type=Path), multiple=True, help="A file or folder; may be repeated.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Data of a task with a head of its own.")
@options.stretch
@options.weights
@options.taking
@options.image_size
@options.pixels
@options.limit
@click.option(
    "--similarity",
    type=click.IntRange(min=4),
    metavar="IMAGES",
    help="Also how alike the methods are, block by block, on so many images: IoU, NMI and CKA.",
)
@options.device
@options.seed
@click.option("--format", "kind", type=click.Choice(["png", "svg", "pdf"]), default="png", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports/maps"), show_default=True)
@options.verbose
@options.plugin
def trace(**flags: Any) -> None:
    """Draw which patches each method keeps and merges, with numbers, and a page to play with (maps.html).

    Without --images: the photographs that ship, or for deit_nano some of Fashion-MNIST. Of detection and segmentation,
    with --data-dir and --weights: what is there, what was found, and where semantic tokens look.
    """
    from tokenbench.cli import screen
    from tokenbench.maps import following as tracing
    from tokenbench.maps import similarity
    from tokenbench.methods.sweep import parse
    from tokenbench.reports.maps import traces

    task, compared = options.task_of(flags, options.VIEWS[:2]), flags["similarity"]
    if compared is not None and task.name != "classification":
        raise UsageError(
            f"--similarity compares what classifiers make of images; leave it out with --task {task.name}."
        )
    unheard = ("images", "image_size") if task.has_head else ("data_dir",)
    odd = next((name for name in unheard if flags[name]), None)
    if odd is not None:
        raise UsageError(
            f"--{odd.replace('_', '-')} says nothing here, for --task {task.name} draws "
            f"{'images of --data-dir at its own size' if task.has_head else '--images'}; leave it out."
        )
    if task.has_head:
        _scenes(task, flags)
        return
    given = (parse(flags["methods"]), flags["backbone"], flags["images"])
    how = {
        "weights": str(flags["weights"]),
        "seed": flags["seed"],
        "image_size": options.size_of(flags["image_size"]),
        "device": options.device_of(flags["device"]),
        "pixels": options.pixels_of(flags, task),
        "take": options.take_of(flags),
        **_of_clips(task, flags),
    }
    with redirect_stdout(sys.stderr):  # what a plug-in prints
        say = partial(click.echo, err=True)
        maps = tracing.trace_all(*given, **how, limit=flags["limit"], say=lambda text: say(streams.printable(text)))
        alike = similarity.measure(tracing.ready(*given, **how, limit=compared).maps(AT_ONCE)) if compared else []
    for file in traces.write(maps, flags["output"], flags["kind"], alike):
        click.echo(file)
    screen.print_maps(maps, alike)


def _of_clips(task: Task, flags: dict[str, Any]) -> dict[str, Any]:
    """What else is said where images are those of clips."""
    from tokenbench.tasks.video import Video

    if not isinstance(task, Video):
        return {}
    if not flags["images"]:
        raise UsageError("--task video draws on videos; give some, or folders of frames, as --images.")
    from tokenbench.data.viewing import Views

    return {"task": task.name, "on": task.on, "views": Views(task.frames, task.stride, 1, 1)}


def _scenes(task: Task, flags: dict[str, Any]) -> None:
    """Draw what models with a head of a task's own find in its data."""
    from tokenbench.methods.sweep import parse
    from tokenbench.reports.maps import scenes
    from tokenbench.runs import candidates, environment
    from tokenbench.runs.plan import Plan

    if flags["data_dir"] is None and getattr(task, "annotations", None) is None:
        raise UsageError(f"--task {task.name} draws on its own data; give --data-dir.")
    device = options.device_of(flags["device"])
    plan = Plan(
        methods=parse(flags["methods"]),
        backbones=[flags["backbone"]],
        task=task,
        data_dir=flags["data_dir"],
        weights=str(flags["weights"]),
        device=device,
        seed=flags["seed"],
        batches=[1],
        pixels=options.pixels_of(flags, task),
        take=options.take_of(flags),
    )
    (group,) = candidates.prepare(
        plan, environment.describe(device), lambda text: click.echo(streams.printable(text), err=True)
    )
    trained = [(candidate, model) for candidate, model in group.live() if candidate.own is not None]
    lost = [f"{one.method.label}: {'; '.join(one.notes)}." for one in group.candidates if one.status != "ok"]
    if not trained:
        raise UsageError(
            lost[0] if lost else f"None of the methods has weights trained for {task.name}; give --weights of a run."
        )
    for reason in lost:
        click.echo(streams.printable(reason), err=True)
    for candidate, model in trained:
        found = group.plan.task.scenes(model, group.data, group.backbone, flags["limit"] or SHOWN, device)
        folder = flags["output"] if len(trained) == 1 else flags["output"] / scenes.plain(candidate.method.label)
        for file in scenes.write(candidate.method.label, list(found), folder, flags["kind"]):
            click.echo(file)
