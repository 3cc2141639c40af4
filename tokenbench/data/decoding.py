"""Frames of clips, by their index: of video files by PyAV or torchcodec, and of folders of pictures.

Times in files are not looked at, for many lie. Frames come in the order in which they are shown.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tokenbench.data import opening
from tokenbench.data.ordering import natural
from tokenbench.errors import DataError, UsageError

SUFFIXES = frozenset(
    (".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
)
READERS = ("auto", "pyav", "torchcodec")
WHOLE = 0.98  # share of the frames that a file says it has, below which it is cut short
LASTS = 0.9  # share of the time it says it lasts, where it does not say how many frames it has
Read = tuple[Tensor, list[int], int]  # as `Frames` has them
Choose = Callable[[int], Sequence[int]]  # from the number of frames to those that are wanted, in any order


class Frames:
    """What was read of a clip."""

    def __init__(self, pixels: Tensor, order: Sequence[int], decoded: int, seconds: float) -> None:
        self.pixels = pixels  # (n, 3, H, W) uint8, each frame once
        self.order = list(order)  # where in `pixels` each frame is that was asked for
        self.decoded = decoded  # frames that had to be decoded for it
        self.seconds = seconds


def is_video(name: str) -> bool:
    """Whether a file is taken for a video, by its name."""
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


@cache
def reader(name: str = "auto") -> str:
    """Which of `READERS` reads videos here: PyAV where it can be imported, else torchcodec; or the one asked for.

    torchcodec does not open every file that PyAV does, and tells fewer of those that are cut short.

    Raises:
        UsageError: it is not there, or cannot be imported.
    """
    problems = []
    for each in ("pyav", "torchcodec") if name == "auto" else (name,):
        try:
            if each == "torchcodec":
                import torchcodec.decoders  # noqa: F401  without FFmpeg's libraries it raises RuntimeError or OSError
            else:
                import av  # noqa: F401
        except (ImportError, RuntimeError, OSError) as error:
            problems.append(f"{each}: {str(error).strip().splitlines()[0] if str(error).strip() else 'not there'}")
            continue
        return each
    raise UsageError(
        f"Videos cannot be read here ({'; '.join(problems)}); pip install tokenbench[video], or give folders of frames."
    )


def read(path: Path, choose: Choose, by: str = "auto") -> Frames:
    """Frames of one clip, each decoded once however often it is wanted.

    Args:
        path: a video file, or a folder of pictures, whose names say their order (2 before 10).
        choose: says which frames.
        by: one of `READERS`.

    Raises:
        DataError: it cannot be read: no video in it, no frame, or cut short; a clause says what.
        UsageError: as `reader`.
    """
    began = perf_counter()
    if path.is_dir():
        found = _of_pictures(path, choose)
    else:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise DataError("it is no regular file")
        if not path.stat().st_size:
            raise DataError("the file is empty")
        found = (_by_torchcodec if reader(by) == "torchcodec" else _by_pyav)(path, choose)
    return Frames(*found, perf_counter() - began)


def pictures(folder: Path) -> list[str]:
    """The names of the frames in a folder, in order."""
    return list(natural([entry.name for entry in os.scandir(folder) if opening.is_picture(entry.name)]))


def _of_pictures(folder: Path, choose: Choose) -> Read:
    names = pictures(folder)
    if not names:
        raise DataError("the folder has no pictures")
    wanted = choose(len(names))
    each: dict[int, NDArray[np.uint8]] = {}
    size: tuple[int, int] | None = None
    for place in sorted(set(wanted)):
        image = opening.read(folder / names[place], "RGB")
        size = size or image.size
        each[place] = np.asarray(image if image.size == size else image.resize(size))
    return *_stacked(each, wanted), len(each)


def _by_pyav(path: Path, choose: Choose) -> Read:
    import av

    try:
        count = _counted(av, path)
        wanted = choose(count)
        each, seen = _decoded(av, path, set(wanted))
        if seen and max(wanted) >= seen:  # fewer frames are shown than there are packets
            wanted = choose(seen)
            each, _ = _decoded(av, path, set(wanted))
    except av.FFmpegError as error:
        raise DataError(f"it is damaged or no video ({error.strerror or type(error).__name__})") from None
    if not seen:
        raise DataError("it has no frame that can be decoded")
    return *_stacked(each, wanted), seen


def _opened(av: Any, path: Path) -> Any:
    return av.open(f"file:{path}", metadata_errors="ignore", options={"protocol_whitelist": "file"})


def _stream(container: Any) -> Any:
    """The first video stream that is no cover picture."""
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    raise DataError("it has no video stream")


def _counted(av: Any, path: Path) -> int:
    """Frames of a file, by its packets, without decoding; what it says of its length only tells whether it is whole."""
    with _opened(av, path) as container:
        stream, packets, end = _stream(container), list[bool](), 0.0
        for packet in container.demux():
            if packet.size and packet.stream_index == stream.index:
                packets.append(packet.is_discard)
            if packet.size and packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if len(packets) < WHOLE * stream.frames:
            raise DataError(f"it is cut short: {len(packets)} of {stream.frames} frames are there")
        seconds = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        if packets and not stream.frames and end < LASTS * seconds:
            raise DataError(f"it is cut short: it ends after {end:.1f} of {seconds:.1f} seconds")
    if not packets:
        raise DataError("it has no frames")
    if all(packets):
        raise DataError(f"none of its {len(packets)} frames is to be shown, by its times")
    return len(packets) - sum(map(bool, packets))


def _decoded(av: Any, path: Path, wanted: set[int]) -> tuple[dict[int, NDArray[np.uint8]], int]:
    """The frames that are wanted, all of the first one's size, and how many were decoded."""
    each: dict[int, NDArray[np.uint8]] = {}
    last, seen = max(wanted), 0
    size: dict[str, int] = {}
    with _opened(av, path) as container:
        for frame in container.decode(_stream(container)):
            if frame.is_corrupt:
                raise DataError(f"it is damaged: frame {seen} cannot be decoded whole")
            size = size or {"width": frame.width, "height": frame.height}
            if seen in wanted:
                each[seen] = frame.to_ndarray(format="rgb24", **size)
            seen += 1
            if seen > last:
                break
    return each, seen


