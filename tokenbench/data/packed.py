"""Images that lie many to a file: what all kinds of such files share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tokenbench.core.words import counted
from tokenbench.data import ordering
from tokenbench.data.images import Images
from tokenbench.data.pack import Pack, Part
from tokenbench.errors import BadData

Label = int | str | None  # None: it is not said


@dataclass(frozen=True)
class Found:
    """A part of a data set: its images, and the label of each."""

    name: str
    split: str
    pack: Pack
    labels: Sequence[Label]
    names: tuple[str, ...] = ()  # what classes 0, 1 and so on are called, where the data says it
    column: str | None = None  # that labels are from, where the user said which
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> list[int]:
        """The images that have a label; a negative one says that there is none, as in test sets of the hub."""
        return [i for i, label in enumerate(self.labels) if label is not None and not _is_negative(label)]


def labelled(parts: Sequence[Found], order: str) -> list[Images]:
    """The images of each part that have a label, with the classes that the parts have between them.

    Names of classes are put in order as those of folders are, labels that are whole numbers are indices, and where the
    data says what each index is called, that is their order, unless all are ImageNet's wnids.

    Raises:
        BadData: a part without labels, or labels that mean no class.
    """
    kept = [found.kept for found in parts]
    for found, indices in zip(parts, kept, strict=True):
        if not indices:
            raise BadData(
                f"'{found.name}' has no label for any of its {len(found.labels)} images; give data that "
                "has, or name where they are (--labels NAME)."
            )
    here = {_called(found, found.labels[i]) for found, indices in zip(parts, kept, strict=True) for i in indices}
    classes, index = _classes(parts[0], here, order)
    return [_images(found, indices, classes, index) for found, indices in zip(parts, kept, strict=True)]


def _images(found: Found, kept: Sequence[int], classes: ordering.Classes, index: Mapping[str, int]) -> Images:
    told, count = list(found.notes), len(found.labels)
    if len(kept) < count:
        told.append(f"{found.name}: {count - len(kept)} of {count} images have no label and are left out.")
    return Images(
        found.name,
        found.split,
        classes.classes,
        found.pack if len(kept) == count else Part(found.pack, kept),
        [index[_called(found, found.labels[i])] for i in kept],
        notes=tuple(told),
        **classes.told(found.column),
    )


def _classes(found: Found, here: set[str], order: str) -> tuple[ordering.Classes, Mapping[str, int]]:
    """The classes in their order, and the index of each that has images."""
    where = f"'{found.name}'"
    if not found.names:
        return ordering.named(here, order, where)
    wnids = set(found.names) <= ordering.wnids(1000).keys()
    if order == "auto" and not wnids:
        classes = ordering.Classes(found.names, "data")
    else:
        classes = ordering.arrange(found.names, order)
    every = classes.index
    odd = min(here - every.keys(), default=None)
    if odd is not None:
        raise BadData(
            f"{where} has a label '{odd}' in one split that is none of the classes that another names, such as "
            f"'{found.names[0]}'; write all alike."
        )
    index = {name: every[name] for name in here}
    whole = len(index) == len(classes.classes)
    return replace(classes, here=None if whole else tuple(sorted(index.values()))), index


def _called(found: Found, label: Label) -> str:
    if not found.names or not isinstance(label, int):
        return str(label)
    if label >= len(found.names):
        names = counted(len(found.names), "class", "classes")
        raise BadData(f"'{found.name}' has label {label} but names {names}; mend its labels.")
    return found.names[label]


def _is_negative(label: int | str) -> bool:
    return isinstance(label, int) and label < 0
