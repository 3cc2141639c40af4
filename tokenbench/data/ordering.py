"""Which index each class has: the order of class names, and files that say it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from timm.utils.misc import natural_key

from tokenbench.errors import BadData

ORDERS = {  # values of --class-order
    "auto": "imagenet where all names are ImageNet-1k wnids, else natural",
    "natural": "1, 2, 10, as timm's own reader of folders has it",
    "lexical": "1, 10, 2, as torchvision's ImageFolder has it, and with it DeiT, EViT and DynamicViT",
    "imagenet": "the place of each wnid among ImageNet's 1000",
}
LARGEST = 10**6  # class index that is believed
LIMIT = 64 * 2**20  # bytes of a file of class names; one of all of ImageNet-21k has 1 MB


@dataclass(frozen=True)
class Classes:
    """Classes in their order; the fields mean what those of `Images` do."""

    classes: tuple[str, ...]
    order: str
    ids: tuple[str, ...] = ()
    here: tuple[int, ...] | None = None
    doubt: str | None = None

    @property
    def index(self) -> dict[str, int]:
        """The index of each class that has a folder or label, by what it is called there."""
        names = self.ids or self.classes
        return {names[i]: i for i in (range(len(names)) if self.here is None else self.here)}

    def told(self, labels: str | None) -> dict[str, Any]:
        """What `Images` and `Clips` keep of them; `labels` is the file or column that the user said labels are from."""
        return {
            **{"ids": self.ids, "here": self.here, "order": self.order, "doubt": self.doubt},
            "labels": labels,
            "relabelled": labels is not None or not self.by_itself,
        }

    @property
    def by_itself(self) -> bool:
        """Whether the names alone decide the order, as they always did."""
        return self.order in ("natural", "imagenet")


def named(labels: Collection[str], order: str, source: str) -> tuple[Classes, dict[str, int]]:
    """The classes that labels mean, and the index of each: its own, if all are whole numbers; else as `arrange` has it.

    Raises:
        BadData: as `arrange`; or a number that is no class index, in what `source` calls it.
    """
    if order != "auto" or not all(label.isascii() and label.isdigit() for label in labels):
        classes = arrange(labels, order)
        return classes, classes.index
    index = {label: int(label[:20]) for label in labels}
    most = max(index.values())
    if most >= LARGEST:
        raise BadData(f"{source} has label {most}, which is no class index; give others.")
    return Classes(tuple(map(str, range(most + 1))), "index", here=tuple(sorted(set(index.values())))), index


def arrange(names: Collection[str], order: str = "auto") -> Classes:
    """Put class names in order.

    Args:
        names: of folders or labels, in any order.
        order: one of `ORDERS`, or a file: class names one a line, or JSON from names to indices or the other way round.

    Raises:
        BadData: no such order or file, or names that it does not have.
    """
    if order not in ORDERS:
        return _from_file(names, Path(order))
    synsets = wnids(1000)
    known = set(names) <= synsets.keys()
    if order == "imagenet" or (order == "auto" and known):
        if not known:
            odd = min(set(names) - synsets.keys())
            raise BadData(f"'{odd}' is no ImageNet-1k wnid, so --class-order imagenet cannot be; give another.")
        return Classes(descriptions(), "imagenet", tuple(synsets), tuple(sorted(synsets[name] for name in names)))
    counted, lexical = natural(names), tuple(sorted(names))
    if order == "lexical":
        return Classes(lexical, "lexical")
    doubt = None
    if order == "auto" and counted != lexical:
        first = next(i for i, (a, b) in enumerate(zip(counted, lexical, strict=True)) if a != b)
        doubt = (
            f"classes are taken in natural order, where class {first} is '{counted[first]}'; in the order of "
            f"torchvision's ImageFolder (DeiT, EViT, DynamicViT) it is '{lexical[first]}', and weights trained so need "
            "--class-order lexical"
        )
    return Classes(counted, "natural", doubt=doubt)


@cache
def wnids(classes: int) -> dict[str, int]:
    """The index of each wnid in an ImageNet head of that many classes; empty where timm knows no such head."""
    subset = infer_imagenet_subset({"num_classes": classes})
    return {} if subset is None else {name: i for i, name in enumerate(_info(subset).label_names())}


@cache
def descriptions() -> tuple[str, ...]:
    """What each of ImageNet's 1000 classes is, in words."""
    return tuple(_info("imagenet-1k").label_descriptions())


def _info(subset: str) -> Any:
    return ImageNetInfo(subset)


def natural(names: Collection[str]) -> tuple[str, ...]:
    """Names in timm's natural order."""
    return tuple(sorted(names, key=_natural))


def _natural(name: str) -> tuple[Any, str]:
    try:
        return natural_key(name), name  # the name itself where keys are equal, as those of 1 and 01
    except ValueError:  # signs such as ² that are digits but no numbers
        return [name.lower()], name


def _from_file(names: Collection[str], path: Path) -> Classes:
    listed = _listed(path)
    index = {name: i for i, name in enumerate(listed)}
    odd = sorted(set(names) - index.keys())
    if odd:
        raise BadData(
            f"Class file '{path}' has no class '{odd[0]}'{f' and {len(odd) - 1} more' if len(odd) > 1 else ''} "
            f"of those in the data; it has {len(listed)}, the first '{listed[0]}'."
        )
    return Classes(listed, "file", here=tuple(sorted(index[name] for name in names)))


def _listed(path: Path) -> tuple[str, ...]:
    """The class names in a file, in the order of their indices."""
    if not path.is_file():
        raise BadData(
            f"--class-order {path} is neither an order nor a file; give {', '.join(ORDERS)}, or a file with the names "
            "of the classes, one a line."
        )
    try:
        if path.stat().st_size > LIMIT:
            raise ValueError(f"it has more than {LIMIT >> 20} MiB")
        text = path.read_text(encoding="utf-8-sig")
        found = _of_json(json.loads(text)) if path.suffix.lower() == ".json" else _of_lines(text)
        if len(set(found)) != len(found) or not found:
            raise ValueError("a name is there twice" if found else "it is empty")
    except OSError as error:
        raise BadData(f"Class file '{path}' cannot be read ({error.strerror}); give another.") from None
    except (ValueError, RecursionError) as error:
        raise BadData(
            f"Class file '{path}' cannot be used ({str(error).splitlines()[0]}); give names one a line, or JSON from "
            "names to indices from 0 on."
        ) from None
    return found


def _of_lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _of_json(content: Any) -> tuple[str, ...]:
    """Names of a list; of {name: index}; or of {index: name} or {index: [name, words]}, as Keras has it."""
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(content)
    if not isinstance(content, dict):
        raise ValueError("it is no list of names and no mapping")
    if all(isinstance(value, int) and not isinstance(value, bool) for value in content.values()):
        pairs = {value: name for name, value in content.items()}
    else:
        pairs = {int(key): value[0] if isinstance(value, list) and value else value for key, value in content.items()}
    if sorted(pairs) != list(range(len(content))):
        raise ValueError("its indices are not 0, 1, 2 and so on")
    names: Sequence[Any] = [pairs[i] for i in range(len(pairs))]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a class has no name")
    return tuple(names)
