"""`tokenbench trace`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from tokenbench.cli import options, streams


@click.command()
@options.methods
@options.backbone
@click.option("--images", type=click.Path(path_type=Path), multiple=True, help="A file or folder; may be repeated.")
@options.weights
@options.taking
@options.image_size
@options.pixels
@options.limit
@options.device
@options.seed
@click.option("--format", "kind", type=click.Choice(["png", "svg", "pdf"]), default="png", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports/maps"), show_default=True)
@options.verbose
@options.plugin
def trace(**flags: Any) -> None:
    """Draw which patches each method keeps and merges, with numbers, and a page to play with (maps.html).

    Without --images: the photographs that ship, or for deit_nano some of Fashion-MNIST.
    """
    from tokenbench.cli import screen
    from tokenbench.maps import following as tracing
    from tokenbench.methods.sweep import parse
    from tokenbench.reports.maps import traces

    with redirect_stdout(sys.stderr):  # what a plug-in prints
        maps = tracing.trace_all(
            parse(flags["methods"]),
            flags["backbone"],
            flags["images"],
            weights=str(flags["weights"]),
            seed=flags["seed"],
            image_size=options.size_of(flags["image_size"]),
            device=options.device_of(flags["device"]),
            limit=flags["limit"],
            pixels=options.pixels_of(flags),
            take=options.take_of(flags),
            say=lambda text: click.echo(streams.printable(text), err=True),
        )
    for file in traces.write(maps, flags["output"], flags["kind"]):
        click.echo(file)
    screen.print_maps(maps)
