"""Loaders that bring labelled images to a model, as its timm data config wants them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tokenbench.data.images import Images
from tokenbench.data.opening import reason
from tokenbench.data.reading import chosen
from tokenbench.errors import DataError


def transform_key(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What of a timm data config decides the pixels a model sees; loaders can be shared where it is equal."""
    return tuple(sorted(resolve(config).items()))


def loader(images: Images, config: Mapping[str, Any], batch: int, workers: int = 0, limit: int | None = None) -> Loader:
    """Batches of images as a model wants them.

    Args:
        images: `sample()` or `open_folder(...)`.
        config: a timm data config such as `Backbone.config`; evaluation transforms are made from it.
        batch: images a batch, 1 or more; a batch with unreadable images, and the last one, has fewer.
        workers: processes that decode; 0 decodes in this one.
        limit: if given, use this many images, spread evenly, the same each time.

    Raises:
        BadSetting: batch, workers or limit is out of range.
        DataError: the config asks for a number of channels that images do not have.
    """
    return Loader(images, chosen(len(images), batch, workers, limit), config, batch, workers)


@dataclass(frozen=True)
class Among:
    """Right classes (B,) as places among those of a model's logits that are scored."""

    targets: Tensor
    logits: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.targets)


class Loader:
    """Batches (B, C, H, W) of normalised float images with (B,) int64 targets; each image is decoded once a pass.

    Attributes: `name`, `split` and `imagenet_val` of the images; `total`, the images chosen, of `available`;
    `sample_hash`, which says which; `conditions` and `logits`, as the images have them; `skipped`, the name and reason
    of each image that could not be read in the latest pass.
    """

    def __init__(
        self,
        images: Images,
        indices: Sequence[int],
        config: Mapping[str, Any],
        batch: int,
        workers: int,
        start: int = 0,
    ) -> None:
        self.name, self.split, self.total, self.available = images.name, images.split, len(indices), len(images)
        self.sample_hash = images.digest(indices)
        self.conditions, self.logits = images.conditions, images.logits
        self.imagenet_val = images.imagenet_val
        self.skipped: list[tuple[str, str]] = []
        self._made_of = images, indices, config, batch, workers
        self._start = start
        self._batches: DataLoader[Any] = DataLoader(
            _Decoded(images, indices[start:], config),
            batch_size=batch,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )

    def after(self, items: int) -> Loader:
        """The same images, of which a pass leaves out so many first ones."""
        return Loader(*self._made_of, start=items)

    def every(self, which: int, count: int) -> Loader:
        """Of the batches that are left, the `which`-th of each `count`: each holds the images that it has here."""
        images, indices, config, batch, workers = self._made_of
        left = indices[self._start :]
        starts = range(which * batch, len(left), count * batch)
        return Loader(images, [i for at in starts for i in left[at : at + batch]], config, batch, workers)

    def __len__(self) -> int:
        """Batches a pass, if no whole batch is unreadable."""
        return len(self._batches)

    def batches(self) -> Iterator[tuple[Tensor, Any, list[tuple[str, str]]]]:
        """One pass, those without a readable image too: pixels, targets, and what was skipped."""
        for pixels, targets, skipped in self._batches:
            yield pixels, targets if self.logits is None else Among(targets, self.logits), skipped

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """One pass, with targets as `Among` where only some logits are scored.

        Raises:
            DataError: at its end, if no image at all could be read.
        """
        self.skipped = []
        for pixels, targets, skipped in self.batches():
            self.skipped.extend(skipped)
            if len(targets):
                yield pixels, targets
        self.check(self.skipped)

    def check(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Raise `DataError` if these are all images."""
        if len(skipped) == self.total:
            name, reason = skipped[0]
            raise DataError(f"None of the {self.total} images of {self.name} can be read; the first, {name}: {reason}.")


class _Decoded(Dataset[Any]):
    """An item is (pixels, target), or (name, reason) for an image that cannot be read: workers can only return."""

    def __init__(self, images: Images, indices: Sequence[int], config: Mapping[str, Any]) -> None:
        resolved = resolve(config)
        self.images, self.indices = images, indices
        self.mode = "L" if resolved["input_size"][0] == 1 else "RGB"
        self.transform = create_transform(**resolved, is_training=False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int] | tuple[str, str]:
        index = self.indices[position]
        try:
            image = self.images.open(index, self.mode)
        except Exception as error:  # a damaged file makes PIL raise nearly anything: OSError, SyntaxError, struct.error
            return self.images.label(index), reason(error)
        return self.transform(image), int(self.images.targets[index])


def _collate(items: list[Any]) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
    read = [item for item in items if isinstance(item[0], Tensor)]
    skipped = [item for item in items if not isinstance(item[0], Tensor)]
    pixels = torch.stack([pixels for pixels, _ in read]) if read else torch.empty(0)
    return pixels, torch.tensor([target for _, target in read], dtype=torch.int64), skipped


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's data config, with mean and std of as many channels as the input."""
    resolved: dict[str, Any] = resolve_data_config(pretrained_cfg=dict(config))  # type: ignore[no-untyped-call]
    channels = resolved["input_size"][0]
    if channels not in (1, 3):
        raise DataError(f"The model takes images of {channels} channels but images have 1 or 3; build it with either.")
    for key in ("mean", "std"):
        values = tuple(resolved[key])
        resolved[key] = values if len(values) == channels else (sum(values) / len(values),) * channels
    return {**resolved, "input_size": tuple(resolved["input_size"])}
