"""Labelled images and the loaders that bring them to a model: the shipped sample, and any folder of class folders."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from timm.utils.misc import natural_key
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from tokenbench.errors import BadSetting, DataError

SAMPLE = Path(__file__).parent / "sample" / "fashion_mnist_test2000.npz"
SAMPLE_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SPLITS = ("val", "validation", "test")  # in the order they are looked for


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, opened one at a time.

    `items` are files, or arrays (H, W) or (H, W, 3) of uint8; `targets` index `classes`, one for each item.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    items: Sequence[Path] | np.ndarray
    targets: Sequence[int]
    root: Path = field(default=Path())

    def __len__(self) -> int:
        """Number of images."""
        return len(self.items)

    def open(self, index: int, mode: str) -> Image.Image:
        """One image, decoded, in PIL mode "RGB" or "L"; raises whatever PIL raises for one it cannot read."""
        item = self.items[index]
        if isinstance(item, Path):
            with Image.open(item) as image:
                return image.convert(mode)
        return Image.fromarray(item).convert(mode)

    def label(self, index: int) -> str:
        """What to call one image: its path below the root, or its position."""
        item = self.items[index]
        return item.relative_to(self.root).as_posix() if isinstance(item, Path) else f"image {index}"

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over the names and sizes in bytes of these files, or over pixels and labels."""
        sha = hashlib.sha256()
        for index in indices:
            item = self.items[index]
            if isinstance(item, Path):
                sha.update(f"{self.label(index)}\0{_size(item)}\n".encode("utf-8", "surrogateescape"))
            else:
                sha.update(item.tobytes() + bytes([int(self.targets[index])]))
        return sha.hexdigest()[:16]


