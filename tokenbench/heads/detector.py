"""Detectors: a backbone's maps, a feature pyramid network, proposals, and heads for boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from tokenbench.heads.cascade import IOUS, STDS, CascadeHeads, Stage
from tokenbench.heads.neck import LevelNeck
from tokenbench.heads.norms import hold
from tokenbench.heads.pasting import pasted
from tokenbench.heads.regions import BoxPredictor, MaskPredictor, Pool, Sampling, imaged, proposals

DIVISOR = 32  # pixels, which images are padded to
POSITIVE = 0.25  # of the boxes that heads learn from
WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # one over the deviation of box deltas
COUNTED = (1000, 100)  # boxes and masks of the printed costs

Size = tuple[int, int]


@dataclass(frozen=True)
class Design:
    """Which detector; the defaults are those published for Swin."""

    head: Literal["mask", "cascade"] = "cascade"
    masks: bool = True
    width: int = 256
    box_convs: int = 4
    fc: int = 1024
    mask_convs: int = 4
    anchor: float = 32.0
    samples: int = 0
    before: int = 1000
    after: int = 1000
    min_score: float = 0.05
    nms: float = 0.5
    cap: int = 100
    norm: Literal["frozen", "train", "sync"] = "train"


class Detector(nn.Module):
    """A detector of torchvision's parts on any backbone that gives maps of strides 4, 8, 16 and 32.

    Args:
        body: images (B, 3, H, W) to four maps by level, finest first, with their widths as `out_channels`.
        classes: kinds of objects, background not among them.
        design: its parts.
        sampling: what it learns from.
    """

    def __init__(self, body: nn.Module, classes: int, design: Design, sampling: Sampling | None = None) -> None:
        super().__init__()
        sampling = sampling or Sampling()
        self.body, self.design = body, design
        widths: list[int] = list(body.out_channels)  # type: ignore[arg-type]
        plain = not getattr(body, "topdown", True)
        self.neck: nn.Module = (
            LevelNeck(widths, design.width)
            if plain
            else FeaturePyramidNetwork(widths, design.width, extra_blocks=LastLevelMaxPool())
        )
        self.rpn = proposals(design.width, design.anchor, design.before, design.after, sampling)
        self.heads: nn.Module = _heads(design, classes + 1, sampling)
        hold(body, design.norm)

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """Where costs and time go; what is in none of them is post-processing."""
        stages = self.heads.stages if isinstance(self.heads, CascadeHeads) else [self.heads]
        inner = ("box_roi_pool", "box_head", "box_predictor", "mask_roi_pool", "mask_head", "mask_predictor")
        found = [getattr(stage, name) for stage in stages for name in inner]
        return [
            ("backbone", self.body),
            ("neck", self.neck),
            ("rpn", self.rpn),
            *(("heads", module) for module in found if module is not None),
        ]

    def train(self, mode: bool = True) -> Detector:
        """As torch does, but norms that are frozen stay as they are."""
        super().train(mode)
        hold(self.body, self.design.norm)
        return self

    def synchronise(self) -> Detector:
        """BatchNorm over all processes: in the heads, and in the body where the design says so."""
        self.heads = nn.SyncBatchNorm.convert_sync_batchnorm(self.heads)
        if self.design.norm == "sync":
            self.body = nn.SyncBatchNorm.convert_sync_batchnorm(self.body)
        return self

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The five maps (B, width, rows, columns) by level."""
        found: dict[str, Tensor] = self.neck(self.body(images))
        return found

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[Size] | None = None,
        targets: Sequence[dict[str, Tensor]] | None = None,
        originals: Sequence[Size] | None = None,
    ) -> Any:
        """Losses in training, by their names; in test what is found in each image.

        Args:
            images: (B, 3, H, W), normalised, each padded below and to the right.
            sizes: height and width of each without the padding; the whole if None.
            targets: in training `boxes` (N, 4) as x1, y1, x2, y2 in pixels, `labels` (N,) from 1, `masks` (N, H, W).
            originals: heights and widths to give boxes and masks in; `sizes` if None.

        Returns:
            In test a dict an image: `boxes` (N, 4), `labels` and `scores` (N,), best first, `masks` (N, H, W), bool.
        """
        sizes = list(sizes) if sizes is not None else [(images.shape[2], images.shape[3])] * len(images)
        images = F.pad(images, (0, -images.shape[3] % DIVISOR, 0, -images.shape[2] % DIVISOR))
        maps = self.maps(images)
        boxes, losses = self.rpn(imaged(images, sizes), maps, targets)
        found, more = self.heads(maps, boxes, sizes, targets)
        if self.training:
            return {name.removeprefix("loss_"): value for name, value in {**losses, **more}.items()}
        return [_at(result, *pair) for result, *pair in zip(found, sizes, originals or sizes, strict=True)]


