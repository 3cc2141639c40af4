"""The numbers papers printed, beside the measured ones, with what may explain the difference."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenbench.methods import catalogue
from tokenbench.methods.paper import Reported
from tokenbench.runs.row import FIRST_TASK, Row

VALIDATION = 50_000  # images of ImageNet-1k's validation set, which all published accuracies are of
_IMAGENET = re.compile(r"(imagenet|ilsvrc)[-_ ]?(1k|1000|2012|12|ilsvrc)?[-_ ]?(2012)?|in1k|(ilsvrc[-_]?)?cls[-_]?loc")


@dataclass(frozen=True)
class Comparison:
    """One measured row and one published number for its setting."""

    row: Row
    reported: Reported

    @property
    def top1(self) -> float | None:
        """Measured minus published, in points; None unless both are of the same images and weights."""
        mine, theirs = _top1(self.row), self.reported.top1
        return None if self.hinders or mine is None or theirs is None else mine - theirs

    @property
    def gmacs(self) -> float | None:
        """Measured over published, minus 1."""
        mine, theirs = self.row.gmacs, self.reported.gmacs
        return None if mine is None or not theirs else mine / theirs - 1

    @property
    def inside(self) -> bool | None:
        """Whether the published accuracy lies in the 95 % interval of the measured one."""
        low, high = self.row.metrics.get("top1_low"), self.row.metrics.get("top1_high")
        if self.hinders or self.reported.top1 is None or low is None or high is None:
            return None
        return low <= self.reported.top1 <= high

    @property
    def hinders(self) -> list[str]:
        """Why the two accuracies cannot be compared, as clauses; none where they can or there are none."""
        row = self.row
        if _top1(row) is None or self.reported.top1 is None:
            return []
        found = []
        if not is_imagenet(row):
            found.append(f"measured on {row.dataset} ({row.split}), published on ImageNet-1k's validation set")
        given, own = row.weights.name.split("@")[0], _hub_name(self.reported.backbone)
        if row.weights.kind == "hub" and row.trained is None and own is not None and given != own:
            found.append(f"measured with {given}, published for {own}")
        return found

    @property
    def reasons(self) -> list[str]:
        """What differs between the two, as clauses; that nothing is known to differ is said, too."""
        row, found = self.row, self.hinders
        if _top1(row) is None:
            found.append(f"accuracy was not measured{f' ({row.reason})' if row.reason else ''}")
        elif row.images != VALIDATION and is_imagenet(row):
            found.append(f"measured on {row.images or 0:,} of {VALIDATION:,} images")
        if self.reported.trained and not is_trained(row):
            found.append("published after training with the method, measured with weights that were not")
        if is_trained(row) and not self.reported.trained:
            found.append("measured after training with the method, published without")
        if _top1(row) is not None and row.weights.kind == "file" and not is_trained(row):
            found.append(f"measured with the weights in {row.weights.name}")
        if row.precision != "fp32":
            found.append(f"measured in {row.precision}")
        found += [f"measured with {name.replace('_', ' ')} {value}" for name, value in row.shared.items()]
        if self.reported.note:
            found.append(f"published for {self.reported.note}")
        if self.reported.reason:
            found.append(self.reported.reason)
        return found or ["nothing known differs"]


def compared(row: Row) -> list[Comparison]:
    """A row beside each number that its paper printed for it."""
    return [Comparison(row, reported) for reported in of(row)]


def of(row: Row) -> list[Reported]:
    """The paper's own numbers for exactly this setting on this backbone, at the backbone's own image size."""
    if row.task != FIRST_TASK:
        return []
    weights = catalogue.weights(row.backbone)
    if weights is not None and weights.size != row.image_size:
        return []
    mine = [p for p in catalogue.printed(row.method) if _is_same(row.backbone, p.reported.backbone)]
    return [p.reported for p in mine if p.setting == row.setting]


def _is_same(name: str, reported: str) -> bool:
    """Whether a backbone is the one of a published number, whatever it is called; without a tag it is any of its kind.

    Which weights a row was measured with is asked later.
    """
    mine, theirs = catalogue.weights(name), catalogue.weights(reported)
    if name == reported or mine is None or theirs is None:
        return name == reported
    return mine.architecture == theirs.architecture and (mine.tag == theirs.tag or "." not in name)


def is_trained(row: Row) -> bool:
    """Whether the row's weights were trained with the method, rather than taken off the shelf."""
    return row.trained is not None


def is_imagenet(row: Row) -> bool:
    """Whether accuracy is of ImageNet-1k's validation set, or of a part of it, so far as the row tells.

    In rows of earlier versions its folder must be called as it usually is, and have as many images.
    """
    if row.imagenet_val is not None:
        return row.imagenet_val
    whole = (row.images_total or (row.images or 0) + (row.skipped or 0)) == VALIDATION
    return whole and row.split != "train" and bool(_IMAGENET.fullmatch((row.dataset or "").lower()))


def _top1(row: Row) -> float | None:
    return row.metrics.get("top1")


def _hub_name(backbone: str) -> str | None:
    weights = catalogue.weights(backbone)
    return weights.hub if weights else None
