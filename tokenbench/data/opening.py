"""The one way in which picture files are opened, whoever asks: which files are pictures, and what of them a model sees.

Pixels are those that timm and torchvision train and measure on, so that published accuracies hold: Pillow's conversion
to RGB or grey. A photograph is not turned by its EXIF orientation, and of a transparent picture the colours count, not
the transparency. Only pictures of more than 8 bits differ, which Pillow would cut off at 255: they are scaled.
"""

from __future__ import annotations

import os
import stat
import warnings
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from tokenbench.errors import DataError

# Pillow tells these formats but decodes them only with somebody else's code: plug-ins, Windows, Ghostscript.
TOLD_ONLY = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")


@cache
def suffixes() -> frozenset[str]:
    """The suffixes, such as ".jpg", of all files that Pillow decodes here."""
    Image.init()
    found = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in found if kind in Image.OPEN and kind not in TOLD_ONLY)


def is_picture(name: str) -> bool:
    """Whether a file is taken for a picture, by its name; names that begin with a dot are not."""
    return os.path.splitext(name)[1].lower() in suffixes() and not name.startswith(".")


def read(path: str | Path, mode: str | None = None) -> Image.Image:
    """A picture file, its first frame, as `plain` makes it; raises whatever Pillow raises for one it cannot read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError("it is no regular file")  # a pipe would keep us waiting for ever
    return decoded(path, mode)


def decoded(file: str | Path | BytesIO, mode: str | None = None) -> Image.Image:
    """As `read`, of a file or of what one would hold."""
    # Warnings are of odd metadata, which nothing here reads.
    with warnings.catch_warnings(action="ignore"), Image.open(file) as image:
        return plain(image, mode)


def plain(image: Image.Image, mode: str | None = None) -> Image.Image:
    """A picture of any mode as 8-bit "RGB" or "L", or what it is nearer to if no mode is given.

    16-bit grey is divided by 257, so that white is white. Other wide pictures do not say what white is: whole numbers
    up to 255 are taken as they are and those up to 65535 for 16 bits; fractions up to 1 are multiplied by 255.

    Raises:
        DataError: values that are negative, not finite or above 65535.
    """
    if image.mode[0] in "IF":
        image = _narrowed(image)
    nearest = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    made = image.convert(nearest)
    return made if mode in (None, nearest) else made.convert(mode)


def below(root: Path, path: Path) -> str:
    """A path from a folder above it on, with / between; `relative_to` takes longer than a file takes to be found."""
    return str(path).removeprefix(f"{root}{os.sep}").replace(os.sep, "/")


def reason(error: Exception) -> str:
    """Why a picture cannot be read, as a clause."""
    text = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that can be read"
    if isinstance(error, FileNotFoundError):
        return "the file is not there, or its link leads nowhere"
    if isinstance(error, DataError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _narrowed(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535):
        raise DataError(f"its values go from {low:g} to {high:g}, so what is white is not known; save it with 8 bits")
    sixteen = image.mode.startswith("I;16") or image.format == "PPM" or high > 255  # Pillow scales PPM to 16 bits
    if image.mode == "F":
        values = (values * (255 if high <= 1 else 1 / 257 if high > 255 else 1)).round()
    elif sixteen:
        values = values // 257
    return Image.fromarray(values.astype(np.uint8))
