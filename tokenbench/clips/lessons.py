"""Clips to learn from: a stretch of each at random, cropped, resized and mirrored alike in all frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from tokenbench.clips.recipes import ClipRecipe
from tokenbench.data.clips import Clips
from tokenbench.data.reading import Readable, seed_all
from tokenbench.data.sampling import places
from tokenbench.data.viewing import Normalise, covering

RATIOS = (3 / 4, 4 / 3)  # of the sides of a random crop


class Lessons(Dataset[Any]):
    """A clip at its place, as the seed has it for that place.

    Args:
        clips: the clips.
        config: timm's data config of the model.
        recipe: says how clips are augmented.
        seed: decides all draws.
        frames: of a clip that a model sees.
        stride: every how manyth.
    """

    def __init__(
        self, clips: Clips, config: Mapping[str, Any], recipe: ClipRecipe, seed: int, frames: int, stride: int
    ) -> None:
        self.clips, self.recipe, self.seed, self.frames, self.stride = clips, recipe, seed, frames, stride
        self.normalise, self.size = Normalise(config), (int(config["input_size"][1]), int(config["input_size"][2]))
        self.readable = Readable(clips)
        self.where = 0.0  # in the clip that is read now, as a share of what fits

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, place: tuple[int, int, int]) -> tuple[Tensor, int, dict[str, str]]:
        epoch, position, index = place
        seed_all(self.seed, epoch, position)
        self.where = float(torch.rand(()))
        found, index, skipped = self.readable(index, lambda i: self.clips.read(i, self._choose))
        height, width = (round(side * self.recipe.short) for side in self.size)
        small = covering(found.pixels, (height, width))
        pixels = self._cropped(small)[found.order]
        if torch.rand(()) < self.recipe.flip:
            pixels = pixels.flip(-1)
        return pixels.transpose(0, 1).contiguous(), int(self.clips.targets[index]), skipped

    def collate(self, items: Sequence[tuple[Tensor, int, dict[str, str]]]) -> tuple[Tensor, Tensor, dict[str, str]]:
        """A batch (B, 3, frames, H, W) with its classes (B,)."""
        pixels, targets, skipped = zip(*items, strict=True)
        told = {name: why for one in skipped for name, why in one.items()}
        return self.normalise(torch.stack(pixels)), torch.tensor(targets), told

    def _choose(self, count: int) -> list[int]:
        room = max(1, count - self.frames * self.stride + 1)
        return places(int(self.where * room), self.frames, self.stride, count)

    def _cropped(self, frames: Tensor) -> Tensor:
        """A part of frames (n, 3, H, W), brought to the model's size."""
        if self.recipe.crop < 1:
            box = RandomResizedCrop.get_params(frames, [self.recipe.crop, 1.0], list(RATIOS))
            cropped: Tensor = F.resized_crop(frames, *box, list(self.size), antialias=True)
            return cropped
        top, left = (int(torch.randint(max(1, frames.shape[2 + i] - side + 1), ())) for i, side in enumerate(self.size))
        return frames[..., top : top + self.size[0], left : left + self.size[1]]
