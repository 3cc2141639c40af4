"""Which folder is measured on: never the one to train on unasked, and none where it is not clear."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tokenbench import data
from tokenbench.errors import BadData


def made(root: Path, **counts: int) -> Path:
    """Images in folders, each called by its path with __ for /."""
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("L", (2, 2)).save(folder / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("train", "validation"),
        ("train", "test"),
        ("training", "testing"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("Training", "Validation"),
    ],
)
def test_the_split_to_measure_on_is_taken_and_said(tmp_path: Path, train: str, held_out: str) -> None:
    root = made(tmp_path / "set", **{f"{train}__{c}": 3 for c in "ab"}, **{f"{held_out}__{c}": 2 for c in "ab"})
    images = data.open_folder(root)
    assert (images.name, images.split, images.classes, len(images)) == ("set", held_out, ("a", "b"), 4)
    assert images.notes == (f"Accuracy is measured on {root / held_out}: 4 images of 2 classes.",)
    fit, held = data.open_training(root)
    assert (fit.split, len(fit), held.split, len(held)) == (train, 6, held_out, 4)
    itself = data.open_folder(root / train)  # asked for in so many words
    assert (itself.name, itself.split, len(itself), itself.notes) == ("set", train, 6, ())


def test_validation_goes_before_test(tmp_path: Path) -> None:
    root = made(tmp_path, train__a=1, test__a=1, valid__a=2)
    assert data.open_folder(root).split == "valid" and data.open_training(root)[1].split == "valid"


def test_other_folders_beside_splits_do_not_matter(tmp_path: Path) -> None:
    root = made(tmp_path, train__a=1, train__b=1, val__a=1, val__b=1, unlabelled=3, test=2, annotations__xml=0)
    assert data.open_folder(root).split == "val"


def test_one_folder_around_the_splits_is_looked_into(tmp_path: Path) -> None:
    """As archives unpack."""
    root = made(tmp_path, imagenette2__train__a=1, imagenette2__val__a=2, __MACOSX=0)
    images = data.open_folder(root)
    assert (images.name, images.split, len(images)) == ("imagenette2", "val", 2)
    assert len(data.open_training(root)[0]) == 1


@pytest.mark.parametrize("above", ["", "ILSVRC", "ILSVRC/Data"])
def test_imagenets_own_layout(tmp_path: Path, above: str) -> None:
    made(tmp_path, ILSVRC__Annotations__x=0, ILSVRC__ImageSets=0)
    made(tmp_path / "ILSVRC/Data/CLS-LOC", train__n01440764=2, val__n01440764=1, test=4)
    images = data.open_folder(tmp_path / above)
    assert (images.name, images.split, len(images), len(images.classes)) == ("CLS-LOC", "val", 1, 1000)


def test_imagenets_own_layout_with_its_own_labels(tmp_path: Path) -> None:
    root = made(tmp_path / "ILSVRC/Data/CLS-LOC", train__n01440764=1, train__n01443537=1)
    made(root, val=2)
    with pytest.raises(BadData, match=r"val' has images but no class folders; give a file .*--labels"):
        data.open_folder(tmp_path)
    text = "ImageId,PredictionString\n0,n01443537 1 2 3 4 n01443537 5 6 7 8 \n1,n01440764 1 2 3 4 \n"
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    images = data.open_folder(tmp_path, labels=tmp_path / "LOC_val_solution.csv")
    assert (images.split, len(images.classes), list(images.targets)) == ("val", 1000, [1, 0])


@pytest.mark.parametrize(
    ("folders", "told"),
    [
        ({"train__a": 1, "train__b": 1}, "has images to train on only ('train'); give one that has val too, or"),
        ({"val__a": 1, "valid__a": 1, "train__a": 1}, "has 'val' and 'valid', and which of them is meant is not clear"),
        ({"Test__a": 1, "test__a": 1}, "has 'Test' and 'test', and which"),
        ({"train": 2, "valid": 2}, "has 'train' and 'valid' but no class folders in them"),
        ({"test__deep": 1, "text": 1}, "has 'test' with folders in it beside 'text' with images"),
        ({"train__a": 1, "val": 3}, "val' has images but no class folders; give a file with the label of each"),
        (
            {"cat__train": 2, "cat__val": 1, "dog__train": 2, "dog__val": 1},
            "'cat', which has splits in it (train, val)",
        ),
    ],
)
def test_what_is_not_clear_is_refused_in_a_sentence(tmp_path: Path, folders: dict[str, int], told: str) -> None:
    root = made(tmp_path / "set", **folders)
    with pytest.raises(BadData) as caught:
        data.open_folder(root)
    said = str(caught.value)
    assert told in said and said.startswith(f"Data folder '{root}") and said.endswith(".") and "\n" not in said


def test_classes_may_be_called_like_splits(tmp_path: Path) -> None:
    images = data.open_folder(made(tmp_path, bus=1, plane=1, train=2))
    assert images.classes == ("bus", "plane", "train") and len(images) == 4


@pytest.mark.parametrize("folders", [{"train__a": 1, "training__a": 1, "val__a": 1}, {"val__a": 1}, {"train__a": 1}])
def test_training_needs_both(tmp_path: Path, folders: dict[str, int]) -> None:
    with pytest.raises(BadData, match=r"is not clear|has no split 'train'|has no val folder"):
        data.open_training(made(tmp_path, **folders))
