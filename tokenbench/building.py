"""One call from names to a model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.model import Model
from tokenbench.weights import sources


def build(method: str, backbone: str | nn.Module, *, weights: str = "auto", seed: int = 0, **knobs: Any) -> Model:
    """A model from images (B, channels, H, W) to logits (B, classes), in eval mode.

    Args:
        method: a name that `tokenbench list` shows.
        backbone: a short name (`deit_s`), any timm name, or a timm model of your own, which keeps its weights.
        weights: for names: "auto" (shipped with the method or without, hub, else random with a warning), "dense",
            "random", or a file.
        seed: for random weights, and for those that the method brings itself.
        knobs: the method's, as `tokenbench show METHOD` lists them.

    Raises:
        UsageError: an unknown name, a knob out of range, or a method that cannot run on this backbone.
        WeightsError: a weights file that does not fit.
    """
    setting = make(get(method), knobs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(backbone, nn.Module):
            return _said(Model(Backbone(backbone), setting).eval())
        given = sources.find(weights, backbone)
        adapted = given.create(backbone)
        own = given.trained(setting, backbone)
        if own is None and weights not in sources.WORDS and given.dense == "auto":
            raise WeightsError(
                f"{weights} has no weights for {setting.label} on {backbone}; give the setting it was trained for, or "
                "weights of the dense model."
            )
        if own is None:
            note = given.load(adapted, seed).note
            if note:
                warnings.warn(note, stacklevel=2)
        return _said(sources.model(setting, adapted, own)[0])


def _said(model: Model) -> Model:
    caveat = model.method.caveat(model.backbone)
    if caveat:
        warnings.warn(f"{model.method.label} on {model.backbone.name}: {caveat}", stacklevel=3)
    return model
