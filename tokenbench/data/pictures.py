"""Image files as a model sees them, for drawing: finding them, model input, and back from that to pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor

from tokenbench.data import images as labelled
from tokenbench.data import listing
from tokenbench.data.loading import transform_key
from tokenbench.data.opening import plain, read, reason
from tokenbench.data.reading import spread
from tokenbench.errors import BadData, DataError

PHOTOS = Path(__file__).parents[1] / "sample" / "photos"


def find(paths: Sequence[str | Path], limit: int | None = None) -> list[Path]:
    """The files given, and the image files in and below the folders given, in order of name.

    Args:
        paths: files and folders.
        limit: if given, this many at most, spread evenly.

    Raises:
        BadData: a path does not exist or is no regular file, or a folder has no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [Path(folder, name) for folder, names in listing.pictures(path, Counter()) for name in names]
            if not inside:
                raise BadData(f"Folder '{path}' has no images that can be read here; give one that has.")
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            what = "is no regular file" if path.exists() else "does not exist"
            raise BadData(f"Image '{path}' {what}; give image files, or a folder of them.")
    found = list(dict.fromkeys(found))
    return [found[i] for i in spread(len(found), limit)]


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
    """One image as 8-bit RGB or grey, with the pixels that are measured (`opening`).

    Raises:
        DataError: the file is not an image, or it is damaged.
    """
    try:
        return read(path)
    except Exception as error:  # a damaged file makes PIL raise nearly anything: OSError, SyntaxError, struct.error
        raise DataError(f"'{path}' cannot be read ({reason(error)}); it is damaged, too large or none.") from None


def inputs(images: Sequence[Image.Image], config: Mapping[str, Any]) -> Tensor:
    """Images as a model of that timm data config takes them, (B, C, H, W), resized, cropped and normalised."""
    options = dict(transform_key(config))
    transform: Any = create_transform(**options, is_training=False)
    mode = "L" if options["input_size"][0] == 1 else "RGB"
    return torch.stack([transform(plain(image, mode)) for image in images])


def pixels(batch: Tensor, config: Mapping[str, Any]) -> NDArray[np.uint8]:
    """What a model was given, (B, C, H, W) normalised, as pictures (B, H, W, 3); the inverse of `inputs`."""
    options = dict(transform_key(config))
    mean, std = (torch.tensor(options[key])[:, None, None] for key in ("mean", "std"))
    shown = ((batch.float().cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy())
