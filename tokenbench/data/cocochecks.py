"""What can be wrong with annotations in COCO's layout: each fault named with file and id, and what is done about it."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from tokenbench.data.opening import reason
from tokenbench.errors import BadData

OUT = "they are left out"
SLACK = 1.0  # pixels that a box may reach over its image; COCO's own do
CORNERS = 0.2  # share of boxes that reach over their images, from which on they are taken for corners
PROBED = 500  # outlines that boxes are held to
FAR = 10  # sides of an image, beyond which a point is no slip: what is drawn between points fills memory


@dataclass
class Sifted:
    """The images and annotations that can be used, the categories by number, and the faults of the rest."""

    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    categories: dict[int, str] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)  # the fault, and what is done about it, as clauses

    @property
    def faults(self) -> list[str]:
        """The faults alone."""
        return [fault for fault, _ in self.told]


class _Faults:
    """Faults by kind, of which the first is named."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total = what, total
        self.kinds: dict[str, list[str]] = defaultdict(list)
        self.done: dict[str, str] = {}

    def add(self, kind: str, which: str, done: str = OUT) -> None:
        self.kinds[kind].append(which)
        self.done[kind] = done

    def told(self) -> Iterator[tuple[str, str]]:
        for kind, found in self.kinds.items():
            yield f"{len(found):,} of {self.total:,} {self.what} {kind} (first: {found[0]})", self.done[kind]


def sift(content: Mapping[str, Any], root: Path, path: Path) -> Sifted:
    """Look at every image, category and annotation of a file.

    Args:
        content: what the file holds.
        root: the folder of images.
        path: the file, for messages.

    Raises:
        BadData: what cannot be left out: images of the same id, boxes that are corners, nothing that can be used.
    """
    found = Sifted()
    _categories(content.get("categories", []), found, path)
    images = _images(content["images"], root, found, path)
    if not found.images:
        why = f": {found.faults[0]}" if found.told else ""
        raise BadData(f"{path} has no image that can be used{why}; give --images FOLDER, or another file.")
    _annotations(content.get("annotations", []), images, found, path)
    return found


def _categories(listed: Sequence[Any], found: Sifted, path: Path) -> None:
    faults = _Faults("categories", len(listed))
    for one in listed:
        number: Any = one.get("id") if isinstance(one, Mapping) else None
        if not _whole(number):
            faults.add("have no id", repr(one)[:60])
        elif number in found.categories:
            raise BadData(f"{path} has two categories with id {number}; give each its own.")
        else:
            name = one.get("name")
            if not isinstance(name, str) or not name.strip():
                faults.add("have no name", f"id {number}", "they are called by their ids")
                name = f"category {number}"
            elif name in found.categories.values():
                faults.add("have the name of another", f"id {number}, '{name}'", "they stay apart by their ids")
            found.categories[number] = name
    found.categories = dict(sorted(found.categories.items()))
    found.told += faults.told()


def _images(listed: Sequence[Any], root: Path, found: Sifted, path: Path) -> dict[int, dict[str, Any]]:
    """Those that can be used, by id."""
    faults, images, files = _Faults("images", len(listed)), dict[int, dict[str, Any]](), set[str]()
    for one in listed:
        number: Any = one.get("id") if isinstance(one, Mapping) else None
        if not _whole(number) or not isinstance(one.get("file_name"), str):
            faults.add("have no id or file name", repr(one)[:60])
            continue
        which = f"id {number}, {one['file_name'][:255]}"
        if number in images:
            raise BadData(
                f"{path} has two images with id {number} ({images[number]['file_name']}, {one['file_name']})."
            )
        images[number] = dict(one)
        if one["file_name"] in files:
            faults.add("have the file of another", which, "they are kept")
        files.add(one["file_name"])
        file = root / one["file_name"]
        if not os.path.isfile(file):  # of names that no file can have too
            faults.add(f"are not in {root}", which)
            continue
        try:
            with Image.open(file) as opened:
                width, height = opened.size
        except Exception as error:  # a damaged file makes PIL raise nearly anything
            faults.add("cannot be read", f"{which}: {reason(error)}")
            continue
        said = tuple(
            there if one.get(side) is None else one[side] for side, there in (("width", width), ("height", height))
        )
        if said != (width, height):
            faults.add("have another size than is stated", f"{which}: {width}x{height}, stated {said[0]}x{said[1]}")
            continue
        found.images.append({**one, "width": width, "height": height})
    found.told += faults.told()
    return images


