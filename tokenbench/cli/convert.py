"""`tokenbench convert`."""

from __future__ import annotations

from pathlib import Path

import click

from tokenbench.cli import options


@click.command()
@click.argument("source", metavar="IN")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", help='What it is of, where the file does not tell: "evit[keep_rate=0.7]".')
@click.option("--backbone", help="A short or timm name, where the tensors do not tell.")
@options.taking
@click.option("--force", is_flag=True, help="Replace OUT.")
@options.plugin
def convert(
    source: str,
    out: Path,
    method: str | None,
    backbone: str | None,
    ema: bool,
    weights_key: str | None,
    force: bool,
) -> None:
    """A published checkpoint as safetensors with its method and backbone in the header.

    IN is a file (.pth, .pt, .bin, .safetensors) or one on the hub: csncsn/STViT-R/STViT-R-Swin-S.pth.
    """
    from tokenbench.weights import detectors, published

    detector = detectors.reading(source)
    if detector is not None:
        header = detectors.write(detector, Path(source), out, backbone, force)
        click.echo(f"Read {source}: {header['task_setting']['head']} detector of {header['classes']} classes, ")
        click.echo(f"{header['method']} on {header['backbone']}, mmdetection's names.\nWritten: {out}")
        return
    found = published.convert(source, out, method, backbone, ema, force, weights_key)
    height, width = found.image_size
    click.echo(f"Read {found.source} (sha256 {found.hash}): {found.method.label} on {found.backbone}, {found.layout}.")
    click.echo(f"{found.parameters:,} parameters, {found.classes} classes, images of {height}x{width}.")
    for sentence in found.assumed:
        click.echo(f"Assumed: {sentence}.")
    click.echo(f"Written: {out}")
