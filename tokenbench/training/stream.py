"""Which images come when, and how they are augmented: a function of the seed and the update, whoever asks and when.

So a run that was killed goes on with the same pixels, and two processes see what one with the doubled batch sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from timm.data.mixup import Mixup
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from tokenbench.core.processes import Processes
from tokenbench.core.words import counted
from tokenbench.data import Images, resolve
from tokenbench.data.reading import Readable, seed_all, what_of
from tokenbench.errors import BadData, BadSetting, DataError
from tokenbench.methods.learning import Learning
from tokenbench.methods.recipe import Recipe

Place = tuple[int, int, int]  # epoch, position in it over all processes, image
SEEN = {  # of a recipe: what decides how many images come, which, and how they look
    *("epochs", "updates", "batch", "repeats", "crop", "flip", "color_jitter", "auto_augment", "erasing", "short"),
}


class Stream:
    """The batches (B, C, H, W) with (B,) targets of one process, from any update on.

    In the place of an image that cannot be read stands the next one that can, so batches stay whole; `skipped` has the
    name and reason of those met so far.

    Args:
        images: the training images.
        config: timm's data config of the model.
        recipe: says how images are augmented and how many make an update.
        seed: decides order and augmentation.
        workers: processes that decode.
        processes: this process among those that train together.
        passes: passes of the model an update, whose gradients are added up.
        lessons: images at their places, with targets and those that could not be read, and `collate`, which makes a
            batch of them; None: images with a class each, augmented as timm does.
    """

    def __init__(
        self,
        images: Any,
        config: Mapping[str, Any],
        recipe: Learning,
        seed: int,
        workers: int,
        processes: Processes,
        passes: int = 1,
        lessons: Any = None,
    ) -> None:
        if recipe.batch % (processes.count * passes):
            raise BadSetting(
                f"A batch of {recipe.batch} cannot be divided over {processes.count} processes of {passes} passes; "
                "give a --batch-size that can."
            )
        self.images, self.recipe, self.seed, self.workers, self.processes = images, recipe, seed, workers, processes
        self.batch = recipe.batch // (processes.count * passes)  # of one pass in this process
        self.updates = len(self._order(0)) * processes.count // recipe.batch  # an epoch
        if not self.updates:
            raise DataError(
                f"{images.name} has {counted(len(images), what_of(images))} to train on, fewer than a batch of "
                f"{recipe.batch}; give a smaller --batch-size."
            )
        self.passes, self.skipped = passes, dict[str, str]()
        self.dataset = _Augmented(images, config, recipe, seed) if lessons is None else lessons  # type: ignore[arg-type]

    def start(self, update: int) -> Iterator[tuple[Tensor, Any]]:
        """The batches from an update on, without end."""
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=_Endless(self, update),
            num_workers=self.workers,
            collate_fn=self.dataset.collate,
            pin_memory=torch.cuda.is_available(),
        )
        batches = iter(loader)
        while True:
            try:
                images, target, skipped = next(batches)
            except DataError as error:  # one from a worker comes with its traceback as text
                raise DataError(str(error).strip().splitlines()[-1].split("DataError: ", 1)[-1]) from None
            self.skipped |= skipped
            yield images, target

    def places(self, epoch: int) -> list[Place]:
        """What this process takes in an epoch; a last batch that is not whole is left out."""
        own = self._order(epoch)[: self.updates * self.passes * self.batch]
        first, step = self.processes.rank, self.processes.count
        return [(epoch, first + i * step, image) for i, image in enumerate(own)]

    def _order(self, epoch: int) -> list[int]:
        sampler: Any
        share = {"num_replicas": self.processes.count, "rank": self.processes.rank}
        repeats = getattr(self.recipe, "repeats", 1)
        if repeats > 1:
            sampler = RepeatAugSampler(self.images, num_repeats=repeats, **share)  # type: ignore[no-untyped-call]
            sampler.set_epoch(self.seed * 100_003 + epoch)
        else:
            sampler = DistributedSampler(self.images, seed=self.seed, **share)  # type: ignore[arg-type]
            sampler.set_epoch(epoch)
        return list(sampler)


class _Endless:
    """Batches of places from an update on, epoch after epoch: a batch sampler for one loader a run."""

    def __init__(self, stream: Stream, update: int) -> None:
        self.stream, self.update = stream, update

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, done = divmod(self.update, self.stream.updates)
        skip = done * self.stream.passes * self.stream.batch
        while True:
            places = self.stream.places(epoch)[skip:]
            for start in range(0, len(places), self.stream.batch):
                yield places[start : start + self.stream.batch]
            epoch, skip = epoch + 1, 0


def _transform(**options: Any) -> Any:
    try:
        return create_transform(**options)
    except (AssertionError, KeyError, ValueError, IndexError):
        raise BadSetting(
            f"recipe: auto_augment={options['auto_augment']} is no policy of timm's; rand-m9-mstd0.5-inc1, "
            "original and none are some."
        ) from None


class _Augmented(Dataset[tuple[Tensor, int, dict[str, str]]]):
    """An image at its place, augmented as the seed has it for that place; and those that could not be read instead."""

    def __init__(self, images: Images, config: Mapping[str, Any], recipe: Recipe, seed: int) -> None:
        resolved = resolve(config)
        self.images, self.seed = images, seed
        self.readable = Readable(images, "L" if resolved["input_size"][0] == 1 else "RGB")
        self.transform = _transform(
            input_size=resolved["input_size"],
            is_training=True,
            scale=(recipe.crop, 1.0),
            hflip=recipe.flip,
            color_jitter=recipe.color_jitter or None,
            auto_augment=None if recipe.auto_augment == "none" else recipe.auto_augment,
            interpolation=resolved["interpolation"],
            mean=resolved["mean"],
            std=resolved["std"],
            re_prob=recipe.erasing,
            re_mode="pixel",
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: Place) -> tuple[Tensor, int, dict[str, str]]:
        epoch, position, index = place
        image, index, skipped = self.readable(index)
        seed_all(self.seed, epoch, position)
        return self.transform(image), int(self.images.targets[index]), skipped

    @staticmethod
    def collate(items: list[tuple[Tensor, int, dict[str, str]]]) -> tuple[Tensor, Tensor, dict[str, str]]:
        """A batch (B, C, H, W) with its classes (B,)."""
        pixels, targets, skipped = zip(*items, strict=True)
        return torch.stack(pixels), torch.tensor(targets), {name: why for one in skipped for name, why in one.items()}


class Targets:
    """Class indices to what the loss takes: mixup and CutMix with the batch, label smoothing; targets of other recipes
    as they are.
    """

    def __init__(self, recipe: Learning, classes: int) -> None:
        self.mixup: Any = None
        self.classes, self.smoothing = classes, getattr(recipe, "smoothing", 0.0)
        if not isinstance(recipe, Recipe):
            return
        if recipe.mixup or recipe.cutmix:
            self.mixup = Mixup(  # type: ignore[no-untyped-call]
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.smoothing,
                num_classes=classes,
            )

    def __call__(self, images: Tensor, target: Any) -> tuple[Tensor, Any]:
        """Images (B, C, H, W), mixed in place, and soft targets (B, classes), or the indices where nothing is soft."""
        if self.mixup is not None and len(images) % 2 == 0:
            mixed: tuple[Tensor, Tensor] = self.mixup(images, target)
            return mixed
        if not self.smoothing and self.mixup is None:
            return images, target
        hard = torch.nn.functional.one_hot(target, self.classes).to(images.dtype)
        return images, hard * (1 - self.smoothing) + self.smoothing / self.classes


def check_training(images: Images) -> None:
    """Raise `BadData` if a class has no image to learn from, or there is one class only."""
    counts: Sequence[int] = np.bincount(np.asarray(images.targets), minlength=len(images.classes)).tolist()
    empty = [name for name, count in zip(images.classes, counts, strict=True) if not count]
    if empty:
        more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
        raise BadData(
            f"{images.name} has no {images.split} {what_of(images)}s of class '{empty[0]}'{more}; add some, "
            "or remove its folder."
        )
    if len(images.classes) < 2:
        raise BadData(f"{images.name} has one class only, '{images.classes[0]}'; give two class folders or more.")
