"""Masks pasted together are those that torchvision pastes one by one, and encoded as COCO has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import clip_boxes_to_image

from tokenbench.heads import pasting
from tokenbench.heads.results import plain


def objects(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks, and boxes of all sizes: thin ones, some of less than a pixel, some that end at the border."""
    torch.manual_seed(0)
    masks = torch.rand(count, 1, 9, 9)
    corners = torch.rand(count, 2) * torch.tensor([60.0, 40.0]) - 5
    sides = torch.rand(count, 2) * torch.tensor([50.0, 30.0]) * torch.rand(count, 1) ** 2
    return masks, clip_boxes_to_image(torch.cat([corners, corners + sides], dim=1), (37, 53))


@pytest.mark.parametrize("at_once", [1, 37 * 53 * 7, 2**25])
def test_together_as_one_by_one(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pasting, "AT_ONCE", at_once)
    masks, boxes = objects()
    wanted = paste_masks_in_image(masks, boxes, (37, 53))[:, 0]
    found = pasting.together(masks, boxes, (37, 53))
    sure = (wanted - 0.5).abs() > 1e-5  # at the threshold itself rounding decides
    assert found.dtype == torch.bool and sure.float().mean() > 0.999 and torch.equal(found[sure], (wanted > 0.5)[sure])
    assert pasting.together(masks[:0], boxes[:0], (37, 53)).shape == (0, 37, 53)
    assert torch.equal(pasting.pasted(masks, boxes, (37, 53)), wanted > 0.5)


def test_masks_are_encoded_as_the_api_does() -> None:
    api = pytest.importorskip("faster_coco_eval.core.mask")
    masks, boxes = objects(12)
    pixels = pasting.pasted(masks, boxes, (37, 53))
    found = plain({"boxes": boxes, "labels": torch.ones(12), "scores": torch.ones(12), "masks": pixels})[3]
    assert found == tuple(api.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"] for mask in pixels)
