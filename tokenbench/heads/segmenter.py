"""Semantic segmentation: a class a pixel, by UPerNet (arXiv 1807.10221) or a light head, on a backbone's four maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from tokenbench.errors import Unsupported
from tokenbench.heads.norms import hold

IGNORED = 255  # the label of pixels that are neither learned nor scored
POOLS = (1, 2, 3, 6)
DIVISOR = 32  # pixels, which images are padded to
AUX_WIDTH = 256

Size = tuple[int, int]


@dataclass(frozen=True)
class Design:
    """Which segmenter; the defaults are those published for Swin."""

    head: Literal["upernet", "light"] = "upernet"
    width: int = 512
    dropout: float = 0.1
    auxiliary: float = 0.4
    norm: Literal["frozen", "train", "sync"] = "train"


def _conv(inside: int, outside: int, side: int) -> nn.Module:
    """Convolution without bias, BatchNorm and ReLU."""
    module: nn.Module = Conv2dNormActivation(inside, outside, side)
    return module


def _resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class UPerNet(nn.Module):
    """Pyramid pooling on the coarsest map, a top-down path, and all levels fused at the finest.

    Args:
        widths: of the four maps, finest first.
        width: of everything inside.
    """

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        *finer, coarsest = widths
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), _conv(coarsest, width, 1)) for side in POOLS
        )
        self.pooled = _conv(coarsest + len(POOLS) * width, width, 3)
        self.laterals = nn.ModuleList(_conv(inside, width, 1) for inside in finer)
        self.outs = nn.ModuleList(_conv(width, width, 3) for _ in finer)
        self.fused = _conv(len(widths) * width, width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, width, rows, columns) of the finest map; raises `Unsupported` in training on one image."""
        *finer, coarsest = maps
        shared = any(isinstance(module, nn.SyncBatchNorm) for module in self.pools.modules())
        if self.training and len(coarsest) == 1 and not shared:
            raise Unsupported(
                "UPerNet cannot learn from one image at a time, which pooled to one pixel gives BatchNorm a single "
                "value; give a --batch-size of 2 or more, or --task segmentation[head=light]."
            )
        pools = [_resized(pool(coarsest), coarsest.shape[2:]) for pool in self.pools]
        levels = [lateral(level) for lateral, level in zip(self.laterals, finer, strict=True)]
        levels.append(self.pooled(torch.cat([coarsest, *pools], dim=1)))
        for i in range(len(levels) - 1, 0, -1):
            levels[i - 1] = levels[i - 1] + _resized(levels[i], levels[i - 1].shape[2:])
        found = [out(level) for out, level in zip(self.outs, levels, strict=False)] + levels[-1:]
        together: Tensor = self.fused(torch.cat([_resized(level, levels[0].shape[2:]) for level in found], dim=1))
        return together


class Light(nn.Module):
    """All levels projected, brought to the finest, added, and mixed by one convolution, as Panoptic FPN's head is."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_conv(inside, width, 1) for inside in widths)
        self.fused = _conv(width, width, 3)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, width, rows, columns) of the finest map."""
        levels = [lateral(level) for lateral, level in zip(self.laterals, maps, strict=True)]
        total = torch.stack([_resized(level, levels[0].shape[2:]) for level in levels]).sum(dim=0)
        together: Tensor = self.fused(total)
        return together


class Segmenter(nn.Module):
    """A head on any backbone that gives maps of strides 4, 8, 16 and 32.

    Args:
        body: images (B, 3, H, W) to four maps by level, finest first, with their widths as `out_channels`.
        classes: kinds of pixels.
        design: its parts.
    """

    def __init__(self, body: nn.Module, classes: int, design: Design) -> None:
        super().__init__()
        widths: list[int] = list(body.out_channels)  # type: ignore[arg-type]
        self.body, self.design = body, design
        self.decoder = (UPerNet if design.head == "upernet" else Light)(widths, design.width)
        self.classify = nn.Sequential(nn.Dropout2d(design.dropout), nn.Conv2d(design.width, classes, 1))
        self.auxiliary: nn.Module | None = None
        if design.auxiliary:
            self.auxiliary = nn.Sequential(
                _conv(widths[2], AUX_WIDTH, 3), nn.Dropout2d(design.dropout), nn.Conv2d(AUX_WIDTH, classes, 1)
            )
        hold(body, design.norm)

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """Where costs and time go; what is in neither is bringing logits to the size of the image."""
        return [("backbone", self.body), ("heads", self.decoder), ("heads", self.classify)]

    def train(self, mode: bool = True) -> Segmenter:
        """As torch does, but norms that are frozen stay as they are."""
        super().train(mode)
        hold(self.body, self.design.norm)
        return self

    def synchronise(self) -> Segmenter:
        """BatchNorm over all processes: in the heads, and in the body where the design says so."""
        for name, child in list(self.named_children()):
            if name != "body" or self.design.norm == "sync":
                setattr(self, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Any:
        """Logits (B, classes, H, W) of normalised images (B, 3, H, W); with `labels` (B, H, W) the losses by name."""
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % DIVISOR, 0, -height % DIVISOR))
        maps: list[Tensor] = list(self.body(images).values())
        logits = self.classify(self.decoder(maps))
        if labels is None:
            return _resized(logits, images.shape[2:])[:, :, :height, :width].float()
        losses = {"pixels": _loss(logits, images, labels)}
        if self.auxiliary is not None:
            losses["auxiliary"] = self.design.auxiliary * _loss(self.auxiliary(maps[2]), images, labels)
        return losses


def _loss(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the size of the labels, the mean over pixels that count; 0 where none does."""
    full = _resized(logits, images.shape[2:])[:, :, : labels.shape[1], : labels.shape[2]].float()
    total = F.cross_entropy(full, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def slid(model: Any, images: Tensor, crop: int, stride: int) -> Tensor:
    """Logits (B, classes, H, W) by windows of `crop` pixels a side, `stride` apart, means where they overlap."""
    height, width = images.shape[2:]
    total: Any = None
    seen = images.new_zeros(1, 1, height, width)
    for top in _starts(height, crop, stride):
        for left in _starts(width, crop, stride):
            rows, cols = slice(top, top + crop), slice(left, left + crop)
            found = model(images[:, :, rows, cols])
            total = found.new_zeros(len(images), found.shape[1], height, width) if total is None else total
            total[:, :, rows, cols] += found
            seen[:, :, rows, cols] += 1
    mean: Tensor = total / seen
    return mean


def _starts(length: int, crop: int, stride: int) -> list[int]:
    """Where windows begin, the last one at the end."""
    last = max(0, length - crop)
    return [*range(0, last, stride), last]


def merged(model: Any, images: Tensor, ratios: Sequence[float], flip: bool, slide: int) -> Tensor:
    """Probabilities (B, classes, H, W), the mean over sizes of the image and, with `flip`, its mirror image.

    `slide` is the side of windows that are two thirds of it apart; 0 takes images whole.
    """
    size, total = images.shape[2:], []
    for ratio in ratios:
        resized = images if ratio == 1 else _resized(images, [max(1, round(side * ratio)) for side in size])
        for mirrored in (False, True)[: 1 + flip]:
            given = resized.flip(3) if mirrored else resized
            logits = slid(model, given, slide, max(1, 2 * slide // 3)) if slide else model(given)
            logits = logits.flip(3) if mirrored else logits
            total.append(_resized(logits, size).softmax(dim=1) if logits.shape[2:] != size else logits.softmax(dim=1))
    return torch.stack(total).mean(dim=0)
