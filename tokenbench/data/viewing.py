"""Loaders that bring labelled clips to a model: several views of each, in time and along its longer side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from tokenbench.data.clips import Clips
from tokenbench.data.decoding import Frames
from tokenbench.data.loading import resolve
from tokenbench.data.opening import reason
from tokenbench.data.reading import chosen
from tokenbench.data.sampling import offsets, viewed
from tokenbench.errors import DataError


@dataclass(frozen=True)
class Views:
    """How a clip is seen: `frames` of it, every `stride`th, `times` of such, and `crops` of each."""

    frames: int
    stride: int
    times: int
    crops: int

    @property
    def count(self) -> int:
        """Views of one clip."""
        return self.times * self.crops

    def choose(self, count: int) -> Sequence[int]:
        """The frames of all views of a clip of so many."""
        return viewed(count, self.frames, self.stride, self.times)

    def cut(self, found: Frames, size: tuple[int, int]) -> Tensor:
        """Views (count, 3, frames, *size) of uint8: short side brought to size, crops along the longer one."""
        small = covering(found.pixels, size)
        tall = small.shape[2] - size[0] > small.shape[3] - size[1]
        tops = offsets(small.shape[2], size[0], self.crops if tall else 1)
        lefts = offsets(small.shape[3], size[1], 1 if tall else self.crops)
        times = small[found.order].unflatten(0, (self.times, self.frames)).transpose(1, 2)  # (times, 3, frames, H, W)
        each = [times[..., top : top + size[0], left : left + size[1]] for top in tops for left in lefts]
        return torch.stack(each, dim=1).flatten(0, 1)


@dataclass(frozen=True)
class Batch:
    """What a batch of clips has besides its views: right classes (B,), and what reading them took."""

    targets: Tensor
    views: int  # of each clip
    decoded: Tensor  # (B,) frames
    seconds: Tensor  # (B,)
    logits: tuple[int, ...] | None = None  # of a model, those that are scored; all if None

    def __len__(self) -> int:
        return len(self.targets)


class ViewLoader:
    """Batches (B * views, 3, frames, H, W), all views of a clip together, with a `Batch`; a `tasks.base.Loader`.

    Args:
        clips: what to load.
        config: timm's data config of the model.
        views: how each clip is seen.
        batch: clips a batch; one with unreadable clips, and the last one, has fewer.
        workers: processes that decode.
        limit: if given, use this many clips, spread evenly.
        start: so many first clips are left out of a pass.
    """

    def __init__(
        self,
        clips: Clips,
        config: Mapping[str, Any],
        views: Views,
        batch: int,
        workers: int = 0,
        limit: int | None = None,
        start: int = 0,
    ) -> None:
        self._made_of = (clips, config, views, batch, workers, limit)
        indices = chosen(len(clips), batch, workers, limit)
        self.name, self.split, self.logits, self.views = clips.name, clips.split, clips.logits, views
        self.total, self.available, self.sample_hash = len(indices), len(clips), clips.digest(indices)
        self.conditions: Mapping[str, Any] = {**clips.conditions, "reader": clips.reader}
        self.skipped: list[tuple[str, str]] = []
        self.normalise = Normalise(config)
        size = tuple(resolve(config)["input_size"][1:])
        self._batches: DataLoader[Any] = DataLoader(
            _Viewed(clips, indices[start:], views, size), batch_size=batch, num_workers=workers, collate_fn=list
        )

    def after(self, items: int) -> ViewLoader:
        """The same clips, of which a pass leaves out so many first ones."""
        return ViewLoader(*self._made_of, start=items)

    def __iter__(self) -> Iterator[tuple[Tensor, Batch]]:
        """One pass; raises `DataError` at its end if no clip at all could be read."""
        self.skipped = []
        for items in self._batches:
            self.skipped.extend(item for item in items if isinstance(item[0], str))
            read = [item for item in items if isinstance(item[0], Tensor)]
            if read:
                pixels, targets, decoded, seconds = zip(*read, strict=True)
                told = (torch.tensor(targets), self.views.count, torch.tensor(decoded), torch.tensor(seconds))
                yield self.normalise(torch.cat(pixels)), Batch(*told, self.logits)
        if len(self.skipped) == self.total:
            name, why = self.skipped[0]
            raise DataError(f"None of the {self.total} clips of {self.name} can be read; the first, {name}: {why}.")


class Normalise:
    """Pixels (..., 3, frames, H, W) of uint8 as normalised floats, by timm's data config."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        resolved = resolve(config)
        if len(resolved["mean"]) != 3:
            raise DataError("The model takes grey images, and clips have colours; give another.")
        self.mean, self.std = (255 * torch.tensor(resolved[key]).view(3, 1, 1, 1) for key in ("mean", "std"))

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the pixels."""
        return (*self.mean.flatten().tolist(), *self.std.flatten().tolist())

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised."""
        return (pixels.float() - self.mean) / self.std


def covering(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (n, 3, H, W) of uint8, as small as they are and still cover a size; bilinear, with antialiasing."""
    factor = max(wanted / length for wanted, length in zip(size, pixels.shape[2:], strict=True))
    new = [max(wanted, round(length * factor)) for wanted, length in zip(size, pixels.shape[2:], strict=True)]
    return pixels if new == list(pixels.shape[2:]) else F.resize(pixels, new, antialias=True)


class _Viewed(Dataset[Any]):
    """An item is (views, target, frames decoded, seconds), or (name, reason) for a clip that cannot be read."""

    def __init__(self, clips: Clips, indices: Sequence[int], views: Views, size: tuple[int, int]) -> None:
        self.clips, self.indices, self.views, self.size = clips, indices, views, size

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int, float] | tuple[str, str]:
        index = self.indices[position]
        try:
            found = self.clips.read(index, self.views.choose)
        except Exception as error:  # a damaged file makes decoders raise nearly anything
            return self.clips.label(index), reason(error)
        return self.views.cut(found, self.size), int(self.clips.targets[index]), found.decoded, found.seconds
