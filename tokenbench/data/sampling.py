"""Which frames of a clip a model sees, and which part of them: as Video Swin trains and tests (arXiv 2106.13230)."""

from __future__ import annotations

from collections.abc import Sequence


def starts(count: int, span: int, views: int) -> list[int]:
    """The first frame of each of so many views in time, in the middle of equal parts of what fits.

    Args:
        count: frames of the clip.
        span: frames that a view reaches over, those between included.
        views: how many.
    """
    room = count - span + 1
    return [int((i + 0.5) * room / views) if room > 0 else 0 for i in range(views)]


def places(start: int, frames: int, stride: int, count: int) -> list[int]:
    """The frames of a view; a clip that is too short is repeated from its first frame."""
    return [(start + i * stride) % count for i in range(frames)]


def offsets(length: int, side: int, crops: int) -> list[int]:
    """Where crops of a side begin along a longer one: one in the middle, several from end to end."""
    room = max(0, length - side)
    return [round(room / 2)] if crops == 1 else [round(i * room / (crops - 1)) for i in range(crops)]


def viewed(count: int, frames: int, stride: int, views: int) -> Sequence[int]:
    """The frames of all views in time, one view after the other."""
    span = frames * stride
    return [place for start in starts(count, span, views) for place in places(start, frames, stride, count)]
