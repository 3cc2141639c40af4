"""Clips for token maps: each frame that has tokens of its own is an image among the maps, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.tokens import Tokens
from tokenbench.data import listing, viewing
from tokenbench.data.clips import below
from tokenbench.data.decoding import read
from tokenbench.data.opening import reason
from tokenbench.data.viewing import Views
from tokenbench.errors import DataError


def opened(
    paths: Sequence[str | Path], backbone: Backbone, views: Views, limit: int | None, say: Callable[[str], None]
) -> tuple[list[str], Tensor]:
    """Names and clips (B, 3, frames, H, W), normalised: the middle of each video, in time and of its longer side.

    Args:
        paths: videos, folders of frames, or folders with such below them.
        backbone: says how clips look that it takes.
        views: how many frames, and every how manyth.
        limit: if given, use this many, spread evenly.
        say: told of each that cannot be read, in a sentence.

    Raises:
        DataError: there is none, or none that can be read.
    """
    found = [clip for path in map(Path, paths) for clip in _all(path)]
    if limit is not None and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    names, each = [], []
    size = (backbone.input_size[1], backbone.input_size[2])
    for clip in found:
        try:
            each.append(views.cut(read(clip, views.choose), size))
            names.append(clip.name)
        except Exception as error:  # decoders raise nearly anything
            say(f"Left out: {clip} cannot be read: {reason(error)}.")
    if not each:
        raise DataError(f"None of the {len(found)} videos can be read; give videos or folders of frames (--images).")
    return names, viewing.Normalise(backbone.config)(torch.cat(each))


def split(values: Tensor | None, frames: int, joint: bool, patches: int) -> Tensor | None:
    """Maps (B * frames, T, P), or fused patches (B * frames, P): what tokens of all frames hold of each of them.

    `patches` is the place of the dimension of patches; tokens that are of one frame each have such maps already.
    """
    if values is None or not joint:
        return values
    each: Tensor = values.unflatten(patches, (frames, -1)).movedim(patches, 1).flatten(0, 1)
    return each


def counts(tokens: Tokens, frames: int) -> Tensor:
    """Tokens (B * frames,) of each frame, or of the clip that it is of where tokens are of all frames."""
    if tokens.frames == frames:
        return replace(tokens, frames=1).counts
    return tokens.counts.repeat_interleave(frames)


def shown(clips: Tensor, count: int) -> Tensor:
    """The frames (B * count, 3, H, W) of clips (B, 3, frames, H, W) that stand for each step in time of tokens: of the
    two that make one of tokens the first, the last of an odd number alone.
    """
    every = np.arange(count) * -(-clips.shape[2] // count)
    return clips[:, :, every].transpose(1, 2).flatten(0, 1)


def called(names: Sequence[str], count: int) -> list[str]:
    """What to call each."""
    return [f"{name} {step:02d}" for name in names for step in range(count)]


def _all(path: Path) -> list[Any]:
    if not path.is_dir() or listing.pictures_in(path):
        return [path]
    return list(below(path))
