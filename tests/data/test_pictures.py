"""Image files of every mode and size, and from pixels to model input and back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenbench.data import pictures
from tokenbench.errors import DataError

RGB = {"input_size": (3, 32, 48), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "crop_pct": 1.0}


def modes(folder: Path) -> list[Path]:
    """One file of each odd mode."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    made = {
        "cmyk.jpg": colour.convert("CMYK"),
        "palette.png": colour.convert("P"),
        "rgba.png": colour.convert("RGBA"),
        "grey alpha.png": colour.convert("LA"),
        "one bit.png": colour.convert("1"),
        "deep.png": Image.fromarray(np.linspace(0, 65535, 2400).astype(np.uint16).reshape(40, 60)),
        "float.tiff": Image.fromarray(np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)),
        "pixel.png": colour.crop((0, 0, 1, 1)),
        "line.png": colour.crop((0, 0, 60, 1)),
        "anim.gif": colour.convert("P"),
    }
    for name, image in made.items():
        image.save(folder / name)
    return [folder / name for name in made]


def test_every_mode_and_size_becomes_input(tmp_path: Path) -> None:
    opened = [pictures.open_image(path) for path in modes(tmp_path)]
    assert {image.mode for image in opened} <= {"RGB", "L"}
    assert pictures.inputs(opened, RGB).shape == (10, 3, 32, 48)
    assert pictures.inputs(opened, {**RGB, "input_size": (1, 28, 28)}).shape == (10, 1, 28, 28)


def test_sixteen_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(pictures.open_image(tmp_path / "deep.png")).tolist() == [[0, 127, 255]]


def test_transparent_pixels_have_their_colour(tmp_path: Path) -> None:
    """As timm and torchvision see them."""
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (np.asarray(pictures.open_image(tmp_path / "clear.png")) == [255, 0, 0]).all()


def test_pixels_undo_the_normalisation() -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8))
    assert (pictures.pixels(pictures.inputs([image], RGB), RGB)[0] == np.asarray(image)).all()


def test_folders_are_searched_and_spread(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    for i in range(6):
        Image.new("L", (2, 2)).save(tmp_path / "class" / f"{i}.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    assert [p.name for p in pictures.find([tmp_path])] == [f"{i}.PNG" for i in range(6)]
    assert [p.name for p in pictures.find([tmp_path], 3)] == ["0.PNG", "2.PNG", "4.PNG"]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(next(iter(sorted(pictures.PHOTOS.glob("*.jpg")))).read_bytes()[:3000])
    (tmp_path / "text.png").write_text("<html>")
    with pytest.raises(DataError, match=r"cut\.jpg.*damaged"):
        pictures.open_image(tmp_path / "cut.jpg")
    with pytest.raises(DataError, match=r"text\.png.*not an image"):
        pictures.open_image(tmp_path / "text.png")
    with pytest.raises(DataError, match="does not exist"):
        pictures.find([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no images"):
        pictures.find([tmp_path / "empty"])


def test_every_photograph_that_ships_is_credited() -> None:
    files = sorted(p.name for p in pictures.PHOTOS.glob("*.jpg"))
    credits = (pictures.PHOTOS / "CREDITS.md").read_text(encoding="utf-8")
    rows = [re.split(r"\s*\|\s*", line.strip(" |")) for line in credits.splitlines() if line.startswith("| ")][1:]
    assert len(files) == 12
    assert [row[0] for row in rows] == files
    assert all("flickr.com" in row[2] and "licenses/by/2.0" in row[3] for row in rows)
    assert sum((pictures.PHOTOS / name).stat().st_size for name in files) < 400_000
