"""The neck of a simple feature pyramid: each level for itself, as in ViTDet (arXiv 2203.16527)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class LevelNeck(nn.Module):
    """Convolutions of 1x1 and 3x3 at each level, each normed over channels, and a fifth level by pooling.

    Args:
        widths: of the maps.
        width: of what comes of them.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(inside, width, 1, bias=False), LayerNorm2d(width)),
                *(nn.Conv2d(width, width, 3, padding=1, bias=False), LayerNorm2d(width)),
            )
            for inside in widths
        )

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        """Maps (B, width, rows, columns) by level, the last called "pool"."""
        found: dict[str, Tensor] = OrderedDict()
        for (name, level), conv in zip(maps.items(), self.levels, strict=True):
            found[name] = conv(level)
        found["pool"] = F.max_pool2d(found[name], 1, 2)
        return found
