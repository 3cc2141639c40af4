"""`tokenbench export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from tokenbench.cli import options, streams
from tokenbench.errors import UsageError

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "torchscript": ".pt"}


@click.command()
@click.option("--method", required=True, help='One setting: "evit[keep_rate=0.7]".')
@options.backbone
@options.weights
@options.taking
@click.option("--format", "format_", type=click.Choice(list(FORMATS)), help="[default: as --output ends, else onnx]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="[default: BACKBONE-METHOD.onnx]")
@click.option("--force", is_flag=True, help="Replace what is there.")
@options.image_size
@options.pixels
@options.seed
@options.verbose
@options.plugin
def export(**flags: Any) -> None:
    """A model as a file that runs elsewhere, on batches of any size, with its preprocessing beside it.

    Its logits are compared with the model's at other batch sizes before it takes its place.
    """
    from tokenbench.methods.sweep import parse
    from tokenbench.shipping import exporting, formats
    from tokenbench.shipping.header import beside
    from tokenbench.weights import models

    settings = parse(flags["method"])
    if len(settings) != 1:
        raise UsageError(f"--method {flags['method']} is {len(settings)} settings; give one.")
    (setting,) = settings
    given = flags["output"]
    by_suffix = next((name for name, suffix in FORMATS.items() if given and given.suffix == suffix), "onnx")
    kind: Any = flags["format_"] or by_suffix
    if given and given.suffix in FORMATS.values() and given.suffix != FORMATS[kind]:
        raise UsageError(f"{given} is no name for --format {kind}; end it in {FORMATS[kind]}, or leave the format out.")
    out = given or Path(f"{flags['backbone'].replace(os.sep, '-')}-{setting.name}{FORMATS[kind]}")
    exporting.check_target(out, flags["force"])
    formats.check_installed(kind)
    model, weights = models.made(
        setting,
        flags["backbone"],
        str(flags["weights"]),
        flags["seed"],
        options.take_of(flags),
        options.size_of(flags["image_size"]),
        options.pixels_of(flags),
    )
    for note in filter(None, (weights.note,)):
        click.echo(streams.printable(f"{note[0].upper()}{note[1:]}."), err=True)
    done = exporting.export(model, weights, out, kind, flags["force"])
    if done.header.note:
        click.echo(streams.printable(f"{setting.label}: {done.header.note}."), err=True)
    sizes = " and ".join(map(str, exporting.CHECKED))
    click.echo(f"Logits are within {done.apart:.1g} of the largest of the model's, at batches of {sizes}.")
    click.echo(f"Written: {out}, {beside(out).name}")
