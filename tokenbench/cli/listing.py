"""`tokenbench list`, `show` and `env`."""

from __future__ import annotations

import click

from tokenbench.cli import options


@click.command("list")
@click.option("--backbones", is_flag=True, help="Backbones instead of methods.")
@options.plugin
def list_(backbones: bool) -> None:
    """Methods, or backbones and their short names."""
    from tokenbench.cli import screen

    screen.print_backbones() if backbones else screen.print_methods()


@click.command()
@click.argument("method")
@options.plugin
def show(method: str) -> None:
    """A method: its paper, its knobs, what it reported."""
    from tokenbench.cli import screen

    screen.print_method(method)


@click.command()
@options.device
def env(device: str) -> None:
    """The hardware and versions that rows are stamped with."""
    from tokenbench.cli import screen
    from tokenbench.runs import environment

    screen.print_environment(environment.describe(options.device_of(device)))
