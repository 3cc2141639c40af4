"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from tokenbench import data
from tokenbench.data import listing, pictures


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat/0.png", "cat/1.PNG", "cat/deep/2.png", "cat/deep-er/3.png", "dog/0.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / "pets" / name)
    return tmp_path / "pets"


def labels(images: data.Images) -> list[str]:
    return [images.label(i) for i in range(len(images))]


def test_the_order_is_that_of_torchvision(pets: Path) -> None:
    """On which the identity of rows rests."""
    images = data.open_folder(pets)
    assert [str(f) for f in images.items] == [f for f, _ in make_dataset(pets, {"cat": 0, "dog": 1}, IMG_EXTENSIONS)]


def test_links_upwards_and_in_a_ring_are_not_followed(pets: Path) -> None:
    for link, to in {"self": ".", "up": "..", "far": "../../..", "twice": "deep", "ring": "ring"}.items():
        (pets / "cat" / link).symlink_to(to)
    (pets / "loop").symlink_to("..")
    (pets / "cat" / "deep" / "back").symlink_to("../../cat")
    images = data.open_folder(pets)
    assert images.classes == ("cat", "dog")
    assert labels(images) == ["cat/0.png", "cat/1.PNG", "cat/deep/2.png", "cat/deep-er/3.png", "dog/0.png"]
    assert len(pictures.find([pets])) == 5
    (note,) = images.notes
    assert note == "pets: 6 left out: link to a folder that is there already (5), without suffix (1)."


def test_links_to_elsewhere_are_followed(pets: Path, tmp_path: Path) -> None:
    """As subsets are made."""
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "kittens").symlink_to(pets / "cat")
    (tmp_path / "part" / "pups").mkdir()
    (tmp_path / "part" / "pups" / "0.png").symlink_to(pets / "dog" / "0.png")
    images = data.open_folder(tmp_path / "part")
    assert (images.classes, len(images)) == (("kittens", "pups"), 5)


def test_what_is_left_out_is_counted_and_said(pets: Path) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    for name in (
        "cat/notes.txt",
        "cat/more.txt",
        "cat/noise",
        "dog/.DS_Store",
        "dog/._0.png",
        "dog/x.npy",
        "stray.jpg",
    ):
        (pets / name).write_bytes(b"")
    (pets / "cat" / ".hidden").mkdir()
    (pets / "__MACOSX").mkdir()
    images = data.open_folder(pets)
    assert (images.classes, len(images)) == (("cat", "dog"), 5)
    (note,) = images.notes
    assert note.startswith("pets: 9 left out: ") and note.endswith(" and 2 more.")
    for kind in (".txt (2)", "hidden (2)", "picture beside the class folders (1)"):
        assert kind in note


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(pets: Path) -> None:
    (pets / "dog" / "gone.png").symlink_to("nowhere.png")
    (pets / "dog" / "ring.png").symlink_to("ring.png")
    config = {"input_size": (1, 2, 2), "mean": (0.5,), "std": (0.5,)}
    loader = data.loader(data.open_folder(pets), config, 2)
    assert sum(len(target) for _, target in loader) == 5
    assert [name for name, _ in loader.skipped] == ["dog/gone.png", "dog/ring.png"]
    assert loader.skipped[0][1] == "the file is not there, or its link leads nowhere"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list everything")
def test_a_folder_that_cannot_be_listed_is_counted(pets: Path) -> None:
    (pets / "cat" / "deep").chmod(0)
    images = data.open_folder(pets)
    (pets / "cat" / "deep").chmod(0o755)
    assert len(images) == 4 and "folder that cannot be listed (1)" in images.notes[0]


def test_thousands_of_files_are_listed_without_opening_them(tmp_path: Path) -> None:
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for i in range(500):
            os.close(os.open(tmp_path / str(label) / f"{i}.jpg", os.O_CREAT))
    began = time.process_time()
    images = data.open_folder(tmp_path)
    assert len(images) == 5000 and time.process_time() - began < 1.0
    (_, names) = next(listing.pictures(tmp_path / "0", Counter()))
    assert names == sorted(f"{i}.jpg" for i in range(500))
