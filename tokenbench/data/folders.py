"""Folders of labelled images: which split, which classes, in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.data.imagenet_info import ImageNetInfo
from timm.utils.misc import natural_key
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from tokenbench.data.fashion import fashion
from tokenbench.data.images import Images
from tokenbench.errors import DataError

SPLITS = ("val", "validation", "test")  # in the order they are looked for


def open_training(path: str | Path) -> tuple[Images, Images]:
    """The images to train on and those held out: `train`, and `val` or `validation` or `test`, of a folder.

    Of a part of ImageNet the classes are those of its folders, and not all 1000.

    Raises:
        DataError: either is missing, or they do not have the same classes.
    """
    top = Path(path)
    if fashion(top, "train") is not None:
        return open_folder(path, "train"), open_folder(path, "test")
    train = open_folder(path, "train")
    held_out = next((s for s in SPLITS if _folders(top / s)), None)
    if held_out is None:
        raise DataError(f"Data folder '{path}' has no val folder with class folders; it has {_some(top)}.")
    other = open_folder(path, held_out)
    train, other = _own_classes(train), _own_classes(other)
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
    published = fashion(top, split or "test")
    if published is not None:
        return published
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


def for_classes(images: Images, classes: int, model: str) -> Images:
    """The images to score a model with that many classes on: of a part of ImageNet also one with a head of just those.

    Raises:
        DataError: the model has another number of classes.
    """
    if len(images.classes) != classes:
        own = _own_classes(images)
        if len(own.classes) == classes:
            return own
        raise DataError(
            f"{images.name} has {len(images.classes)} classes but {model} has {classes}; "
            "give data of the model's classes, or weights trained on these."
        )
    return images


def _own_classes(images: Images) -> Images:
    """Of a part of ImageNet, the images with the classes that they have only, in ImageNet's order; others as given."""
    present = sorted(set(images.targets))
    imagenet: Any = ImageNetInfo()
    if images.classes != tuple(imagenet.label_descriptions()) or len(present) == len(images.classes):
        return images
    place = {label: i for i, label in enumerate(present)}
    classes = tuple(images.classes[label] for label in present)
    return replace(images, classes=classes, targets=[place[target] for target in images.targets])


def _folders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted((p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=natural_key)


def _some(top: Path) -> str:
    return ", ".join(_folders(top)[:5]) or "no folders"


def _extensions() -> str:
    return ", ".join(e.removeprefix(".") for e in IMG_EXTENSIONS)
