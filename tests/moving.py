"""Small clips: a bright square that moves to the right or down, as video files or folders of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timm.models import register_model

from tokenbench.backbones.videoswin import ClipSwin

CLASSES = ("down", "right")
DIRECTIONS = {"down": (1, 0), "left": (0, -1), "right": (0, 1), "up": (-1, 0)}  # rows and columns a step


@register_model
def swin3d_femto(pretrained: bool = False, **kwargs: Any) -> ClipSwin:
    """Nine blocks of width 8; a third stage of six."""
    return ClipSwin((1, 1, 6, 1), (1, 1, 1, 1), 8, **kwargs)


def square(frames: int, down: bool, seed: int = 0, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames (H, W, 3) of one clip."""
    draw, found = np.random.default_rng(seed), []
    for i in range(frames):
        frame = draw.integers(0, 40, (*size, 3)).astype(np.uint8)
        at = 2 * i % 30
        top, left = (at, 20) if down else (15, at)
        frame[top : top + 12, left : left + 12] = 230
        found.append(frame)
    return found


def grey(levels: Sequence[int], size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    """Frames that are told apart by how bright they are."""
    return [np.full((*size, 3), level, np.uint8) for level in levels]


def write(
    path: Path, frames: Sequence[np.ndarray], codec: str = "mpeg4", pixels: str = "yuv420p", **options: str
) -> Path:
    """A video file of them."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if codec == "mpeg4":
            stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def pictures(folder: Path, frames: Sequence[np.ndarray]) -> Path:
    """A folder of them, whose names are in order as numbers only."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"frame{i}.png")
    return folder


def kinetics(root: Path, **splits: int) -> Path:
    """Folders of classes with so many clips of each in every split, as folders of frames."""
    for seed, (split, count) in enumerate(splits.items()):
        for i in range(2 * count):
            name = CLASSES[i % 2]
            pictures(root / split / name / f"clip{i}", square(6 + i % 4, name == "down", 100 * seed + i))
    return root


def garments(root: Path, **splits: int) -> Path:
    """Garments of Fashion-MNIST, twice their size, that move over noise in one of four directions, the class."""
    from tokenbench.data import sample

    items, first = np.asarray(sample().items), 0
    for seed, (split, count) in enumerate(splits.items()):
        draw = np.random.default_rng(seed)
        for i in range(count):
            name, (down, right) = list(DIRECTIONS.items())[i % 4]
            garment = np.kron(items[(first + i) * 7 % len(items)], np.ones((2, 2), np.uint8))
            start = draw.integers(0, 56 - 28, 2) + 14 - 14 * np.array([down, right])
            frames = []
            for step in range(8):
                frame = draw.integers(0, 40, (112, 112, 3)).astype(np.uint8)
                top, left = np.clip(start + 4 * step * np.array([down, right]), 0, 56)
                part = frame[top : top + 56, left : left + 56]
                part[...] = np.maximum(part, garment[..., None])
                frames.append(frame)
            pictures(root / split / name / f"clip{i}", frames)
        first += count
    return root
