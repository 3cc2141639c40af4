"""`tokenbench list`, `show` and `env`."""

from __future__ import annotations

import click

from tokenbench.cli import options


@click.command("list")
@click.option("--backbones", "what", flag_value="backbones", help="Backbones instead of methods.")
@click.option("--tasks", "what", flag_value="tasks", help="Tasks instead of methods.")
@options.plugin
def list_(what: str | None) -> None:
    """Methods, tasks, or backbones and their short names."""
    from tokenbench.cli import catalogue

    {"backbones": catalogue.print_backbones, "tasks": catalogue.print_tasks}.get(str(what), catalogue.print_methods)()


@click.command()
@click.argument("name")
@options.plugin
def show(name: str) -> None:
    """A method: its paper, its knobs, what it reported; or a task: its data and metrics."""
    from tokenbench import tasks
    from tokenbench.cli import catalogue

    catalogue.print_task(name) if name in tasks.all_tasks() else catalogue.print_method(name)


@click.command()
@options.device
def env(device: str) -> None:
    """The hardware and versions that rows are stamped with."""
    from tokenbench.cli import screen
    from tokenbench.runs import environment

    screen.print_environment(environment.describe(options.device_of(device)))
