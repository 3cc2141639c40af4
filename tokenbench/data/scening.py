"""Loaders that bring images with objects or masks to a model: resized by their sides, padded to one size a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenbench.data.loading import resolve
from tokenbench.data.opening import reason
from tokenbench.data.reading import chosen
from tokenbench.errors import DataError

Size = tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """Which images a batch has, their sizes inside the padding, and those of their files."""

    data: Any  # the set that they are of
    indices: tuple[int, ...]
    sizes: tuple[Size, ...]
    originals: tuple[Size, ...]
    beside: tuple[Any, ...] = ()  # what the loader was asked to read with each

    def __len__(self) -> int:
        return len(self.indices)


def scaled(size: Size, short: int, long: int) -> Size:
    """Height and width of an image brought to a short side, or to less where its long side would be too long.

    A short side of 0 leaves it as it is.
    """
    if not short:
        return size
    factor = min(short / min(size), long / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class Normalise:
    """A picture as a normalised float tensor (3, H, W) of the given height and width, by timm's data config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        resolved = resolve(config)
        if len(resolved["mean"]) != 3:
            raise DataError("The model takes grey images, and dense tasks need one that takes colours; give another.")
        self.mean, self.std = (torch.tensor(resolved[key]).view(3, 1, 1) for key in ("mean", "std"))

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the pixels."""
        return (*self.mean.flatten().tolist(), *self.std.flatten().tolist())

    def __call__(self, image: Image.Image, size: Size) -> Tensor:
        """Bilinear, with antialiasing."""
        resized = image if image.size == size[::-1] else image.resize(size[::-1], Image.Resampling.BILINEAR)
        return self.tensor(torch.from_numpy(np.array(resized)).permute(2, 0, 1))

    def tensor(self, pixels: Tensor) -> Tensor:
        """The same of pixels (3, H, W) of uint8."""
        return (pixels.float() / 255 - self.mean) / self.std


def padded(images: Sequence[Tensor], fill: float = 0.0) -> Tensor:
    """A batch (B, ..., H, W) of images, filled below and to the right to the largest sides."""
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    out = images[0].new_full((len(images), *images[0].shape[:-2], height, width), fill)
    for slot, image in zip(out, images, strict=True):
        slot[..., : image.shape[-2], : image.shape[-1]] = image
    return out


class SceneLoader:
    """Batches (B, 3, H, W) with a `Batch` each; a `tokenbench.tasks.base.Loader`.

    Args:
        data: images that `open`, and have sizes, a name, a split and `digest`.
        config: timm's data config of the model.
        size: from the size of a file to that of its image.
        batch: images a batch; one with unreadable images, and the last one, has fewer.
        workers: processes that decode.
        limit: if given, use this many images, spread evenly.
        beside: what else to read of an image, by its index and original size, such as its mask.
        start: so many first images are left out of a pass.
    """

    def __init__(
        self,
        data: Any,
        config: Mapping[str, Any],
        size: Callable[[Size], Size],
        batch: int,
        workers: int = 0,
        limit: int | None = None,
        beside: Callable[[int, Size], Any] | None = None,
        start: int = 0,
    ) -> None:
        self._made_of = (data, config, size, batch, workers, limit, beside)
        indices = chosen(len(data), batch, workers, limit)
        self.data, self.name, self.split = data, data.name, data.split
        self.total, self.available, self.sample_hash = len(indices), len(data), data.digest(indices)
        self.conditions: Mapping[str, Any] = data.conditions
        self.skipped: list[tuple[str, str]] = []
        self._batches: DataLoader[Any] = DataLoader(
            _Resized(data, indices[start:], Normalise(config), size, beside),
            batch_size=batch,
            num_workers=workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),
        )

    def after(self, items: int) -> SceneLoader:
        """The same images, of which a pass leaves out so many first ones."""
        return SceneLoader(*self._made_of, start=items)

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        """One pass; raises `DataError` at its end if no image at all could be read."""
        self.skipped = []
        for items in self._batches:
            self.skipped.extend(item for item in items if isinstance(item[0], str))
            read = [item for item in items if isinstance(item[0], Tensor)]
            if read:
                images, indices, sizes, originals, beside = zip(*read, strict=True)
                yield padded(images), Batch(self.data, indices, sizes, originals, beside)
        if len(self.skipped) == self.total:
            name, why = self.skipped[0]
            raise DataError(f"None of the {self.total} images of {self.name} can be read; the first, {name}: {why}.")


class _Resized(Dataset[Any]):
    """An item is (pixels, index, size, original size, what was read beside), or (name, reason) for an image that cannot
    be read.
    """

    def __init__(
        self,
        data: Any,
        indices: Sequence[int],
        normalise: Normalise,
        size: Callable[[Size], Size],
        beside: Callable[[int, Size], Any] | None,
    ) -> None:
        self.data, self.indices, self.normalise, self.size, self.beside = data, indices, normalise, size, beside

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, Size, Size, Any] | tuple[str, str]:
        index = self.indices[position]
        try:
            image = self.data.open(index, "RGB")
            original = (image.height, image.width)
            beside = None if self.beside is None else self.beside(index, original)
        except Exception as error:  # a damaged file makes PIL raise nearly anything
            return self.data.label(index), reason(error)
        size = self.size(original)
        return self.normalise(image, size), index, size, original, beside
