"""Every image has the label that the model gives its class: by order, by name, by wnid, or by a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tokenbench import data
from tokenbench.data import labelfiles, ordering
from tokenbench.errors import BadData, DataError, UsageError

WNIDS = ("n01440764", "n02102040", "n03028079")  # tench, English springer, church
PLACES = [0, 217, 497]


def folder(root: Path, *names: str) -> Path:
    """One image in each of these folders, or, where the name has a suffix, by this name."""
    for name in names:
        file = root / name if "." in name else root / name / "0.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(file, "PNG")
    return root


def targets(images: data.Images) -> dict[str, int]:
    return {images.label(i).removesuffix("/0.png"): int(images.targets[i]) for i in range(len(images))}


# order


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("auto", {"1": 0, "2": 1, "10": 2}),
        ("natural", {"1": 0, "2": 1, "10": 2}),
        ("lexical", {"1": 0, "10": 1, "2": 2}),
    ],
)
def test_numbered_folders_in_either_order(tmp_path: Path, order: str, expected: dict[str, int]) -> None:
    images = data.open_folder(folder(tmp_path, "1", "2", "10"), order=order)
    assert targets(images) == expected
    assert images.conditions == {"class_order": "natural" if order == "auto" else order}
    notes = data.match(images, 3, "mine").notes
    assert len(notes) == (order == "auto")
    if notes:
        assert "class 1 is '2'" in notes[0] and "it is '10'" in notes[0] and "--class-order lexical" in notes[0]


@pytest.mark.parametrize(("names", "differ"), [(("a", "b"), False), (("Zebra", "ant"), True), (("01", "1"), False)])
def test_the_warning_comes_where_orders_differ(tmp_path: Path, names: tuple[str, ...], differ: bool) -> None:
    assert bool(data.match(data.open_folder(folder(tmp_path, *names)), 2, "mine").notes) is differ


def test_equal_keys_have_one_order() -> None:
    """However the disk lists them."""
    assert ordering.arrange(["Cat", "cat", "01", "1", "²"]) == ordering.arrange(["²", "1", "01", "cat", "Cat"])


def test_another_order_is_another_set_of_labels_for_the_row(tmp_path: Path) -> None:
    root = folder(tmp_path, "1", "2", "10")
    hashes = {data.open_folder(root, order=order).digest(range(3)) for order in ("auto", "natural", "lexical")}
    assert len(hashes) == 2, "or a row of one would stand for the other"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "c\na\nb\nd\n"),
        ("names.json", '["c", "a", "b", "d"]'),
        ("index.json", '{"a": 1, "b": 2, "c": 0, "d": 3}'),
        ("keras.json", '{"0": ["c", "sea"], "1": ["a", "ay"], "2": ["b", "bee"], "3": ["d", "dee"]}'),
        ("reverse.json", '{"0": "c", "1": "a", "2": "b", "3": "d"}'),
    ],
)
def test_a_file_says_the_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    images = data.open_folder(folder(tmp_path / "set", "a", "b", "c"), order=str(tmp_path / name))
    assert targets(images) == {"a": 1, "b": 2, "c": 0} and images.classes == ("c", "a", "b", "d")
    assert data.match(images, 4, "mine", ("other", "names", "than", "these")).targets == images.targets


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x\ny\n", "has no class 'a' and 1 more of those in the data; it has 2, the first 'x'"),
        ("a\na\n", "a name is there twice"),
        ("", "it is empty"),
        ("{", "cannot be used"),
        ('{"a": 0, "b": 2}', "its indices are not 0, 1, 2"),
        ('{"0": 5, "1": "b"}', "cannot be used"),
        ("3", "no list of names"),
        ('{"x": "y"}', "cannot be used"),
        ("[" * 100_000, "cannot be used"),
    ],
)
def test_a_file_of_classes_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / ("names.json" if text[:1] in "{[3" and text else "names.txt")
    file.write_text(text)
    with pytest.raises(BadData) as caught:
        data.open_folder(folder(tmp_path / "set", "a", "b"), order=str(file))
    assert told in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_an_order_that_is_none(tmp_path: Path) -> None:
    root = folder(tmp_path, "a", "b")
    with pytest.raises(
        UsageError, match="--class-order alphabetic is neither an order nor a file; give auto, natural,"
    ):
        data.open_folder(root, order="alphabetic")
    with pytest.raises(UsageError, match="'a' is no ImageNet-1k wnid"):
        data.open_folder(root, order="imagenet")


# names


def test_classes_are_found_by_name_whatever_the_order(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path / "set", "1", "2", "10"))
    same = data.match(images, 3, "mine", ("1", "2", "10"))
    assert (same.targets, same.notes, same.conditions) == (images.targets, (), {"class_order": "natural"})
    other = data.match(images, 3, "mine", ("1", "10", "2"))
    assert targets(other) == {"1": 0, "10": 1, "2": 2} and other.conditions == {"class_order": "names"}
    assert other.notes == ("set: classes are brought into the order of the weights, by name.",)
    assert other.digest(range(3)) != images.digest(range(3)) == same.digest(range(3))
    some = data.match(images, 4, "mine", ("0", "10", "2", "1"))
    assert targets(some) == {"1": 3, "10": 1, "2": 2} and some.present == (1, 2, 3)
    assert some.notes == ("set: 3 of the 4 classes of mine have images.",)


def test_other_names_are_refused(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path / "set", "cat", "dog", "eel"))
    with pytest.raises(
        BadData, match=r"^set has a class 'cat' but the weights of mine were trained on 'chat' and 2 oth"
    ):
        data.match(images, 3, "mine", ("chat", "chien", "eel"))
    with pytest.raises(DataError, match="set has 3 classes but mine has 2"):
        data.match(images, 2, "mine", ("chat", "chien"))


def test_names_that_are_only_indices_say_nothing(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path, "a", "b", "c"))
    assert data.match(images, 3, "mine", ("0", "1", "2")).targets == images.targets
    numbered = data.open_folder(folder(tmp_path / "numbered", "0", "1", "2"))
    assert data.match(numbered, 3, "mine", ("a", "b", "c")).targets == numbered.targets


# ImageNet


def test_a_part_of_imagenet_on_heads_of_all_and_of_the_part(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path, *WNIDS))
    assert data.match(images, 1000, "vit").targets == PLACES
    part = data.match(images, 3, "vit")
    assert (part.targets, part.classes) == ([0, 1, 2], WNIDS)
    assert part.digest(range(3)) != images.digest(range(3)), "two heads of one run need two passes"
    assert data.match(images, 3, "vit", WNIDS[::-1]).targets == [2, 1, 0]
    wide = data.match(images, 21843, "vit")
    assert [ordering.wnids(21843)[w] for w in WNIDS] == wide.targets != PLACES
    with pytest.raises(DataError, match="has 3 classes but vit has 7"):
        data.match(images, 7, "vit")


def test_only_the_logits_of_the_part_are_looked_at(tmp_path: Path) -> None:
    images = data.match(data.open_folder(folder(tmp_path, *WNIDS)), 1000, "vit")
    some = data.restricted(images)
    assert (some.targets, some.logits) == ([0, 1, 2], tuple(PLACES))
    assert (images.conditions, some.conditions) == ({}, {"scored_classes": "3 of the model's"})
    assert some.digest(range(3)) != images.digest(range(3))
    whole = data.open_folder(folder(tmp_path / "two", "a", "b"))
    assert data.restricted(whole) is whole


def test_a_thousand_folders_that_are_no_wnids(tmp_path: Path) -> None:
    root = folder(tmp_path, *(f"c{i}" for i in range(1000)))
    for order, count in (("natural", 1), ("auto", 2)):
        notes = data.match(data.open_folder(root, order=order), 1000, "vit_ti").notes
        assert len(notes) == count and "are no wnids ('c0')" in notes[-1] and "--class-order FILE" in notes[-1]


def test_training_on_a_part_of_imagenet_has_the_classes_of_the_part(tmp_path: Path) -> None:
    root = folder(tmp_path, *(f"{split}/{wnid}" for split in ("train", "val") for wnid in WNIDS))
    for images in data.open_training(root):
        assert (images.names, images.targets) == (WNIDS, [0, 1, 2])


# files of labels


NAMES = ("b.png", "a.png", "deep/c d.png")
FORMS = {
    "plain.txt": "a.png 7\nb.png 0\n\ndeep/c d.png 21\n",
    "tabs.txt": "a.png\t7\nb.png\t0\ndeep/c d.png\t21\n",
    "bare.csv": "a.png,7\nb.png,0\ndeep/c d.png,21\n",
    "head.csv": "filename,label\na.png,7\nb.png,0\ndeep/c d.png,21\n",
    "unknown head.csv": "picture,what\na.png,7\nb.png,0\ndeep/c d.png,21\n",
    "more.csv": "ImageId,Author,TrueLabel\na,me,7\nb,you,0\nc d,she,21\n",
    "marked.csv": '\ufeffimage,label\r\na.png,7\r\n./b.png,0\r\n"deep/c d.png",21\r\n',
    "mapping.json": '{"a.png": 7, "b.png": 0, "deep/c d.png": "21"}',
    "columns.tsv": "label\timage\n7\ta.png\n0\tb.png\n21\tc d\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_says_the_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(FORMS[name])
    images = data.open_folder(folder(tmp_path / "set", *NAMES), labels=tmp_path / name)
    assert targets(images) == {"a.png": 7, "b.png": 0, "deep/c d.png": 21}
    assert images.conditions == {"class_order": "index", "labels": name} and not images.notes
    wide = data.match(images, 1000, "vit")
    assert (len(wide.classes), list(wide.targets), data.restricted(wide).logits) == (1000, [7, 0, 21], (0, 7, 21))
    with pytest.raises(BadData, match="go up to 21 but those of vit are 0 to 20"):
        data.match(images, 21, "vit")


def test_names_in_a_file_of_labels(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", *NAMES)
    (tmp_path / "l.csv").write_text("a.png,eel\nb.png,cat\nc d.png,dog\n")
    images = data.open_folder(root, labels=tmp_path / "l.csv")
    assert images.classes == ("cat", "dog", "eel") and targets(images) == {"a.png": 2, "b.png": 0, "deep/c d.png": 1}
    (tmp_path / "l.csv").write_text(f"a.png,{WNIDS[1]}\nb.png,{WNIDS[0]}\nc d.png,{WNIDS[1]}\n")
    images = data.open_folder(root, labels=tmp_path / "l.csv")
    assert len(images.classes) == 1000 and list(images.targets) == [217, 0, 217]
    (tmp_path / "order.txt").write_text("\n".join(reversed(WNIDS)))
    images = data.open_folder(root, order=str(tmp_path / "order.txt"), labels=tmp_path / "l.csv")
    assert list(images.targets) == [1, 2, 1]


def test_other_labels_are_another_set_for_the_row(tmp_path: Path) -> None:
    hashes = set()
    for text in ("a.png 1\nb.png 0\n", "a.png 0\nb.png 1\n"):
        (tmp_path / "l.txt").write_text(text)
        hashes.add(
            data.open_folder(folder(tmp_path / "set", "a.png", "b.png"), labels=tmp_path / "l.txt").digest([0, 1])
        )
    assert len(hashes) == 2


def test_images_and_labels_without_each_other_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", *NAMES)
    (root / "labels.csv").write_text("image,label\na.png,1\nz.png,0\ny.png,0\n")
    images = data.open_folder(root, labels=root / "labels.csv")
    assert len(images) == 1 and images.notes == (
        f"2 of 3 images in {root} have no label and are left out.",
        f"2 labels in labels.csv are of images that are not in {root}.",
        "set: 1 left out: .csv (1).",
    )


def test_one_file_for_both_splits_of_a_training(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "train/0.png", "train/1.png", "val/0.png")
    (tmp_path / "l.csv").write_text("path,label\nval/0.png,dog\ntrain/0.png,cat\ntrain/1.png,dog\n")
    train, held_out = data.open_training(root, labels=tmp_path / "l.csv")
    assert list(train.targets) == [0, 1] and list(held_out.targets) == [1] and held_out.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.png\nb.png\n", "its line 'a.png' has no label after a name"),
        ("a.png,1\nb.png\n", "its line 'b.png' has no label"),
        ("a,b,c\n1,2,3\n", "which of its columns 'a, b, c' are names and labels is not clear"),
        ("x.png 1\n", "names none of the 3 images"),
        ("a.png 1\na.png 2\n", "gives 'a.png' two labels, 1 and 2"),
        ("", "names none of the 3 images"),
        ("a.png 99999999999999999999\n", "which is no class index"),
        ("a.png \xff\n", "cannot be used"),
    ],
)
def test_a_file_of_labels_that_cannot_be_used(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "l.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadData) as caught:
        data.open_folder(folder(tmp_path / "set", *NAMES), labels=tmp_path / "l.txt")
    assert told in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_names_that_several_images_have(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", "x/0.png", "y/0.png")
    (tmp_path / "l.txt").write_text("0.png 1\n")
    with pytest.raises(BadData, match=r"'0\.png', which several images are called; give their paths"):
        data.open_folder(root, labels=tmp_path / "l.txt")
    assert labelfiles.lookup(["x/0.png", "y/0.png"]) == {
        **{"x/0.png": 0, "x/0": 0, "y/0.png": 1, "y/0": 1},
        **{"0.png": None, "0": None},
    }


def test_no_labels_at_all(tmp_path: Path) -> None:
    root = folder(tmp_path / "set", *NAMES[:2])
    (root / "val.txt").write_text(json.dumps({}))
    with pytest.raises(BadData, match=r"has no class folders, but 2 images in it; give a file .*--labels .*val\.txt"):
        data.open_folder(root)
    with pytest.raises(BadData, match="does not exist"):
        data.open_folder(root, labels=root / "none.txt")
    with pytest.raises(BadData, match="is no regular file"):
        data.open_folder(root, labels=root)


def test_a_first_line_whose_label_others_have_too_is_no_header(tmp_path: Path) -> None:
    for text, read in (("a,cat\nb,dog\nc,cat\n", 3), ("picture,what\na,cat\nb,dog\n", 2)):
        (tmp_path / "l.csv").write_text(text)
        assert len([*labelfiles.read(tmp_path / "l.csv")]) == read
