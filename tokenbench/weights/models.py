"""A model with its weights, from names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from tokenbench.errors import WeightsError
from tokenbench.methods.base import Method
from tokenbench.model import Model
from tokenbench.weights import checkpoints, sources
from tokenbench.weights.choice import ALL, Take


def made(
    setting: Method,
    backbone: str,
    weights: str = "auto",
    seed: int = 0,
    take: Take = ALL,
    image_size: tuple[int, int] | None = None,
    pixels: Mapping[str, Any] | None = None,
    kind: type[Model] = Model,
) -> tuple[Model, checkpoints.Weights]:
    """The model of a setting, in eval mode, and the weights that it runs on: its own where there are some.

    Args:
        setting: of the method.
        backbone: a short or timm name.
        weights: "auto", "dense", "random", or a file.
        seed: for random weights, and for those that the method brings itself.
        take: which weights, of a file that has several.
        image_size: height and width, if other than the model's own.
        pixels: mean, std, crop_pct and interpolation, where other than the model's own.
        kind: of model.

    Raises:
        UsageError: an unknown backbone, or a method that cannot run on it.
        WeightsError: a weights file that does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        given = sources.find(weights, backbone, take)
        adapted = given.create(backbone, image_size, pixels=pixels)
        adapted.class_names = given.class_names(backbone)
        own = given.trained(setting, backbone)
        if own is None and weights not in sources.WORDS and given.dense == "auto":
            raise WeightsError(
                f"{weights} has no weights for {setting.label} on {backbone}; give the setting it was trained for, or "
                "weights of the dense model."
            )
        dense = None if own else given.load(adapted, seed)
        model, trained = sources.model(setting, adapted, own, kind=kind)
        return model, trained or dense  # type: ignore[return-value]  # one of them is there
