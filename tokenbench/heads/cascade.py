"""Cascade heads: three box heads, each on the boxes of the one before, and a mask head beside each.

Cai and Vasconcelos, arXiv 1712.00726, with the losses of Swin's recipe. Of torchvision's `RoIHeads`, one a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import boxes as box_ops
from torchvision.ops import generalized_box_iou_loss

IOUS = (0.5, 0.6, 0.7)  # from which on a box is of an object, by stage
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))  # of box deltas
WEIGHTS = (1.0, 0.5, 0.25)  # of the losses
GIOU = 10.0  # weight of the box loss

Boxes = list[Tensor]  # (N, 4) of each image
Targets = Sequence[dict[str, Tensor]]


class Stage(RoIHeads):  # type: ignore[misc]  # torchvision is not typed
    """The heads of one stage: matching, sampling and coding are torchvision's."""

    def sample(self, proposals: Boxes, targets: Targets) -> tuple[Boxes, Boxes, Boxes, Boxes]:
        """Boxes to learn from, ground truth among them; of each the object it is matched with, its label (0 is none),
        and whether it is ground truth itself.
        """
        self.check_targets(targets)
        truth = [t["boxes"].to(p) for t, p in zip(targets, proposals, strict=True)]
        counts = [len(p) for p in proposals]
        every = self.add_gt_proposals(proposals, truth)
        matched, labels = self.assign_targets_to_proposals(every, truth, [t["labels"] for t in targets])
        chosen = self.subsample(labels)
        return (
            [boxes[i] for boxes, i in zip(every, chosen, strict=True)],
            [index[i] for index, i in zip(matched, chosen, strict=True)],
            [label[i] for label, i in zip(labels, chosen, strict=True)],
            [i >= count for count, i in zip(counts, chosen, strict=True)],
        )

    def boxes(self, maps: dict[str, Tensor], proposals: Boxes, shapes: Any) -> tuple[Tensor, Tensor]:
        """Class logits and deltas of boxes, those of all images in a row."""
        found: tuple[Tensor, Tensor] = self.box_predictor(self.box_head(self.box_roi_pool(maps, proposals, shapes)))
        return found

    def masks(self, maps: dict[str, Tensor], boxes: Boxes, shapes: Any) -> Tensor:
        """Mask logits of boxes."""
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes, shapes)))
        return logits

    def moved(self, proposals: Boxes, deltas: Tensor, labels: Tensor, shapes: Any) -> Boxes:
        """Each box decoded with the deltas of its class, held to its image, and without gradient."""
        every = self.box_coder.decode_single(deltas.detach(), torch.cat(proposals)).unflatten(1, (-1, 4))
        own = every[torch.arange(len(labels), device=labels.device), labels]
        split = own.split([len(p) for p in proposals])
        return [box_ops.clip_boxes_to_image(boxes, shape) for boxes, shape in zip(split, shapes, strict=True)]

    def loss_boxes(self, deltas: Tensor, proposals: Boxes, labels: Tensor, truth: Tensor) -> Tensor:
        """GIoU of the decoded boxes of objects, in sum, over the number of boxes sampled."""
        (objects,) = torch.where(labels > 0)
        every = torch.cat(proposals)
        own = deltas.unflatten(1, (-1, 4))[objects, labels[objects]]
        decoded = self.box_coder.decode_single(own, every[objects]).reshape(-1, 4)
        loss: Tensor = generalized_box_iou_loss(decoded, truth[objects], reduction="sum")
        return GIOU * loss / max(1, len(labels))


class CascadeHeads(nn.Module):
    """Three stages in a row; in test their logits are averaged, each of its own boxes, and so are their masks.

    Args:
        stages: of which the last suppresses and caps.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(
        self, maps: dict[str, Tensor], proposals: Boxes, shapes: Sequence[tuple[int, int]], targets: Targets | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As `RoIHeads`: detections in test, losses in training."""
        if self.training:
            return [], self._losses(maps, proposals, shapes, targets or ())
        return self._detections(maps, proposals, shapes), {}

    def _losses(self, maps: dict[str, Tensor], proposals: Boxes, shapes: Any, targets: Targets) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for i, stage in enumerate(self._all()):
            own, matched, kinds, added = stage.sample(proposals, targets)
            logits, deltas = stage.boxes(maps, own, shapes)
            labels = torch.cat(kinds)
            truth = torch.cat([_of(t["boxes"], m).to(deltas) for t, m in zip(targets, matched, strict=True)])
            losses[f"class{i}"] = WEIGHTS[i] * F.cross_entropy(logits, labels)
            losses[f"box{i}"] = WEIGHTS[i] * stage.loss_boxes(deltas, own, labels, truth)
            if stage.has_mask():
                positive = [kind > 0 for kind in kinds]
                logits_of_masks = stage.masks(maps, [b[p] for b, p in zip(own, positive, strict=True)], shapes)
                losses[f"mask{i}"] = WEIGHTS[i] * maskrcnn_loss(
                    logits_of_masks,
                    [b[p] for b, p in zip(own, positive, strict=True)],
                    [t["masks"] for t in targets],
                    [t["labels"] for t in targets],
                    [m[p] for m, p in zip(matched, positive, strict=True)],
                )
            best = torch.where(labels > 0, labels, _foreground(logits))
            moved = stage.moved(own, deltas, best, shapes)
            proposals = [boxes[~gone] for boxes, gone in zip(moved, added, strict=True)]
        return losses

    def _detections(self, maps: dict[str, Tensor], proposals: Boxes, shapes: Any) -> list[dict[str, Tensor]]:
        *before, last = self._all()
        total: Tensor | float = 0.0
        for stage in before:
            logits, deltas = stage.boxes(maps, proposals, shapes)
            total = total + logits
            proposals = stage.moved(proposals, deltas, _foreground(logits), shapes)
        logits, deltas = last.boxes(maps, proposals, shapes)
        mean = (total + logits) / len(self.stages)
        boxes, scores, labels = last.postprocess_detections(mean, deltas, proposals, shapes)
        found = [{"boxes": b, "labels": k, "scores": s} for b, k, s in zip(boxes, labels, scores, strict=True)]
        if last.has_mask():
            each = [maskrcnn_inference(stage.masks(maps, boxes, shapes), labels) for stage in self._all()]
            for result, *masks in zip(found, *each, strict=True):
                result["masks"] = torch.stack(masks).mean(dim=0)
        return found

    def _all(self) -> list[Stage]:
        return list(self.stages)  # type: ignore[arg-type]


def _foreground(logits: Tensor) -> Tensor:
    """The best class that is not background, which is the first."""
    return logits[:, 1:].argmax(dim=1) + 1


def _of(boxes: Tensor, index: Tensor) -> Tensor:
    """Boxes by index; zeros where an image has none."""
    return boxes[index] if len(boxes) else boxes.new_zeros(len(index), 4)