def _annotations(listed: Sequence[Any], images: Mapping[int, dict[str, Any]], found: Sifted, path: Path) -> None:
    faults, seen = _Faults("annotations", len(listed)), set[int]()
    usable = {image["id"]: image for image in found.images}
    reaching = corners = boxed = shares = 0
    bare = list[str]()
    for one in listed:
        if not isinstance(one, Mapping):
            faults.add("are no objects of JSON", repr(one)[:60])
            continue
        number: Any = one.get("id")
        of, kind = one.get("image_id"), one.get("category_id")
        which = f"id {number}"
        image: Any = usable.get(of) if _whole(of) else None
        if image is None:
            if not _whole(of) or of not in images:
                faults.add("are of images that the file does not have", f"{which}: image {of}")
            continue  # else its image is left out, and told already
        which = f"{which} in {image['file_name']}"
        if not _whole(number):
            faults.add("have no id", which, "they are kept")
        elif number in seen:
            faults.add("have the id of another", which, "they are kept")
        else:
            seen.add(number)
        if not _whole(kind) or kind not in found.categories:
            faults.add("are of categories that the file does not have", f"{which}: category {kind}")
            continue
        box = one.get("bbox")
        if not _is_box(box):
            faults.add("have no box of four numbers", which)
            continue
        if one.get("iscrowd") not in (None, 0, 1):
            faults.add("say neither 0 nor 1 of iscrowd", f"{which}: {one['iscrowd']!r}"[:300])
            continue
        x, y, w, h = box  # type: ignore[misc]
        boxed += 1
        shares += max(map(abs, (x, y, w, h))) <= 1
        over = x + w > image["width"] + SLACK or y + h > image["height"] + SLACK
        reaching += over
        corners += over and x < w <= image["width"] + SLACK and y < h <= image["height"] + SLACK
        if w <= 0 or h <= 0:
            faults.add("have boxes of no area", which)
        elif x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
            faults.add("have boxes outside their images", which)
        elif why := _outline(one.get("segmentation"), image):
            faults.add(why, which)
        else:
            if over or min(x, y) < -SLACK:
                faults.add("have boxes that reach over their images", which, "they are cut to it in training")
            area, outline = one.get("area"), one.get("segmentation")
            if area is not None and not (_number(area) and area >= 0):
                odd = "below 0" if _number(area) else "that are no numbers"
                faults.add(f"have areas {odd}", which, "that of the box is taken")
                area = None
            if isinstance(outline, list) and any(len(polygon) < 6 for polygon in outline):
                faults.add(
                    "have polygons of fewer than three points beside others", which, "these polygons are left out"
                )
            bare += [] if outline else [which]
            found.annotations.append({**one, "bbox": [x, y, w, h], "area": area})
    if boxed and shares == boxed:
        raise BadData(
            f"{path} gives boxes as shares of their images, from 0 to 1; COCO's are in pixels, so convert them."
        )
    _not_corners(found, corners, boxed, path, listed)
    for which in bare if len(bare) < len(found.annotations) else ():
        faults.add("have no outline, as others have", which, "so masks are neither learned nor scored")
    found.told += faults.told()
    kinds = Counter(one["category_id"] for one in found.annotations)
    if len(found.categories) > 1 and len(kinds) == 1 and len(found.annotations) > 1:
        name = found.categories[next(iter(kinds))]
        found.told.append(
            (
                f"all {len(found.annotations):,} objects are of '{name}', one of {len(found.categories)} categories",
                "the others are never found",
            )
        )


def _outline(outline: Any, image: Mapping[str, Any]) -> str | None:
    """What is wrong with an outline; None where nothing is, or there is none."""
    if not outline:
        return None
    if isinstance(outline, Mapping):
        size, counts = outline.get("size"), outline.get("counts")
        if not isinstance(counts, str | bytes | list):
            return "have encoded masks without counts"
        stated = list(size) if isinstance(size, list | tuple) else None
        if stated != [image["height"], image["width"]]:
            return "have encoded masks of another size than their images"
        runs = counts if isinstance(counts, list) else _runs(counts)
        if not all(_whole(run) and run >= 0 for run in runs) or sum(runs) != image["height"] * image["width"]:
            return "have encoded masks whose runs are not as long as their images"
        return None
    if not isinstance(outline, list) or not all(isinstance(polygon, list) for polygon in outline):
        return "have outlines that are neither polygons nor encoded masks"
    if not all(_number(value) for polygon in outline for value in polygon):
        return "have polygons with other things than numbers"
    if any(abs(value) > FAR * max(image["height"], image["width"]) for polygon in outline for value in polygon):
        return "have polygons far outside their images"
    if any(len(polygon) % 2 for polygon in outline):
        return "have polygons with half a point"
    if all(len(polygon) < 6 for polygon in outline):
        return "have polygons of fewer than three points"
    return None


def _runs(counts: str | bytes) -> list[int]:
    """The lengths of runs that COCO's compressed counts stand for: five bits a character, each run from the third on as
    the difference from the one before the last; [-1] where they stand for nothing.
    """
    runs, value, shift = list[int](), 0, 0
    for byte in counts.encode() if isinstance(counts, str) else counts:
        if not 48 <= byte < 112:
            return [-1]
        value, shift = value | (byte - 48 & 31) << shift, shift + 5
        if byte - 48 & 32:
            continue
        value -= (byte - 48 & 16) and 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return [-1] if shift else runs


def _not_corners(found: Sifted, corners: int, boxed: int, path: Path, listed: Sequence[Any]) -> None:
    """Raise `BadData` where boxes are x1, y1, x2, y2: they reach over images, or outlines end where they say."""
    outlined = (one for one in found.annotations if isinstance(one.get("segmentation"), list) and one["segmentation"])
    drawn = [*islice(outlined, PROBED)]
    ends = 0
    for one in drawn:
        x, y, w, h = one["bbox"]
        xs = [v for polygon in one["segmentation"] for v in polygon[0::2]]
        ys = [v for polygon in one["segmentation"] for v in polygon[1::2]]
        near = abs(max(xs) - w) <= SLACK and abs(max(ys) - h) <= SLACK
        ends += near and (abs(max(xs) - x - w) > SLACK or abs(max(ys) - y - h) > SLACK)
    reach, end = boxed and corners / boxed > CORNERS, len(drawn) > 1 and ends / len(drawn) > 0.5
    if reach or end:
        first = next(one for one in listed if isinstance(one, Mapping) and _is_box(one.get("bbox")))
        how = (
            f"{corners:,} of {boxed:,} reach over their images" if reach else f"{ends} of {len(drawn)} outlines say so"
        )
        raise BadData(
            f"{path} gives boxes as x1, y1, x2, y2 ({how}; first: id {first.get('id')}, {first['bbox']}); COCO's are "
            "x, y, width, height, so convert them."
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_box(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 4 and all(map(_number, value))
