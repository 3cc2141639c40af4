"""Pictures are opened in one way, for measuring, training and drawing: 8 bits as Pillow has them, more bits scaled."""

from __future__ import annotations

import io
import os
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tokenbench import data
from tokenbench.data import opening, pictures
from tokenbench.errors import DataError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = {"input_size": (1, 16, 16), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
COLOUR = {"input_size": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


def colour() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))


def with_bytes_of_transparency() -> Image.Image:
    image = colour().convert("P")
    image.info["transparency"] = bytes(range(256))
    return image


def turned() -> Image.Image:
    image = colour()
    image.getexif()[0x0112] = 6  # as a phone held upright writes it
    return image


EIGHT = {
    "rgb.png": colour(),
    "rgba.png": Image.merge("RGBA", [*colour().split(), Image.fromarray(RAMP)]),
    "palette.png": colour().convert("P"),
    "clear palette.png": with_bytes_of_transparency(),
    "grey.png": Image.fromarray(RAMP),
    "grey alpha.png": Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(RAMP.T)]),
    "one bit.png": colour().convert("1"),
    "cmyk.jpg": colour().convert("CMYK"),
    "turned.jpg": turned(),
    "moving.gif": colour().convert("P"),
    "new.avif": colour(),
    "new.webp": colour(),
    "old.jfif": colour(),
}


def saved(folder: Path, name: str, image: Image.Image) -> Path:
    folder.mkdir(exist_ok=True)
    kind = "JPEG" if name.endswith(("jpg", "jfif")) else None
    image.save(folder / name, kind, **({"exif": image.getexif()} if kind else {}))
    return folder / name


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", EIGHT)
def test_eight_bits_are_as_pillow_has_them(tmp_path: Path, name: str, mode: str) -> None:
    path = saved(tmp_path, name, EIGHT[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which ours must not need
        expected = np.asarray(Image.open(path).convert(mode))
    assert np.array_equal(np.asarray(opening.read(path, mode)), expected)


@pytest.mark.parametrize("config", [COLOUR, GREY], ids=["rgb", "grey"])
def test_what_is_measured_is_what_is_drawn(tmp_path: Path, config: dict[str, object]) -> None:
    names = {**EIGHT, "deep.png": Image.fromarray(RAMP.astype(np.uint16) * 257)}
    files = sorted(saved(tmp_path / "a", name, image) for name, image in names.items())
    images = data.open_folder(tmp_path)
    assert images.items == files == pictures.find([tmp_path])
    measured = torch.cat([pixels for pixels, _ in data.loader(images, config, 4)])
    assert torch.equal(measured, pictures.inputs([pictures.open_image(file) for file in files], config))


def as_pgm(values: np.ndarray) -> bytes:
    return b"P5 16 16 65535\n" + values.astype(">u2").tobytes()


WIDE = {
    "sixteen.png": RAMP.astype(np.uint16) * 257,
    "sixteen.tif": RAMP.astype(np.uint16) * 257,
    "sixteen.jp2": RAMP.astype(np.uint16) * 257,
    "whole.tif": RAMP.astype(np.int32) * 257,
    "whole small.tif": RAMP.astype(np.int32),
    "fraction.tif": RAMP.astype(np.float32) / 255,
    "float.tif": RAMP.astype(np.float32),
    "float sixteen.tif": RAMP.astype(np.float32) * 257,
}


@pytest.mark.parametrize("name", [*WIDE, "sixteen.pgm"])
def test_more_bits_are_scaled_and_not_cut(tmp_path: Path, name: str) -> None:
    if name in WIDE:
        Image.fromarray(WIDE[name]).save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(as_pgm(RAMP.astype(np.uint16) * 257))
    for mode in ("L", "RGB"):
        seen = np.asarray(opening.read(tmp_path / name, mode))
        assert np.array_equal(seen if mode == "L" else seen[..., 0], RAMP)


def test_a_dark_picture_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    """Each is scaled by its format and not by its own brightest pixel."""
    dark = np.full((16, 16), 200, np.uint16)
    Image.fromarray(dark).save(tmp_path / "dark.png")
    (tmp_path / "dark.pgm").write_bytes(as_pgm(dark))
    assert all((np.asarray(opening.read(tmp_path / f"dark.{kind}")) == 0).all() for kind in ("png", "pgm"))


@pytest.mark.parametrize("values", [[-1.0, 3.0], [0.0, 70000.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_what_has_no_white_is_refused(tmp_path: Path, values: list[float]) -> None:
    Image.fromarray(np.array([values], np.float32)).save(tmp_path / "odd.tif")
    with pytest.raises(DataError, match=r"odd.tif.*its values go from .* what is white is not known"):
        pictures.open_image(tmp_path / "odd.tif")


def test_every_suffix_that_pillow_writes_and_decodes_is_a_picture(tmp_path: Path) -> None:
    Image.init()
    tried = 0
    for suffix, kind in Image.registered_extensions().items():
        if kind not in Image.SAVE or kind not in Image.OPEN or kind in opening.TOLD_ONLY:
            continue
        made = io.BytesIO()
        for mode in ("P", "RGB", "1"):
            with suppress(OSError, ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                Image.fromarray(RAMP).convert(mode).save(made, kind)
                break
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / f"x{suffix.upper()}").write_bytes(made.getvalue())
        tried += 1
    images = data.open_folder(tmp_path)
    assert len(images) == tried > 30 and not images.notes
    assert all(images.open(i, "L").size[0] >= 16 for i in range(tried))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match="no regular file"):
        pictures.open_image(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x.png' is no regular file"):
        pictures.find([tmp_path / "x.png"])
