"""Indexes of clips: files that say the class of each, and the split, as Kinetics and its users have them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenbench.data import decoding, labelfiles
from tokenbench.data.opening import below
from tokenbench.errors import BadData

NAMES = ("path", "clip", "video", "video_path", "clip_path", "file", "filename", "file_name", "name", "youtube_id")
LABELS = ("label", "class", "class_name", "target", "category", "label_name")
SPLITS = ("split", "subset", "set")


@dataclass(frozen=True)
class Listed:
    """A line of an index."""

    name: str
    label: str
    split: str | None = None


def read(path: Path) -> list[Listed]:
    """The lines of an index.

    A CSV or TSV with a header that names a column of clips and one of classes, and may name one of splits; Kinetics'
    own (label, youtube_id, time_start, time_end, split); or lines without a header, of a path and a class between
    which is a comma, a tab or a blank, and maybe the number of frames.

    Raises:
        BadData: no such file, or none of these.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise BadData(f"Index '{path}' cannot be read ({why}); give a CSV of clips and classes.") from None
    if not lines:
        raise BadData(f"Index '{path}' is empty; give a CSV of clips and classes.")
    separator = next((sign for sign in ("\t", ",") if sign in lines[0]), None)
    try:
        rows = [_parted(line) for line in lines] if separator is None else list(csv.reader(lines, delimiter=separator))
    except csv.Error as error:
        raise BadData(f"Index '{path}' is no CSV ({error}); give one of clips and classes.") from None
    called, began = [field.strip().lower() for field in rows[0]], 1
    name, label, split = (_first(called, known) for known in (NAMES, LABELS, SPLITS))
    if name is None or label is None:
        if len(rows[0]) != 2:
            raise BadData(
                f"Index '{path}' has columns {', '.join(rows[0][:6])}, and which are clips and classes is not clear; "
                "call them path and label."
            )
        name, label, split = 0, 1, None
        first, *others = rows
        odd = others and not any(first[1] in row[1:] for row in others) and not first[1].strip().isdigit()
        if odd and "/" not in first[0] and not decoding.is_video(first[0]):
            raise BadData(
                f"Index '{path}' begins with '{','.join(first)[:60]}', which is no path, and a class of nothing else; "
                "if that is a header, call its columns path and label."
            )
    else:
        rows, began = rows[1:], 2
    times = [_first(called, (key,)) for key in ("time_start", "time_end")] if called[name] == "youtube_id" else []
    last = max(column for column in (name, label, split, *times) if column is not None)
    for line, row in enumerate(rows, began):
        lacks = "too few columns" if len(row) <= last else "" if row[name].strip() and row[label].strip() else "a gap"
        if lacks:
            raise BadData(f"Index '{path}' has {lacks} in line {line}; give a clip and a class in each.")
    made = []
    for row in rows:
        called_so = row[name].strip()
        if None not in times and times:
            called_so += "".join(_second(row[column], path) for column in times if column is not None)
        made.append(Listed(called_so, row[label].strip(), None if split is None else row[split].strip()))
    return made


def located(listed: Sequence[Listed], root: Path, clips: Sequence[Path]) -> tuple[list[tuple[Listed, Path]], int, int]:
    """Each line with its clip, found by its path from the root on or its name, with or without suffix; how many lines
    have none; and how many name a clip again, which are left out.

    A line of another folder that no clip's path is has none, if its name is that of a clip that another line has.

    Raises:
        BadData: a name that several clips have, or a clip of two classes.
    """
    places = labelfiles.lookup(below(root, clip) for clip in clips)
    each = [_place(row, root, places) for row in listed]
    whole = {place for place, exactly in each if exactly}
    found: dict[int, Listed] = {}
    lost = again = 0
    for row, (place, exactly) in zip(listed, each, strict=True):
        if place is None or (not exactly and place in whole):
            lost += 1
        elif place not in found:
            found[place] = row
        elif found[place].label == row.label:
            again += 1
        else:
            raise BadData(
                f"The index has {below(root, clips[place])} as '{found[place].label}' and as '{row.label}'; leave one."
            )
    return [(row, clips[place]) for place, row in found.items()], lost, again


def _place(row: Listed, root: Path, places: Mapping[str, int | None]) -> tuple[int | None, bool]:
    """Where the clip of a line is, and whether by all of its path."""
    plain = row.name.removeprefix("./").removeprefix(f"{root}/")
    parts = plain.split("/")
    ends = ["/".join(parts[i:]) for i in range(1, len(parts))]  # of paths on another machine
    for name in (plain, f"{row.split}/{row.label}/{plain}", f"{row.label}/{plain}", *ends):
        if (place := places.get(name)) is not None:
            return place, "/" in name or name == plain
    if plain in places:
        raise BadData(f"The index has '{row.name}', which several clips are called; give their paths.")
    return None, False


def _parted(line: str) -> list[str]:
    """A path, in which there may be blanks, and a class; lists of frames have how many there are between them."""
    path, *numbers = line.rsplit(None, 2)
    framed = len(numbers) == 2 and all(number.isdecimal() for number in numbers)
    return [path, numbers[1]] if framed else line.rsplit(None, 1)


def _second(text: str, path: Path) -> str:
    """A time as names of Kinetics' clips have it."""
    try:
        return f"_{int(float(text)):06d}"
    except (ValueError, OverflowError):
        raise BadData(f"Index '{path}' has time '{text}', which is no number of seconds; mend it.") from None


def _first(called: Sequence[str], known: Sequence[str]) -> int | None:
    return next((called.index(name) for name in known if name in called), None)
