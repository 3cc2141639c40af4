"""Images with a class a pixel to learn from: resized, cropped, mirrored and recoloured with their masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import ColorJitter

from tokenbench.data.labelled import IGNORED, Pictures
from tokenbench.data.reading import Readable, seed_all
from tokenbench.data.scening import Normalise, scaled
from tokenbench.heads.recipes import SegmentationRecipe

TRIES = 10  # of crops, until no class fills one


class Lessons(Dataset[Any]):
    """An image at its place, augmented as the seed has it for that place.

    Args:
        pictures: the images.
        config: timm's data config of the model.
        recipe: says how images are augmented.
        seed: decides all draws.
    """

    def __init__(self, pictures: Pictures, config: Mapping[str, Any], recipe: SegmentationRecipe, seed: int) -> None:
        self.pictures, self.recipe, self.seed = pictures, recipe, seed
        self.normalise, self.readable = Normalise(config), Readable(pictures)
        strength = recipe.photometric
        self.jitter: Any = ColorJitter(strength / 4, strength, strength, strength / 7) if strength else None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, Tensor, dict[str, str]]:
        epoch, position, index = place
        (image, mask), index, skipped = self.readable(index, self._read)
        seed_all(self.seed, epoch, position)
        low, high = self.recipe.low, self.recipe.high
        ratio = low + (high - low) * float(torch.rand(()))
        base = scaled((image.height, image.width), self.recipe.short, self.recipe.long)
        size = (max(1, round(base[0] * ratio)), max(1, round(base[1] * ratio)))
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
        labels = torch.from_numpy(np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))).long()
        if self.jitter is not None:
            image = self.jitter(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        rows, cols = _window(labels, self.recipe)
        pixels, labels = self.normalise.tensor(pixels[:, rows, cols]), labels[rows, cols]
        if torch.rand(()) < self.recipe.flip:
            pixels, labels = pixels.flip(2), labels.flip(1)
        return (*_filled(pixels, labels, self.recipe.crop), skipped)

    def _read(self, index: int) -> tuple[Image.Image, NDArray[np.uint8]]:
        image = self.pictures.open(index, "RGB")
        return image, self.pictures.mask(index, (image.height, image.width))

    @staticmethod
    def collate(items: Sequence[tuple[Tensor, Tensor, dict[str, str]]]) -> tuple[Tensor, Tensor, dict[str, str]]:
        """A batch (B, 3, H, W) with labels (B, H, W)."""
        images, labels, skipped = zip(*items, strict=True)
        return torch.stack(images), torch.stack(labels), {name: why for one in skipped for name, why in one.items()}


def _window(labels: Tensor, recipe: SegmentationRecipe) -> tuple[slice, slice]:
    """A crop in which no class has more than its share of the pixels, if one is found."""
    sides = [min(recipe.crop, length) for length in labels.shape]
    window = (slice(None), slice(None))
    for _ in range(TRIES):
        starts = [int(torch.randint(length - side + 1, ())) for length, side in zip(labels.shape, sides, strict=True)]
        window = (slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1]))
        here = labels[window]
        counts = torch.bincount(here[here != IGNORED].flatten())
        if len(counts.nonzero()) > 1 and counts.max() < recipe.most * counts.sum():
            break
    return window


def _filled(pixels: Tensor, labels: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Up to the size of the crop: pixels with their mean, labels with those that are ignored."""
    below, right = crop - labels.shape[0], crop - labels.shape[1]
    pad = torch.nn.functional.pad
    return pad(pixels, (0, right, 0, below)), pad(labels, (0, right, 0, below), value=IGNORED)
