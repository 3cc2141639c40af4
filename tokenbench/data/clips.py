"""Labelled clips: video files or folders of frames, in folders of classes or listed in an index."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tokenbench.data import clipindex, decoding, listing, ordering, splits
from tokenbench.data.decoding import Choose, Frames
from tokenbench.data.images import Images
from tokenbench.data.labels import only_present
from tokenbench.errors import BadData

INDEXES = {
    "train": ("train.csv", "train.txt"),
    "val": ("val.csv", "validate.csv", "test.csv", "val.txt", "test.txt"),
}


ADVICE = "give one folder of videos, or of folders of frames, for each class, or an index (--clips index.csv)"


@dataclass(frozen=True, eq=False)
class Clips(Images):
    """Labelled clips, read one at a time; `items` are video files or folders of frames."""

    what: ClassVar[str] = "clip"
    items: Sequence[Path]
    reader: str = "auto"

    def read(self, index: int, choose: Choose) -> Frames:
        """Frames of one clip, as `decoding.read` gives them; raises what it raises."""
        return decoding.read(Path(self.items[index]), choose, self.reader)

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256, 16 hex digits, over names, and sizes in bytes of files or numbers of frames of folders."""
        sha = hashlib.sha256()
        for index in indices:
            item = Path(self.items[index])
            try:
                size = len(decoding.pictures(item)) if item.is_dir() else item.stat().st_size
            except OSError:
                size = -1  # it will be counted as unreadable when its turn comes
            sha.update(f"{self.label(index)}\0{size}\n".encode("utf-8", "surrogateescape"))
        if self.relabelled:
            sha.update(repr(([int(self.targets[index]) for index in indices], self.logits)).encode())
        return sha.hexdigest()[:16]


def open_clips(
    folder: Path, split: str | None = None, index: Path | None = None, order: str = "auto", reader: str = "auto"
) -> Clips:
    """The clips to score on, or those of a split.

    Args:
        folder: has a folder of clips for each class, in `val` or `test` or right there; or clips anywhere below, with
            an index that says the class of each. Without folders of classes `val.csv` and its like are taken.
        split: "train" for those to learn from; None for those to score on.
        index: the file that says the class of each clip, as `clipindex.read` takes it.
        order: of the classes, as `ordering.arrange` takes it.
        reader: as `decoding.read` takes it.

    Raises:
        BadData: no such folder or index, no clips, or it is not clear what is meant.
    """
    with _of_clips():
        top = splits.top(folder)
    beside = next((top / name for name in INDEXES["train" if split else "val"] if (top / name).is_file()), None)
    nested = any(splits.kind(name) and listing.folders(top / name) for name in listing.folders(top))
    if index is None and not nested:
        index = beside
    if index is not None:
        return _of_index(top, index, split, order, reader)
    with _of_clips():
        root = splits.training(top)[0] if split else splits.evaluation(top) or top
    names = listing.folders(root)
    found = {name: list(below(root / name)) for name in names}
    if not any(found.values()) and beside is not None:  # what looked like classes are clips themselves
        return _of_index(top, beside, split, order, reader)
    if not any(found.values()):
        raise BadData(f"Data folder '{root}' has no clips in folders of classes; {ADVICE}.")
    classes = ordering.arrange(names, order)
    items = [clip for name in sorted(names) for clip in found[name]]
    targets = [classes.index[name] for name in sorted(names) for _ in found[name]]
    return _made(top, root.name if root != top else "all", classes, items, targets, root, None, reader)


def open_training(
    folder: Path, index: Path | None = None, order: str = "auto", reader: str = "auto"
) -> tuple[Clips, Clips]:
    """The clips to learn from and those held out; raises `BadData` as `open_clips`, or if their classes differ, or a
    clip is in both.
    """
    train, other = (open_clips(folder, split, index, order, reader) for split in ("train", None))
    train, other = only_present(train), only_present(other)  # type: ignore[assignment]
    if train.names != other.names:
        odd = sorted(set(train.names) ^ set(other.names))
        raise BadData(
            f"Data folder '{folder}' has other classes in {train.split} and {other.split}, such as '{odd[0]}'; give "
            "both the same."
        )
    both = set(train.items) & set(other.items)
    if both:
        raise BadData(
            f"{len(both)} of {len(other)} clips to score on are learned from too, such as {min(both)}; give an index "
            "with a column of splits, or train.csv and val.csv of other clips each."
        )
    return train, other


@contextmanager
def _of_clips() -> Iterator[None]:
    """Advice that is of images in place of clips' own."""
    try:
        yield
    except BadData as error:
        what, _, advice = str(error).partition("; ")
        raise (BadData(f"{what}; {ADVICE}.") if "image" in advice else error) from None


def below(root: Path) -> Iterator[Path]:
    """Video files below a folder, and folders that hold pictures, in order of their paths."""
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in listing.CLUTTER)
        yield from (Path(folder, name) for name in sorted(files) if decoding.is_video(name))
        for name in list(folders):
            if listing.pictures_in(Path(folder, name)):
                folders.remove(name)
                yield Path(folder, name)


def _of_index(top: Path, index: Path, split: str | None, order: str, reader: str) -> Clips:
    listed = clipindex.read(index)
    kinds = {row.split for row in listed if row.split is not None}
    if kinds:
        wanted = ("train",) if split else ("val", "test")
        kept = next((kind for kind in wanted for name in kinds if splits.kind(name) == kind), None)
        if kept is None:
            raise BadData(f"Index '{index}' has no split {' or '.join(wanted)}; it has {', '.join(sorted(kinds))}.")
        listed = [row for row in listed if row.split and splits.kind(row.split) == kept]
    every = list(below(top))
    items, lost, again = clipindex.located(listed, top, every)
    if not items:
        raise BadData(f"Index '{index}' names none of the {len(every)} clips in '{top}', such as '{listed[0].name}'.")
    classes, places = ordering.named({row.label for row in listed}, order, f"Index '{index}'")
    targets = [places[row.label] for row, _ in items]
    name = split or (listed[0].split if kinds else index.stem)
    notes = [f"{lost} of {len(listed)} clips in {index.name} are not in {top}."] if lost else []
    notes += [f"{again} of {len(listed)} lines in {index.name} name a clip again; they are left out."] if again else []
    return _made(top, str(name), classes, [path for _, path in items], targets, top, index, reader, tuple(notes))


def _made(
    top: Path,
    split: str,
    classes: ordering.Classes,
    items: Sequence[Path],
    targets: Sequence[int],
    root: Path,
    index: Path | None,
    reader: str,
    notes: tuple[str, ...] = (),
) -> Clips:
    if not items:
        raise BadData(f"Data folder '{root}' has no clips; give one that has.")
    videos = Counter(path.is_dir() for path in items)[False]
    return Clips(
        top.resolve().name,
        split,
        classes.classes,
        items,
        targets,
        root,
        notes=notes,
        **classes.told(None if index is None else index.name),
        reader=decoding.reader(reader) if videos else "pictures",
    )
