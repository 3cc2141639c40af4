"""Images with objects to learn from: cropped, resized, mirrored and turned with their boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tokenbench.data.coco import Scenes, decoded
from tokenbench.data.reading import Readable, seed_all
from tokenbench.data.scening import Normalise, padded, scaled
from tokenbench.heads.recipes import DetectionRecipe

CROPPED = ((400, 500, 600), 384, 600)  # short sides before a crop, and the least and largest side of one


class Objects:
    """The objects of a batch of images, as `heads.detector.Detector` learns from them."""

    def __init__(self, sizes: Sequence[tuple[int, int]], each: Sequence[dict[str, Tensor]]) -> None:
        self.sizes, self.each = list(sizes), list(each)

    def __len__(self) -> int:
        return len(self.each)

    def to(self, device: torch.device, non_blocking: bool = False) -> Objects:
        """All tensors on a device."""
        moved = [{k: v.to(device, non_blocking=non_blocking) for k, v in one.items()} for one in self.each]
        return Objects(self.sizes, moved)


class Lessons(Dataset[Any]):
    """An image at its place, augmented as the seed has it for that place; crowds are left out.

    Args:
        scenes: the images.
        config: timm's data config of the model.
        recipe: says how images are augmented.
        seed: decides all draws.
        masks: whether objects are learned with their masks.
    """

    def __init__(
        self, scenes: Scenes, config: Mapping[str, Any], recipe: DetectionRecipe, seed: int, masks: bool
    ) -> None:
        self.scenes, self.recipe, self.seed, self.masks = scenes, recipe, seed, masks
        self.normalise, self.readable = Normalise(config), Readable(scenes)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, dict[str, Tensor], dict[str, str]]:
        epoch, position, index = place
        image, index, skipped = self.readable(index)
        size = (image.height, image.width)
        things = [thing for thing in self.scenes.things[index] if not thing.crowd]
        boxes = torch.tensor([thing.box for thing in things]).reshape(-1, 4)
        sample = {
            "image": tv_tensors.Image(torch.from_numpy(np.array(image)).permute(2, 0, 1)),
            "boxes": F.convert_bounding_box_format(
                tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=size), new_format="XYXY"
            ),
        }
        seed_all(self.seed, epoch, position)
        seen = _augmented(sample, self.recipe)
        boxes, kept = _clean(seen["boxes"])
        target = {
            "boxes": boxes,
            "labels": torch.tensor([things[i].label + 1 for i in kept], dtype=torch.int64),
            "masks": torch.zeros(len(kept), *seen["image"].shape[1:], dtype=torch.uint8),
        }
        if self.masks and kept:  # only of what is left: of all they may fill hundreds of megabytes
            masks = torch.from_numpy(np.stack([decoded(things[i].outline, size) for i in kept]))
            seed_all(self.seed, epoch, position)
            again = _augmented(
                {"image": tv_tensors.Image(sample["image"][:1]), "masks": tv_tensors.Mask(masks)}, self.recipe
            )
            target["masks"] = again["masks"].as_subclass(Tensor).to(torch.uint8)
        return self.normalise.tensor(seen["image"].as_subclass(Tensor)), target, skipped

    @staticmethod
    def collate(
        items: Sequence[tuple[Tensor, dict[str, Tensor], dict[str, str]]],
    ) -> tuple[Tensor, Objects, dict[str, str]]:
        """A batch padded to its largest sides."""
        images, targets, skipped = zip(*items, strict=True)
        batch, sizes = padded(images), [(image.shape[1], image.shape[2]) for image in images]
        height, width = batch.shape[2:]
        for target, size in zip(targets, sizes, strict=True):
            target["masks"] = torch.nn.functional.pad(target["masks"], (0, width - size[1], 0, height - size[0]))
        return batch, Objects(sizes, targets), {name: why for one in skipped for name, why in one.items()}


def _augmented(sample: dict[str, Any], recipe: DetectionRecipe) -> dict[str, Any]:
    if torch.rand(()) < recipe.flip:
        sample = v2.RandomHorizontalFlip(1.0)(sample)
    if recipe.turns:
        turns = int(torch.randint(4, ()))
        sample = _turned(sample, turns)
    if recipe.crops and torch.rand(()) < 0.5:
        shorts, least, largest = CROPPED
        sample = _resized(sample, shorts, 10**9)
        height, width = sample["image"].shape[1:]
        sides = [
            min(side, int(torch.randint(min(side, least), min(side, largest) + 1, ()))) for side in (height, width)
        ]
        sample = _cropped(sample, sides[0], sides[1])
    sample = _resized(sample, recipe.shorts, recipe.long)
    if recipe.crop:
        height, width = sample["image"].shape[1:]
        sample = _cropped(sample, min(height, recipe.crop), min(width, recipe.crop))
    return sample


def _resized(sample: dict[str, Any], shorts: Sequence[int], long: int) -> dict[str, Any]:
    short = shorts[int(torch.randint(len(shorts), ()))]
    size = scaled(tuple(sample["image"].shape[1:]), short, long)
    if size == tuple(sample["image"].shape[1:]):
        return sample
    return {name: F.resize(value, list(size)) for name, value in sample.items()}


def _cropped(sample: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """A window of that size, anywhere."""
    rows, cols = sample["image"].shape[1:]
    top, left = int(torch.randint(rows - height + 1, ())), int(torch.randint(cols - width + 1, ()))
    window = (top, left, height, width)
    return {name: F.crop(value, *window) for name, value in sample.items()}


def _turned(sample: dict[str, Any], turns: int) -> dict[str, Any]:
    """Turned left by so many quarters."""
    for _ in range(turns):
        height, width = sample["image"].shape[1:]
        made: dict[str, Any] = {}
        for name, value in sample.items():
            if name == "boxes":
                x1, y1, x2, y2 = value.as_subclass(Tensor).unbind(1)
                turned = torch.stack([y1, width - x2, y2, width - x1], dim=1)
                made[name] = tv_tensors.BoundingBoxes(turned, format="XYXY", canvas_size=(width, height))
            else:
                made[name] = tv_tensors.wrap(torch.rot90(value.as_subclass(Tensor), 1, (1, 2)), like=value)
        sample = made
    return sample


def _clean(boxes: Any) -> tuple[Tensor, list[int]]:
    """Boxes held to the image, without those of which nothing is left, and the places of the others."""
    held = F.clamp_bounding_boxes(boxes).as_subclass(Tensor)
    kept = (held[:, 2] - held[:, 0] >= 1) & (held[:, 3] - held[:, 1] >= 1)
    return held[kept].float(), kept.nonzero()[:, 0].tolist()
