"""tokenbench: token sparsification for vision transformers, under one interface on timm, measured honestly.

    import tokenbench
    model = tokenbench.build("evit", "deit_s", keep_rate=0.7)   # images to logits, an nn.Module
    model.run(images, trace=True).trace[-1].share               # which patch went where
    tokenbench.Pyramid(tokenbench.build("stvit_r", "swin_s"))   # images of any size to four feature maps
    maps = tokenbench.trace("evit", "deit_s", ["dog.jpg"])      # the same as numpy arrays, with numbers
    table = tokenbench.run(methods="tome,evit", data_dir="val")  # measured, as a table of pandas
    tokenbench.choose(table, max_drop=1.0)                      # which to use; report, compare and train likewise

Names are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("tokenbench")
except PackageNotFoundError:
    __version__ = "0+unknown"

_PUBLIC = {
    "Attn": "core.attention",
    "Backbone": "backbones",
    "Method": "methods.base",
    "Model": "model",
    "Output": "model",
    "Paper": "methods.base",
    "Pretrained": "shipping.hub",
    "Pyramid": "pyramid",
    "Reducer": "core.block",
    "Reported": "methods.base",
    "TokenMaps": "maps.arrays",
    "Tokens": "core.tokens",
    "build": "building",
    "choose": "api",
    "compare": "api",
    "report": "api",
    "run": "api",
    "trace": "maps.following",
    "train": "api",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tokenbench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"tokenbench.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