def sample() -> Images:
    """The shipped sample: 2,000 Fashion-MNIST test images of 28x28, 200 of each of 10 classes, grouped by class."""
    try:
        with np.load(SAMPLE, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The shipped sample {SAMPLE.name} cannot be read ({error}); reinstall tokenbench.") from None
    return Images("fashion_mnist_test2000", "test", SAMPLE_CLASSES, images, tuple(labels.tolist()))


def open_training(path: str | Path) -> tuple[Images, Images]:
    """The images to train on and those held out: `train`, and `val` or `validation` or `test`, of a folder.

    Raises:
        DataError: either is missing, or they do not have the same classes.
    """
    top = Path(path)
    if _fashion(top, "train") is not None:
        return open_folder(path, "train"), open_folder(path, "test")
    train = open_folder(path, "train")
    held_out = next((s for s in SPLITS if _folders(top / s)), None)
    if held_out is None:
        raise DataError(f"Data folder '{path}' has no val folder with class folders; it has {_some(top)}.")
    other = open_folder(path, held_out)
    if other.classes != train.classes:
        odd = sorted(set(train.classes) ^ set(other.classes))
        raise DataError(
            f"Data folder '{path}' has other classes in train and {held_out}, such as '{odd[0]}'; give both the same."
        )
    return train, other


def open_folder(path: str | Path, split: str | None = None) -> Images:
    """The images under a folder that has one folder a class; or the four files of Fashion-MNIST, as published.

    A class's index is its place among the folders in timm's natural order ("2" before "10"), empty folders counted.
    Where every folder is an ImageNet-1k wnid it is the place among all 1000, so a part of the classes works too.

    Args:
        path: the folder, or one whose `val`, `validation` or `test` folder has the class folders.
        split: the folder below `path` to use instead, such as "train".

    Raises:
        DataError: the folder does not exist, has no class folders, or holds no images.
    """
    top = Path(path)
    if not top.is_dir():
        raise DataError(
            f"Data folder '{path}' {'is a file' if top.exists() else 'does not exist'}; "
            "give a folder that has one folder of images for each class."
        )
    fashion = _fashion(top, split or "test")
    if fashion is not None:
        return fashion
    wanted = SPLITS if split is None else (split,)
    found = next((s for s in wanted if _folders(top / s)), None)
    if split is not None and found is None:
        raise DataError(f"Data folder '{path}' has no split '{split}' with class folders; it has {_some(top)}.")
    root = top / found if found else top
    names = _folders(root)
    if not names:
        raise DataError(f"Data folder '{path}' has no class folders; put the images of each class into one of its own.")

    imagenet: Any = ImageNetInfo()
    synsets = imagenet.label_names()
    known = set(names) <= set(synsets)
    order = synsets if known else names
    index = {name: order.index(name) for name in names}
    files = make_dataset(root, index, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not files:
        raise DataError(f"Data folder '{path}' has {len(names)} class folders but no images ({_extensions()}) in them.")
    here = root.resolve()
    name, part = (here.parent.name, here.name) if found or here.name in SPLITS else (here.name, "all")
    classes = imagenet.label_descriptions() if known else names
    return Images(name, part, tuple(classes), [Path(f) for f, _ in files], [t for _, t in files], root)


def check_classes(images: Images, classes: int, model: str) -> None:
    """Raise `DataError` unless a model with that many classes can be scored on these images."""
    if len(images.classes) != classes:
        raise DataError(
            f"{images.name} has {len(images.classes)} classes but {model} has {classes}; "
            "give data of the model's classes, or weights trained on these."
        )


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
    for name, value, least in (("batch", batch, 1), ("workers", workers, 0), ("limit", limit, 1)):
        if value is not None and value < least:
            raise BadSetting(f"{name}={value} is not allowed, it must be {least} or more.")
    total = len(images) if limit is None else min(limit, len(images))
    return Loader(images, [i * len(images) // total for i in range(total)], config, batch, workers)


class Loader:
    """Batches (B, C, H, W) of normalised float images with (B,) int64 targets; each image is decoded once a pass.

    Attributes: `name` and `split` of the images; `total`, the images chosen, of `available`; `sample_hash`, which says
    which; `skipped`, the name and reason of each that could not be read in the latest pass.
    """

    def __init__(
        self, images: Images, indices: Sequence[int], config: Mapping[str, Any], batch: int, workers: int
    ) -> None:
        self.name, self.split, self.total, self.available = images.name, images.split, len(indices), len(images)
        self.sample_hash = images.digest(indices)
        self.skipped: list[tuple[str, str]] = []
        self._batches: DataLoader[Any] = DataLoader(
            _Decoded(images, indices, config),
            batch_size=batch,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
        )

    def __len__(self) -> int:
        """Batches a pass, if no whole batch is unreadable."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; raises `DataError` at its end if no image at all could be read."""
        self.skipped = []
        for pixels, targets, skipped in self._batches:
            self.skipped.extend(skipped)
            if len(targets):
                yield pixels, targets
        if len(self.skipped) == self.total:
            name, reason = self.skipped[0]
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
            return self.images.label(index), _reason(error)
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


def _fashion(folder: Path, split: str) -> Images | None:
    """A split of Fashion-MNIST in its published form, idx files that may be gzipped; None if they are not there."""
    part = {"train": "train", "test": "t10k"}.get(split)
    stems = [f"{part}-{what}" for what in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    files = [next((folder / n for n in (f"{s}.gz", s) if (folder / n).is_file()), None) for s in stems]
    if files[0] is None or files[1] is None:
        return None
    pixels, labels = _idx(files[0], 16), _idx(files[1], 8)
    if not len(labels) or len(pixels) != len(labels) * 28 * 28:
        raise DataError(f"{files[0]} and {files[1].name} do not fit each other; fetch Fashion-MNIST again.")
    return Images("fashion_mnist", split, SAMPLE_CLASSES, pixels.reshape(-1, 28, 28), tuple(labels.tolist()), folder)


def _idx(path: Path, head: int) -> np.ndarray:
    try:
        raw = path.read_bytes()
        return np.frombuffer(gzip.decompress(raw) if path.suffix == ".gz" else raw, np.uint8, offset=head)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch Fashion-MNIST again.") from None


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted((p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # it will be counted as unreadable when its turn comes


def _reason(error: Exception) -> str:
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _some(top: Path) -> str:
    return ", ".join(_folders(top)[:5]) or "no folders"


def _extensions() -> str:
    return ", ".join(e.removeprefix(".") for e in IMG_EXTENSIONS)
