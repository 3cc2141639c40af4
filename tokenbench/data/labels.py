"""Labels as a model has them: classes found again by name, placed in a larger head, or narrowed to those there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tokenbench.core.words import counted
from tokenbench.data.images import Images
from tokenbench.data.ordering import wnids
from tokenbench.errors import BadData, DataError


def match(images: Images, classes: int, model: str, names: Sequence[str] | None = None) -> Images:
    """The images with targets that index a model's classes.

    Args:
        images: as they were opened; unchanged where their classes are the model's already.
        classes: how many the model has.
        model: what to call it.
        names: what its weights call their classes, if they say it; the images' classes are found among them by name.

    Raises:
        DataError: the classes are others than the model's.
    """
    if images.order == "index":
        return _of_indices(images, classes, model)
    words = images.order == "imagenet" and names is not None and not wnids(1000).keys() & set(names)
    if names is not None and images.order != "file" and not words and not _only_numbers(names, images):
        return _by_name(images, classes, model, names)
    if len(images.classes) != classes:
        head = wnids(classes)
        if len(images.present) == classes:
            return only_present(images)
        if head and all(images.names[i] in head for i in images.present):
            places = {i: head[images.names[i]] for i in images.present}
            return _relabelled(images, places, tuple(head), order="imagenet", doubt=None)
    check_classes(images, classes, model)
    doubts = [images.doubt] if images.doubt else []
    if classes == 1000 and images.order in ("natural", "lexical"):
        doubts.append(
            f"{model} has an ImageNet head but the names of its 1000 folders are no wnids ('{images.names[0]}'), so "
            f"class 0 is taken for {images.names[0]}; --class-order FILE says which is which"
        )
    return replace(images, notes=(*images.notes, *(f"{images.name}: {doubt}." for doubt in doubts)), doubt=None)


def only_present(images: Images) -> Images:
    """The images as a model has them whose classes are only those that have a folder or label."""
    if len(images.present) == len(images.classes):
        return images
    places = {old: new for new, old in enumerate(images.present)}
    return _relabelled(images, places, tuple(images.names[i] for i in images.present))


def restricted(images: Images) -> Images:
    """The images, scored among the classes that have a folder or label; a model's other logits are not looked at."""
    narrowed = only_present(images)
    return images if narrowed is images else replace(narrowed, logits=images.present)


def told_of_part(images: Images, model: str) -> Images:
    """The images, with a note if they are of a part of the model's classes only."""
    if len(images.present) == len(images.classes):
        return images
    note = (
        f"{model}: {len(images.present)} of its {len(images.classes)} classes are in {images.name}, and all of them "
        "are guessed from; --restrict-classes guesses from those that are there."
    )
    return replace(images, notes=(*images.notes, note))


def check_classes(images: Images, classes: int, model: str) -> None:
    """Raise `DataError` unless a model with that many classes can be scored on these images."""
    if len(images.classes) != classes:
        count = len(images.present) if len(images.present) < len(images.classes) else len(images.classes)
        raise DataError(
            f"{images.name} has {counted(count, 'class', 'classes')} but {model} has {classes}; "
            "give data of the model's classes, or weights trained on these."
        )


def _by_name(images: Images, classes: int, model: str, names: Sequence[str]) -> Images:
    places = {name: i for i, name in enumerate(names)}
    odd = [images.names[i] for i in images.present if images.names[i] not in places]
    if odd:
        check_classes(images, classes, model)
        raise BadData(
            f"{images.name} has a class '{odd[0]}' but the weights of {model} were trained on '{names[0]}' and "
            f"{len(names) - 1} others without it; rename the folders, give other weights, or say which class is which "
            "with --class-order FILE."
        )
    if tuple(names) == images.names:
        return replace(images, doubt=None)
    found = {i: places[images.names[i]] for i in images.present}
    told = []
    if any(old != new for old, new in found.items()) and len(images.classes) == classes:
        told.append(f"{images.name}: classes are brought into the order of the weights, by name.")
    if len(found) < classes:
        told.append(f"{images.name}: {len(found)} of the {classes} classes of {model} have images.")
    matched = _relabelled(images, found, tuple(names), order="names", doubt=None)
    return replace(matched, notes=(*images.notes, *told))


def _only_numbers(names: Sequence[str], images: Images) -> bool:
    """Whether classes are called by their indices, here or there, which says nothing about what they are."""
    numbers = tuple(map(str, range(len(names))))
    return numbers in (tuple(names), images.names) and len(names) == len(images.classes)


def _of_indices(images: Images, classes: int, model: str) -> Images:
    """Labels that are whole numbers are indices of the model's classes, however many there are."""
    low, high = images.present[0], images.present[-1]
    if high >= classes:
        hint = "; they seem to count from 1, so subtract 1" if low == 1 and high == classes else ""
        raise BadData(
            f"Labels in {images.labels or images.name} go up to {high} but those of {model} are 0 to {classes - 1}"
            f"{hint or '; give others'}."
        )
    return replace(images, classes=tuple(map(str, range(classes))))


def _relabelled(images: Images, places: Mapping[int, int], names: tuple[str, ...], **changes: object) -> Images:
    """With other classes, of which `places` says where each of the present ones is."""
    whole = len(places) == len(names)
    return replace(
        images,
        classes=names,
        ids=(),
        targets=[places[int(target)] for target in images.targets],
        here=None if whole else tuple(sorted(places.values())),
        relabelled=True,
        **changes,  # type: ignore[arg-type]
    )
