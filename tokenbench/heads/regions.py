"""What detectors share between images and regions: anchors, proposals, and the features of a region.

torchvision's parts, held to 32-bit coordinates under autocast, and to strides that are known rather than guessed from
the sizes of maps, so that images of any size are served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import roi_align

STRIDES = (4, 8, 16, 32, 64)  # of the five maps of a feature pyramid network
RATIOS = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Sampling:
    """What of an image a detector learns from."""

    anchors: int = 256  # of the proposal network, half of them positive
    regions: int = 512  # of each box head, a quarter of them positive
    before: int = 2000  # proposals a level before suppression
    after: int = 2000  # and of an image after it


class Anchors(AnchorGenerator):  # type: ignore[misc]  # torchvision is not typed
    """One anchor size a level, each twice the one before, of three ratios; not rounded, as in mmdetection."""

    def __init__(self, smallest: float) -> None:
        super().__init__(tuple((smallest * 2**i,) for i in range(len(STRIDES))), (RATIOS,) * len(STRIDES))
        sides = torch.tensor([[ratio**-0.5, ratio**0.5] for ratio in RATIOS])  # width, height
        self.cell_anchors = [torch.cat([-sides, sides], dim=1) * smallest * 2**i / 2 for i in range(len(STRIDES))]

    def forward(self, images: ImageList, maps: list[Tensor]) -> list[Tensor]:
        """Anchors (N, 4) of each image, in float32 whatever the maps are in."""
        device = maps[0].device
        self.set_cell_anchors(torch.float32, device)
        strides = [[torch.tensor(stride, device=device)] * 2 for stride in STRIDES]
        every = torch.cat(self.grid_anchors([level.shape[-2:] for level in maps], strides))
        return [every] * len(images.image_sizes)


class ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, with outputs in float32: a box of bfloat16 is eight pixels off at the end of an image."""

    def forward(self, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Objectness and box deltas of each level."""
        objectness, deltas = super().forward(maps)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, with outputs in float32."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (N, classes + 1), background first, and deltas (N, 4 (classes + 1))."""
        logits, deltas = super().forward(x)
        return logits.float(), deltas.float()


class MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's, with outputs in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes + 1, 28, 28)."""
        logits: Tensor = super().forward(x)
        return logits.float()


class Pool(nn.Module):
    """Features (N, C, side, side) of regions by RoIAlign, aligned, as in the published code.

    `samples` along a cell are taken; 0: as many as it has pixels, as published. A region is of level
    floor(log2(sqrt(area) / 56)), held to the four finest (FPN, arXiv 1612.03144, equation 1).
    """

    def __init__(self, side: int, samples: int = 0) -> None:
        super().__init__()
        self.output_size, self.samples = (side, side), samples

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], _: Any = None) -> Tensor:
        """Of the maps by level, and the boxes (N, 4) of each image."""
        levels = list(maps.values())[: len(STRIDES) - 1]
        image = torch.repeat_interleave(
            torch.arange(len(boxes), device=levels[0].device),
            torch.tensor([len(b) for b in boxes], device=levels[0].device),
        )
        every = torch.cat(boxes).float()
        where = torch.cat([image[:, None].float(), every], dim=1)
        areas = (every[:, 2] - every[:, 0]).clamp(min=0) * (every[:, 3] - every[:, 1]).clamp(min=0)
        level = torch.floor(torch.log2(areas.sqrt() / 56 + 1e-6)).clamp(0, len(levels) - 1).long()
        out = levels[0].new_zeros(len(every), levels[0].shape[1], *self.output_size, dtype=torch.float32)
        for i, (features, stride) in enumerate(zip(levels, STRIDES, strict=False)):
            (mine,) = torch.where(level == i)
            found = roi_align(features.float(), where[mine], self.output_size, 1 / stride, self.samples, aligned=True)
            out[mine] = found
        return out


def proposals(width: int, anchor: float, before: int, after: int, sampling: Sampling) -> RegionProposalNetwork:
    """torchvision's proposal network.

    Args:
        width: channels of the maps.
        anchor: side of the smallest anchor, in pixels.
        before: proposals a level before suppression, in test.
        after: and of an image after it.
        sampling: the same in training.
    """
    return RegionProposalNetwork(
        Anchors(anchor),
        ProposalHead(width, len(RATIOS)),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=sampling.anchors,
        positive_fraction=0.5,
        pre_nms_top_n={"training": sampling.before, "testing": before},
        post_nms_top_n={"training": sampling.after, "testing": after},
        nms_thresh=0.7,
    )


def imaged(images: Tensor, sizes: Sequence[tuple[int, int]]) -> ImageList:
    """A batch of padded images (B, C, H, W) with the heights and widths inside the padding, as torchvision has it."""
    return ImageList(images, list(sizes))
