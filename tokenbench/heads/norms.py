"""BatchNorm of a backbone's stem, in training with few images: three ways to have it."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def hold(body: nn.Module, how: str) -> None:
    """Keep BatchNorm's statistics and scales as they are where `how` is "frozen"; else leave the module alone."""
    if how != "frozen":
        return
    for module in body.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad_(False)
