"""The numbers papers printed, beside the measured ones, with what may explain the difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tokenbench.runs.row import FIRST_TASK, Row

if TYPE_CHECKING:
    from tokenbench.methods.base import Reported

VALIDATION = 50_000  # images of ImageNet-1k's validation set, which all published accuracies are of


@dataclass(frozen=True)
class Comparison:
    """One measured row and one published number for its setting."""

    row: Row
    reported: Reported

    @property
    def top1(self) -> float | None:
        """Measured minus published, in points."""
        return None if None in (self.row.top1, self.reported.top1) else (self.row.top1 or 0) - (self.reported.top1 or 0)

    @property
    def gmacs(self) -> float | None:
        """Measured over published, minus 1."""
        mine, theirs = self.row.gmacs, self.reported.gmacs
        return None if mine is None or not theirs else mine / theirs - 1

    @property
    def inside(self) -> bool | None:
        """Whether the published accuracy lies in the 95 % interval of the measured one."""
        low, high = self.row.top1_low, self.row.top1_high
        if self.reported.top1 is None or low is None or high is None:
            return None
        return bool(low <= self.reported.top1 <= high)

    @property
    def reasons(self) -> list[str]:
        """What differs between the two, as clauses; that nothing is known to differ is said, too."""
        row, found = self.row, []
        if row.top1 is None:
            found.append(f"accuracy was not measured{f' ({row.reason})' if row.reason else ''}")
        elif row.images != VALIDATION:
            found.append(f"measured on {row.images or 0:,} images of {row.dataset}, published on ImageNet validation")
        if self.reported.trained and not is_trained(row):
            found.append("published after training with the method, measured with weights that were not")
        if is_trained(row) and not self.reported.trained:
            found.append("measured after training with the method, published without")
        if row.precision != "fp32":
            found.append(f"measured in {row.precision}")
        if self.reported.note:
            found.append(f"published for {self.reported.note}")
        return found or ["nothing known differs"]


def of(row: Row) -> list[Reported]:
    """The paper's own numbers for exactly this setting on this backbone, at the backbone's own image size."""
    from timm.models import get_pretrained_cfg

    from tokenbench.backbones import SHORT_NAMES
    from tokenbench.methods import all_methods
    from tokenbench.methods.base import make

    if row.task != FIRST_TASK:
        return []
    cls = all_methods().get(row.method)
    config = get_pretrained_cfg(SHORT_NAMES.get(row.backbone, row.backbone), allow_unregistered=True)
    if cls is None or (config is not None and tuple(config.input_size[1:]) != row.image_size):
        return []  # None: of a plug-in that is not loaded now
    mine = [reported for reported in cls.reported if reported.backbone == row.backbone]
    return [r for r in mine if make(cls, r.settings).model_dump(mode="json") == row.setting]


def is_trained(row: Row) -> bool:
    """Whether the row's weights were trained with the method, rather than taken off the shelf."""
    return row.trained is not None
