"""What goes with an exported model: what it is, how images are brought to it, and what it was checked against.

It lies in the file and, as JSON, beside it.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from timm.data.transforms_factory import create_transform

from tokenbench.backbones import Backbone
from tokenbench.data.loading import resolve
from tokenbench.errors import WeightsError

KEY = "tokenbench"  # under which the header lies in a file
Format = Literal["onnx", "pt2", "torchscript"]


class Preprocessing(BaseModel):
    """How an image becomes input, in this order: resize, crop of the middle, division by 255, mean and std.

    `resize` is the length of the shorter side, or height and width: with `crop_mode` "center" the image covers them,
    with "border" it fits into them, with "squash" it is as large.
    """

    model_config = ConfigDict(frozen=True)

    channels: Literal["RGB", "L"]
    resize: int | tuple[int, int]
    interpolation: str
    crop_mode: str
    crop: tuple[int, int]  # height and width
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Header(BaseModel):
    """What an exported model is."""

    model_config = ConfigDict(frozen=True)

    method: str
    setting: dict[str, Any]
    label: str
    backbone: str
    weights: dict[str, str | None]  # as in rows: those that it ran on
    format: Format
    input: str = "images"  # (batch, channels, height, width) float32, its name where the format has names
    output: str = "logits"  # (batch, classes) float32
    shape: tuple[int, int, int]  # of one image
    classes: int
    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing
    pixels: dict[str, Any] = {}  # of it, what is other than the backbone's own: mean, std, crop_pct, interpolation
    note: str | None = None  # what must be known to use it
    versions: dict[str, str | None]


def preprocessing(backbone: Backbone) -> Preprocessing:
    """What timm's evaluation transform does for a backbone, in numbers."""
    config = resolve(backbone.config)
    steps = create_transform(**config, is_training=False).transforms
    size = next(step.size for step in steps if "Resize" in type(step).__name__)
    return Preprocessing(
        channels="L" if config["input_size"][0] == 1 else "RGB",
        resize=size if isinstance(size, int) else tuple(size),
        interpolation=config["interpolation"],
        crop_mode=config["crop_mode"],
        crop=config["input_size"][1:],
        mean=config["mean"],
        std=config["std"],
    )


def read(text: str | bytes | None, path: Path) -> Header:
    """The header that a file holds; raises `WeightsError` where there is none of ours."""
    try:
        return Header.model_validate_json(text or "")
    except ValidationError:
        raise WeightsError(f"{path} was not written by `tokenbench export`; give a file that was.") from None


def beside(path: Path) -> Path:
    """Where the JSON of an exported file lies: model.onnx.json."""
    return path.with_name(f"{path.name}.json")


def versions(*packages: str) -> dict[str, str | None]:
    """Of what makes a file; None of what is not installed."""
    found: dict[str, str | None] = dict.fromkeys(("tokenbench", "torch", "timm", *packages))
    for package in found:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
