"""What weights were trained with: how much they saw, from which start, beside which teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Budget(BaseModel):
    """The training of a model's weights, as `tokenbench train` wrote it into their file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    updates: int
    images: int  # seen, each as often as it was
    epochs: float  # passes over the training images
    data: str
    start: str | None  # the weights it started from, name and hash; None: random ones
    teacher: str | None = None  # name and hash

    @property
    def words(self) -> str:
        """It in a cell: 10 epochs, 39,680 images, with a teacher."""
        number = f"{self.epochs:.3g}"
        epochs = f"{number} epoch{'' if number == '1' else 's'}, {self.images:,} images"
        start = "" if self.start else ", from scratch"
        return f"{epochs}{start}{', with a teacher' if self.teacher else ''}"

    def equals(self, other: Budget | None) -> bool:
        """Whether two models saw equally much of the same data from the same start."""
        same = ("images", "epochs", "data", "start")
        return other is not None and all(getattr(self, name) == getattr(other, name) for name in same)


def of(header: Mapping[str, Any]) -> Budget | None:
    """What the header of a file of weights says of their training; None where it says nothing of that."""
    try:
        updates, batch, data = int(header["updates"]), int(header["recipe"]["batch"]), header["data"]
        images = updates * batch
        return Budget(
            updates=updates,
            images=images,
            epochs=round(images / data["images"], 4),
            data=str(data["name"]),
            start=_named(header["weights"]),
            teacher=_named(header["teacher"]) if header.get("teacher") else None,
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def _named(weights: Mapping[str, Any]) -> str | None:
    if weights["kind"] == "random":
        return None
    return f"{weights['name']} ({weights['hash']})" if weights.get("hash") else str(weights["name"])
