"""How alike settings are, block by block: what they keep, how they group, and their features.

IoU and NMI are those that TokenReduction reports (Haurum et al., arXiv 2308.04657). Needs no torch.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, UsageError
from tokenbench.maps.arrays import READ, Floats, TokenMaps, agreements
from tokenbench.measure.likeness import cka

NAME = "similarity.csv"
FEWEST = 4  # images that CKA takes


class Alike(BaseModel):
    """How alike two settings are after a block; means over images, and CKA over all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    backbone: str
    images: int
    method: str  # tome
    setting: str  # tome[r=13]
    other_method: str
    other: str
    block: int
    kept_iou: float
    cluster_nmi: float
    cka_class: float | None  # of the class token; None where not both have one
    cka_others: float | None  # of the mean of all other tokens


def measure(parts: Iterable[Sequence[TokenMaps]]) -> list[Alike]:
    """Every two settings after every block.

    Args:
        parts: maps of the same settings on some images after others, with features, as `Ready.maps` gives them.

    Raises:
        UsageError: fewer than two settings, or than four images.
    """
    first: Sequence[TokenMaps] = ()
    sums: dict[tuple[int, int], Floats] = {}
    features: list[list[dict[str, list[Floats]]]] = []
    images = 0
    for maps in parts:
        first = first or maps
        features = features or [[{name: [] for name in block} for block in m.features] for m in maps]
        images += len(maps[0].names)
        for a, b in combinations(range(len(maps)), 2):
            sums[a, b] = sums.get((a, b), 0.0) + agreements(maps[a], maps[b]).sum(2)
        for m, kept in zip(maps, features, strict=True):
            for block, so_far in zip(m.features, kept, strict=True):
                for name, values in block.items():
                    so_far[name].append(values)
    if len(first) < 2 or images < FEWEST:
        raise UsageError(
            f"Similarity is that of two settings or more on {FEWEST} images or more, and here is {len(first)} on "
            f"{images}; give more."
        )
    whole = [[{name: np.concatenate(each) for name, each in block.items()} for block in m] for m in features]
    found = []
    for a, b in combinations(range(len(first)), 2):
        named = {"method": first[a].method, "setting": first[a].label}
        named |= {"other_method": first[b].method, "other": first[b].label, "backbone": first[a].backbone}
        for after, (kept_iou, cluster_nmi) in enumerate((sums[a, b] / images).tolist()):
            of_class, of_others = (_cka(whole[a][after], whole[b][after], name) for name in READ)
            alike = {"kept_iou": kept_iou, "cluster_nmi": cluster_nmi, "cka_class": of_class, "cka_others": of_others}
            found.append(Alike(**named, images=images, block=after, **alike))
    return found


def _cka(a: dict[str, Floats], b: dict[str, Floats], name: str) -> float | None:
    """None where not both have these features, or one has the same for all images."""
    value = cka(a[name], b[name]) if name in a and name in b else np.nan
    return None if np.isnan(value) else float(value)


def write(found: Sequence[Alike], path: Path) -> None:
    """A line each, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Alike.model_fields))
        writer.writeheader()
        writer.writerows(alike.model_dump() for alike in found)


def read(path: Path) -> list[Alike]:
    """What `write` wrote.

    Raises:
        ResultsError: the file is damaged, or another kind of table.
    """
    try:
        with atomic.regular(path).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, restval="missing")
            if reader.fieldnames != list(Alike.model_fields):
                raise ValueError("it has other columns")
            return [Alike.model_validate({k: v or None for k, v in line.items()}) for line in reader]
    except (OSError, ValueError, csv.Error) as error:
        what = str(error).partition("\n")[0]
        raise ResultsError(f"'{path}' is no table of similarity, or it is damaged ({what}); trace it again.") from None
