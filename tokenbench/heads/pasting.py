"""Masks of objects, from small squares to the pixels of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, paste_masks_in_image

BORDER = 1  # zeros around a mask, so that it ends softly
AT_ONCE = 2**25  # pixels

Size = tuple[int, int]


def pasted(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Pixels (N, H, W) of an image that are an object's, of masks (N, 1, side, side) and boxes (N, 4).

    torchvision goes from box to box, which a GPU has to be waited for at each; there, many are pasted at once.
    """
    if masks.device.type == "cpu":
        found: Tensor = paste_masks_in_image(masks, boxes, size, BORDER)[:, 0] > 0.5
        return found
    return together(masks, boxes, size)


def together(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """As `pasted`, many masks at a time."""
    side = masks.shape[-1]
    whole = expand_boxes(boxes, (side + 2 * BORDER) / side).to(torch.int64)
    many = max(1, AT_ONCE // (size[0] * size[1]))
    made = [
        _few(F.pad(few, (BORDER,) * 4), own, size)
        for few, own in zip(masks.split(many), whole.split(many), strict=True)
    ]
    return torch.cat(made) if made else masks.new_zeros(0, *size, dtype=torch.bool)


def _few(masks: Tensor, boxes: Tensor, size: Size) -> Tensor:
    (rows, tall), (cols, wide) = (_along(boxes[:, 1 - i], boxes[:, 3 - i], size[i]) for i in range(2))
    grid = torch.stack(torch.broadcast_tensors(cols[:, None, :], rows[:, :, None]), dim=3)
    found = F.grid_sample(masks, grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    inside: Tensor = (found > 0.5) & tall[:, :, None] & wide[:, None, :]
    return inside


def _along(first: Tensor, last: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Where each pixel (N, length) lies in a box along one axis, from -1 to 1, and whether it does."""
    side = (last - first + 1).clamp(min=1)[:, None]
    at = torch.arange(length, device=first.device) - first[:, None]
    return 2 * (at + 0.5) / side - 1, (at >= 0) & (at < side)