def _by_torchcodec(path: Path, choose: Choose) -> Read:
    from torchcodec.decoders import VideoDecoder

    try:
        decoder = VideoDecoder(str(path), seek_mode="exact", num_ffmpeg_threads=1)
        count, says = len(decoder), decoder.metadata.num_frames_from_header or 0
        if count < WHOLE * says:
            raise DataError(f"it is cut short: {count} of {says} frames are there")
        if not count:
            raise DataError("it has no frames")
        wanted = choose(count)
        each = [decoder.get_frame_at(place).data for place in sorted(set(wanted))]  # at once they must be of one size
    except (RuntimeError, ValueError, IndexError) as error:
        why = re.sub(r"^.*\.cpp:\d+, ", "", str(error).strip().splitlines()[0]).strip()
        raise DataError(f"it is damaged or no video, for torchcodec ({why})") from None
    first = each[0].shape[1:]
    pixels = [x if x.shape[1:] == first else F.interpolate(x[None], first, mode="bilinear")[0] for x in each]
    position = {place: i for i, place in enumerate(sorted(set(wanted)))}
    return torch.stack(pixels), [position[place] for place in wanted], len(each)


def _stacked(each: dict[int, NDArray[np.uint8]], wanted: Sequence[int]) -> tuple[Tensor, list[int]]:
    position = {place: i for i, place in enumerate(sorted(each))}
    frames = torch.from_numpy(np.stack([each[place] for place in sorted(each)]))  # (n, H, W, 3)
    return frames.permute(0, 3, 1, 2), [position[place] for place in wanted]
