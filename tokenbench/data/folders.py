"""Folders of labelled images: which split, which classes, in which order."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from tokenbench.core.words import counted
from tokenbench.data import labelfiles, listing, ordering, packs, splits
from tokenbench.data.fashion import fashion
from tokenbench.data.images import Images
from tokenbench.data.labels import only_present
from tokenbench.data.opening import below, suffixes
from tokenbench.errors import BadData


def open_training(path: str | Path, order: str = "auto", labels: Path | None = None) -> tuple[Images, Images]:
    """The images to train on and those held out: `train`, and `val` or `test` or what else they are called.

    Classes are those there are: of a part of ImageNet, those of the part.

    Args:
        path: the folder of both, or a data set in packs that has both.
        order: of the classes, as `ordering.arrange` takes it.
        labels: a file with the label of each image, where there are no class folders.

    Raises:
        BadData: either is missing, or they do not have the same classes.
    """
    if fashion(Path(path), "train") is not None:
        return open_folder(path, "train"), open_folder(path, "test")
    store = packs.find(Path(path))
    if store is not None:
        parts = packs.trained(store, order, labels)
    else:
        top = splits.top(path)
        parts = [_opened(top, part, order, labels) for part in splits.training(top, labels is not None)]
    train, other = (only_present(images) for images in parts)
    if train.order == "index":
        most = max(train.classes, other.classes, key=len)
        return replace(train, classes=most), replace(other, classes=most)
    if other.classes != train.classes:
        odd = sorted(set(train.names) ^ set(other.names))
        raise BadData(
            f"Data folder '{path}' has other classes in {train.split} and {other.split}, such as '{odd[0]}'; give both "
            "the same."
        )
    return train, other


def open_folder(path: str | Path, split: str | None = None, order: str = "auto", labels: Path | None = None) -> Images:
    """The images under a folder that has one folder a class; or in Parquet, tar files or what `datasets` reads; or the
    four files of Fashion-MNIST, as published.

    A class's index is its place among the folders in timm's natural order ("2" before "10"), empty folders counted.
    Where every folder is an ImageNet-1k wnid it is the place among all 1000, so a part of the classes works too.

    Args:
        path: the folder, or one whose `val`, `validation`, `test` or the like has the class folders; or a file or
            folder of Parquet, or `hfds/NAME` or `wds/NAME` as timm has them.
        split: the folder below `path` to use instead, such as "train".
        order: of the classes, if another; as `ordering.arrange` takes it.
        labels: a file with the label of each image in and below the folder, whose own folders then mean nothing; of
            tables, the column of labels.

    Raises:
        BadData: the folder does not exist, has no class folders, or holds no images; or it is not clear what is meant.
    """
    store = packs.find(Path(path))
    if store is not None:
        images = packs.evaluated(store, split, order, labels)
        said = f"Accuracy is measured on {images.split} of {path}: {_size(images)}."
        return images if len(store.parts) == 1 else replace(images, notes=(said, *images.notes))
    top = splits.top(path)
    published = fashion(top, split or "test")
    if published is not None:
        return published
    if split is not None:
        root = top / split
        if not root.is_dir() or (labels is None and not listing.folders(root)):
            raise BadData(f"Data folder '{path}' has no split '{split}' with class folders; it has {splits.some(top)}.")
        return _opened(top, root, order, labels)
    found = splits.evaluation(top, labels is not None)
    images = _opened(top, found or top, order, labels)
    if found is None:
        return images
    said = f"Accuracy is measured on {found}: {_size(images)}."
    return replace(images, notes=(said, *images.notes))


def _size(images: Images) -> str:
    return f"{counted(len(images), 'image')} of {counted(len(images.present), 'class', 'classes')}"


def _opened(top: Path, root: Path, order: str, labels: Path | None) -> Images:
    here = root.resolve()
    name, part = (here.parent.name, here.name) if splits.kind(here.name) else (here.name, "all")
    left_out: Counter[str] = Counter()
    unlabelled: tuple[str, ...] = ()
    if labels is None:
        classes, files, targets = _of_folders(root, order, left_out)
    else:
        classes, files, targets, unlabelled = _of_labels(top, root, order, labels, left_out)
    told = listing.told(left_out)
    return Images(
        name,
        part,
        classes.classes,
        files,
        targets,
        root,
        notes=(*unlabelled, *([f"{name}: {told}."] if told else [])),
        **classes.told(None if labels is None else labels.name),
    )


def _of_folders(root: Path, order: str, left_out: Counter[str]) -> tuple[ordering.Classes, list[Path], list[int]]:
    names = listing.folders(root)
    if not names:
        raise BadData(_without_classes(root))
    classes = ordering.arrange(names, order)
    left_out += Counter({"picture beside the class folders": listing.pictures_in(root)})
    files: list[Path] = []
    targets: list[int] = []
    index = classes.index
    for name in sorted(names):  # the order of files is that of torchvision, whatever that of the classes
        before = len(files)
        for folder, pictures in listing.pictures(root / name, left_out):
            _refuse_splits(root / name, Path(folder))
            files += [Path(folder, picture) for picture in pictures]
        targets += [index[name]] * (len(files) - before)
    if not files:
        raise BadData(
            f"Data folder '{root}' has {len(names)} class folders but no images ({_extensions()}) in them; give one "
            "that has."
        )
    return classes, files, targets


def _refuse_splits(name: Path, folder: Path) -> None:
    """Raise `BadData` for a class folder that has splits in it: its images to train on must not be measured on."""
    if folder.parent == name and splits.kind(folder.name) == "train":
        others = [other for other in listing.folders(name) if splits.kind(other) in ("val", "test")]
        if others:
            raise BadData(
                f"Data folder '{name.parent}' has '{name.name}', which has splits in it ({folder.name}, {others[0]}); "
                f"give a folder that has {folder.name} and {others[0]}, with the classes below them."
            )


def _of_labels(
    top: Path, root: Path, order: str, labels: Path, left_out: Counter[str]
) -> tuple[ordering.Classes, list[Path], list[int], tuple[str, ...]]:
    found = [Path(folder, name) for folder, names in listing.pictures(root, left_out) for name in names]
    if not found:
        raise BadData(f"Data folder '{root}' has no images ({_extensions()}) for the labels in '{labels}'; give one.")
    places = labelfiles.lookup(below(root, file) for file in found)
    above = [f"{root.name}/", f"{root.relative_to(top).as_posix()}/"]  # paths may begin here, or at a folder above
    given: dict[int, str] = {}
    strange, known = 0, set[str]()
    for name, label in labelfiles.read(labels):
        known.add(label)  # a class, as an empty folder is one
        asked = name.removeprefix("./")
        tries = (asked, *(asked.removeprefix(start) for start in above))
        position = next((places[name] for name in tries if name in places), -1)
        if position is None:
            raise BadData(f"Labels file '{labels}' has '{name}', which several images are called; give their paths.")
        if given.get(position, label) != label:
            raise BadData(f"Labels file '{labels}' gives '{name}' two labels, {given[position]} and {label}; give one.")
        if position == -1:
            strange += 1
        else:
            given[position] = label
    if not given:
        raise BadData(
            f"Labels file '{labels}' names none of the {len(found)} images in '{root}', such as "
            f"'{found[0].relative_to(root)}'; give paths from that folder on."
        )
    classes, index = ordering.named(known, order, f"Labels file '{labels}'")
    told = []
    if len(given) < len(found):
        told.append(f"{len(found) - len(given)} of {len(found)} images in {root} have no label and are left out.")
    if strange:
        told.append(f"{strange} labels in {labels.name} are of images that are not in {root}.")
    chosen = sorted(given)
    return classes, [found[i] for i in chosen], [index[given[i]] for i in chosen], tuple(told)


def _without_classes(root: Path) -> str:
    left_out: Counter[str] = Counter()
    pictures = sum(len(names) for _, names in listing.pictures(root, left_out))
    if not pictures:
        return f"Data folder '{root}' has no class folders; put the images of each class into one of its own."
    beside = next(
        (f.name for f in sorted(root.iterdir()) if f.suffix.lower() in (".txt", ".csv", ".tsv", ".json")), None
    )
    return (
        f"Data folder '{root}' has no class folders, but {pictures} images in it; give a file with the label of each "
        f"(--labels {root / beside if beside else 'FILE'}), or put the images of each class into a folder of its own."
    )


def _extensions() -> str:
    return ", ".join(sorted(suffix[1:] for suffix in suffixes()))