class Counted(nn.Module):
    """A detector as the printed costs have it: 1000 boxes through each box head, and 100 through each mask head."""

    detector: Detector

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """As the detector's, but of the proposals the network only."""
        own = self.detector
        return [(name, own.rpn.head if name == "rpn" else part) for name, part in own.parts]

    @property
    def blocks(self) -> Any:
        """The backbone's."""
        return self.detector.body.blocks

    def forward(self, images: Tensor) -> list[Tensor]:
        """All that the heads say of empty features: RoIAlign has no matmul or convolution to count."""
        maps = self.detector.maps(images)
        objectness, deltas = self.detector.rpn.head(list(maps.values()))
        found, heads = [*objectness, *deltas], self.detector.heads
        boxes, masks = (
            maps["0"].new_zeros(n, maps["0"].shape[1], side, side) for n, side in zip(COUNTED, (7, 14), strict=True)
        )
        for stage in heads.stages if isinstance(heads, CascadeHeads) else [heads]:
            each: Any = stage
            found += each.box_predictor(each.box_head(boxes))
            if each.has_mask():
                found.append(each.mask_predictor(each.mask_head(masks)))
        return found


def _heads(design: Design, classes: int, sampling: Sampling) -> nn.Module:
    shared = (sampling.regions, POSITIVE)
    test = (design.min_score, design.nms, design.cap)

    def masks() -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
        if not design.masks:
            return None, None, None
        head = MaskRCNNHeads(design.width, [design.width] * design.mask_convs, 1)
        return Pool(14, design.samples), head, MaskPredictor(design.width, design.width, classes)

    if design.head == "mask":
        head = TwoMLPHead(design.width * 49, design.fc)
        box = (Pool(7, design.samples), head, BoxPredictor(design.fc, classes))
        heads: nn.Module = RoIHeads(*box, 0.5, 0.5, *shared, WEIGHTS, *test, *masks())
        return heads
    stages = []
    for iou, stds in zip(IOUS, STDS, strict=True):
        head = FastRCNNConvFCHead((design.width, 7, 7), [design.width] * design.box_convs, [design.fc], nn.BatchNorm2d)
        box = (Pool(7, design.samples), head, BoxPredictor(design.fc, classes))
        stages.append(Stage(*box, iou, iou, *shared, tuple(1 / std for std in stds), *test, *masks()))
    return CascadeHeads(stages)


def _at(found: Mapping[str, Tensor], size: Size, original: Size) -> dict[str, Tensor]:
    """What was found, at another size of the image, with masks on its pixels."""
    scale = found["boxes"].new_tensor([original[1] / size[1], original[0] / size[0]] * 2)
    made = {**found, "boxes": found["boxes"] * scale}
    if "masks" in found:
        made["masks"] = pasted(found["masks"], made["boxes"], original)
    return made


def empty(size: Size) -> dict[str, Tensor]:
    """The target of an image without objects."""
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, *size, dtype=torch.uint8),
    }
