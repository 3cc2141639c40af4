"""Image files as a model sees them: finding, opening in any mode, and back from model input to pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from timm.data.transforms_factory import create_transform
from torch import Tensor

from tokenbench.data import images as labelled
from tokenbench.data.loading import transform_key
from tokenbench.errors import DataError

PHOTOS = Path(__file__).parents[1] / "sample" / "photos"
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif")
WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # more than 8 bits a pixel; PIL cuts these off at 255


def find(paths: Sequence[str | Path], limit: int | None = None) -> list[Path]:
    """The files given, and the image files in and below the folders given, in order of name.

    Args:
        paths: files and folders.
        limit: if given, this many at most, spread evenly.

    Raises:
        DataError: a path does not exist, or a folder has no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = (p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            inside = sorted(p for p in below if p.is_file())
            if not inside:
                raise DataError(f"Folder '{path}' has no images ({', '.join(SUFFIXES)}); give one that has.")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise DataError(f"Image '{path}' does not exist; give image files, or a folder of them.")
    found = list(dict.fromkeys(found))
    total = len(found) if limit is None else min(limit, len(found))
    return [found[i * len(found) // total] for i in range(total)]


def sample(grey: bool, limit: int | None = None) -> tuple[list[str], list[Image.Image]]:
    """Names and images that ship: the photographs, or for models of grey images some of Fashion-MNIST."""
    if not grey:
        files = find([PHOTOS], limit)
        return [file.name for file in files], [open_image(file) for file in files]
    images = labelled.sample()
    count = min(limit or 10, len(images))
    chosen = [i * len(images) // count for i in range(count)]
    names = [f"{images.classes[images.targets[i]].replace('/', ' ').lower()} {i}" for i in chosen]
    return names, [images.open(i, "L") for i in chosen]


def open_image(path: str | Path) -> Image.Image:
    """One image, upright, as 8-bit RGB or grey: 16-bit ones are scaled, transparent ones laid on white.

    Raises:
        DataError: the file is not an image, or it is damaged.
    """
    try:
        with Image.open(path) as file:
            return plain(ImageOps.exif_transpose(file))
    except UnidentifiedImageError:
        raise DataError(f"'{path}' is not an image in a format that can be read; give a JPEG or PNG.") from None
    except Exception as error:  # a damaged file makes PIL raise nearly anything: OSError, SyntaxError, struct.error
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"'{path}' cannot be read ({what}); it is damaged or too large.") from None


def plain(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB or grey ("L")."""
    if image.mode in WIDE_MODES:
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        top = 65535.0 if image.mode.startswith("I") and 255 < values.max() <= 65535 else max(255.0, values.max())
        return Image.fromarray((np.clip(values, 0, top) * (255.0 / top)).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def inputs(images: Sequence[Image.Image], config: Mapping[str, Any]) -> Tensor:
    """Images as a model of that timm data config takes them, (B, C, H, W), resized, cropped and normalised."""
    options = dict(transform_key(config))
    transform: Any = create_transform(**options, is_training=False)
    mode = "L" if options["input_size"][0] == 1 else "RGB"
    return torch.stack([transform(plain(image).convert(mode)) for image in images])


def pixels(batch: Tensor, config: Mapping[str, Any]) -> NDArray[np.uint8]:
    """What a model was given, (B, C, H, W) normalised, as pictures (B, H, W, 3); the inverse of `inputs`."""
    options = dict(transform_key(config))
    mean, std = (torch.tensor(options[key])[:, None, None] for key in ("mean", "std"))
    shown = ((batch.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy())
