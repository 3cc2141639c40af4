"""Which folder below the one given holds the images to train on, and which those to measure accuracy on."""

from __future__ import annotations

from pathlib import Path

from tokenbench.data import listing
from tokenbench.errors import BadData

WORDS = {  # what a folder of a split is called, whatever its capitals
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation"),
    "test": ("test", "testing"),
}
CLS_LOC = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # where ImageNet's own archive has its images


def kind(name: str) -> str | None:
    """Which kind of split a folder's name says it is: "train", "val" or "test"; None for any other name."""
    return next((kind for kind, words in WORDS.items() if name.lower() in words), None)


def top(path: str | Path) -> Path:
    """The folder that has the splits or classes: the one given, or the one that alone holds them.

    Raises:
        BadData: it does not exist or is a file.
    """
    given = Path(path)
    if not given.is_dir():
        raise BadData(
            f"Data folder '{path}' {'is a file' if given.exists() else 'does not exist'}; "
            "give a folder that has one folder of images for each class, Parquet or tar files, or hfds/NAME."
        )
    given = next((given / below for below in CLS_LOC if (given / below).is_dir()), given)
    only = listing.folders(given)
    if len(only) == 1 and kind(only[0]) is None and _nested(given / only[0]):
        return given / only[0]
    return given


def evaluation(root: Path, flat: bool = False) -> Path | None:
    """The folder to measure on: of validation, else of test; None where the folders are classes and no splits.

    Args:
        root: a folder as `top` gives it.
        flat: whether images may lie in it without class folders, as a file of labels has them.

    Raises:
        BadData: there is a split to train on only, none has class folders, or which one is meant is not clear.
    """
    names = listing.folders(root)
    words = [name for name in names if kind(name)]
    nested = _nested(root)
    usable = words if flat else nested
    if not words or (len(words) < len(names) and not usable):
        return None
    if not usable:
        raise BadData(
            f"Data folder '{root}' has {_listed(words)} but no class folders in "
            f"{'it' if len(words) == 1 else 'them'}; put the images of each class into a folder of its own, or give a "
            "file with the label of each image (--labels)."
        )
    _refuse_unclear(root, names, usable)
    for wanted in ("val", "test"):
        found = _one(root, usable, wanted)
        if found is not None:
            return found
    without = next((name for name in words if kind(name) != "train" and listing.pictures_in(root / name)), None)
    if without:
        raise BadData(
            f"Data folder '{root / without}' has images but no class folders; give a file with the label of each "
            "(--labels), or put the images of each class into a folder of its own."
        )
    raise BadData(
        f"Data folder '{root}' has images to train on only ('{usable[0]}'); give one that has val too, or "
        f"'{root / usable[0]}' itself to measure on what was trained on."
    )


def training(root: Path, flat: bool = False) -> tuple[Path, Path]:
    """The folders to train on and to measure on; raises `BadData` as `evaluation` does, or if either is missing."""
    names = listing.folders(root)
    usable = [name for name in names if kind(name)] if flat else _nested(root)
    train = _one(root, usable, "train")
    if train is None:
        raise BadData(f"Data folder '{root}' has no split 'train' with class folders; it has {some(root)}.")
    held_out = _one(root, usable, "val") or _one(root, usable, "test")
    if held_out is None:
        raise BadData(f"Data folder '{root}' has no val folder with class folders; it has {some(root)}.")
    return train, held_out


def some(root: Path) -> str:
    """The first folders in a folder, for a sentence."""
    return ", ".join(listing.folders(root)[:5]) or "no folders"


def _nested(root: Path) -> list[str]:
    """The folders of splits that have folders in them."""
    return [name for name in listing.folders(root) if kind(name) and listing.folders(root / name)]


def _one(root: Path, names: list[str], wanted: str) -> Path | None:
    found = [name for name in names if kind(name) == wanted]
    if len(found) > 1:
        raise BadData(
            f"Data folder '{root}' has {_listed(found)}, and which of them is meant is not clear; "
            f"give one, as '{root / found[0]}', or remove the others."
        )
    return root / found[0] if found else None


def _refuse_unclear(root: Path, names: list[str], splits: list[str]) -> None:
    """Raise `BadData` if one folder may be a split, and another with images in it says that it may be a class."""
    other = next((n for n in names if not kind(n) and listing.pictures_in(root / n)), None)
    if len({kind(name) for name in splits}) == 1 and other is not None:
        raise BadData(
            f"Data folder '{root}' has '{splits[0]}' with folders in it beside '{other}' with images, so whether "
            f"'{splits[0]}' is a split or a class is not clear; give '{root / splits[0]}', or move one of them."
        )


def _listed(names: list[str]) -> str:
    return " and ".join(f"'{name}'" for name in names)
