"""One call from names to a model."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.errors import UsageError, WeightsError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.model import Model
from tokenbench.shipping.hub import Pretrained
from tokenbench.weights import models


def build(
    method: str,
    backbone: str | nn.Module,
    *,
    pretrained: bool | None = None,
    weights: str = "auto",
    seed: int = 0,
    **knobs: Any,
) -> Model:
    """A model from images (B, channels, H, W) to logits (B, classes), in eval mode.

    It has `save_pretrained`, `from_pretrained` and `push_to_hub`; see `tokenbench.shipping.hub.Pretrained`.

    Args:
        method: a name that `tokenbench list` shows.
        backbone: a short name (`deit_s`), any timm name, or a timm model of your own, which keeps its weights.
        pretrained: as timm's: True for weights that ship or are the hub's, or an error; False for random ones.
        weights: for names: "auto" (shipped with the method or without, hub, else random with a warning), "dense",
            "random", or a file.
        seed: for random weights, and for those that the method brings itself.
        knobs: the method's, as `tokenbench show METHOD` lists them.

    Raises:
        UsageError: an unknown name, a knob out of range, or a method that cannot run on this backbone.
        WeightsError: a weights file that does not fit.
    """
    setting = make(get(method), knobs)
    if pretrained is not None and weights != "auto":
        raise UsageError(f"pretrained={pretrained} and weights={weights!r} both say which weights; give one of them.")
    weights = "random" if pretrained is False else weights
    if isinstance(backbone, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _said(Pretrained(Backbone(backbone), setting).eval())
    model, found = models.made(setting, backbone, weights, seed, kind=Pretrained)
    if pretrained and found.kind == "random":
        raise WeightsError(f"There are {found.note}; give a file of them as weights.")
    if found.note:
        warnings.warn(found.note, stacklevel=2)
    return _said(model)


def _said(model: Model) -> Model:
    caveat = model.method.caveat(model.backbone)
    if caveat:
        warnings.warn(f"{model.method.label} on {model.backbone.name}: {caveat}", stacklevel=3)
    return model
