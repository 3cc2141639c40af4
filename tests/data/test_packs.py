"""Images that lie many to a file are those that would lie in folders: the same pixels, classes and complaints."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from refusals import refused

from tokenbench import data
from tokenbench.data import packs, parquet
from tokenbench.errors import BadData, UsageError

CONFIG: dict[str, Any] = {
    "input_size": (3, 8, 8),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 1.0,
    "interpolation": "bicubic",
}
NAMES = ("10", "2", "cat")
PNG = "PNG"


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, PNG)
    return file.getvalue()


PICTURES = [png(seed) for seed in range(6)]
LABELS = ["10", "10", "2", "2", "cat", "cat"]


def as_folder(root: Path, pictures: Sequence[bytes] = PICTURES, labels: Sequence[str] = LABELS) -> Path:
    for i, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / f"{i}.png").write_bytes(picture)
    return root


def table(pictures: Sequence[bytes | None], labels: Sequence[Any], names: Sequence[str] = (), **more: Any) -> pa.Table:
    """As the hub has it; the names of classes are in its metadata."""
    cells = [None if one is None else {"bytes": one, "path": f"{i}.png"} for i, one in enumerate(pictures)]
    made = pa.table({"image": cells, "label": labels, **more})
    if names:
        said = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": list(names)}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(said)})
    return made


def as_parquet(root: Path, pictures: Sequence[bytes] = PICTURES, labels: Sequence[Any] = LABELS, **how: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(pictures, labels), root / "0.parquet", **{"row_group_size": 4, **how})
    return root


def as_tar(root: Path, pictures: Sequence[bytes] = PICTURES, labels: Sequence[Any] = LABELS) -> Path:
    samples = [{"png": one, "cls": str(label).encode()} for one, label in zip(pictures, labels, strict=True)]
    root.mkdir(parents=True, exist_ok=True)
    tar(root / "0.tar", samples)
    return root


def tar(file: Path, samples: Sequence[Mapping[str, bytes]]) -> Path:
    with tarfile.open(file, "w") as opened:
        for i, sample in enumerate(samples):
            for kind, content in sample.items():
                member = tarfile.TarInfo(f"{i:03}.{kind}")
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return file


KINDS = pytest.mark.parametrize("kind", [as_parquet, as_tar])
Kind = Callable[..., Path]


def seen(images: data.Images) -> tuple[torch.Tensor, list[int]]:
    found = list(data.loader(images, CONFIG, batch=4))
    return torch.cat([pixels for pixels, _ in found]), torch.cat([target for _, target in found]).tolist()


@KINDS
@pytest.mark.parametrize("order", ["auto", "lexical"])
def test_pixels_and_classes_are_those_of_folders(tmp_path: Path, kind: Kind, order: str) -> None:
    plain = data.open_folder(as_folder(tmp_path / "pets"), order=order)
    packed = data.open_folder(kind(tmp_path / "packed"), order=order)
    (pixels, targets), (expected, right) = seen(packed), seen(plain)
    assert torch.equal(pixels, expected) and targets == right
    assert (packed.classes, packed.order, packed.doubt) == (plain.classes, plain.order, plain.doubt)
    assert (packed.name, packed.split) == ("packed", "all") and packed.conditions == plain.conditions
    known = data.match(packed, 3, "mine", ("cat", "2", "10"))
    assert seen(known)[1] == [2, 2, 1, 1, 0, 0], "weights that know their classes by name find them"
    assert (
        known.digest(range(6))
        != packed.digest(range(6))
        == data.open_folder(tmp_path / "packed", order=order).digest(range(6))
    )


@KINDS
def test_wnids_and_numbers_mean_what_they_mean_in_folders_and_label_files(tmp_path: Path, kind: Kind) -> None:
    wnids = ["n01440764", "n01440764", "n15075141"]
    images = data.open_folder(kind(tmp_path / "a", PICTURES[:3], wnids))
    assert list(images.targets) == [0, 0, 999] and len(images.classes) == 1000 and images.present == (0, 999)
    images = data.open_folder(kind(tmp_path / "b", PICTURES[:3], [0, 2, 2]))
    assert (images.order, list(images.targets), images.present) == ("index", [0, 2, 2], (0, 2))
    with refused(BadData, "Labels in b go up to 2 but those of mine are 0 to 1; give others."):
        data.match(images, 2, "mine")
    assert len(data.match(images, 1000, "mine").classes) == 1000


def test_a_table_may_say_what_its_numbers_are_called(tmp_path: Path) -> None:
    pq.write_table(table(PICTURES[:3], [0, 2, 2], ("zebra", "gnu", "ant")), tmp_path / "a.parquet")
    images = data.open_folder(tmp_path / "a.parquet")
    assert (images.classes, list(images.targets), images.present) == (("zebra", "gnu", "ant"), [0, 2, 2], (0, 2))
    assert images.conditions == {} and images.name == "a"
    assert list(data.match(images, 2, "mine", ("ant", "zebra")).targets) == [1, 0, 0]
    assert list(data.open_folder(tmp_path / "a.parquet", order="natural").targets) == [2, 0, 0]
    pq.write_table(table(PICTURES[:2], [1, 0], ("n15075141", "n01440764")), tmp_path / "b.parquet")
    assert list(data.open_folder(tmp_path / "b.parquet").targets) == [0, 999]
    pq.write_table(table(PICTURES[:2], [0, 3], ("a", "b")), tmp_path / "c.parquet")
    with refused(BadData, "'c' has label 3 but names 2 classes; mend its labels."):
        data.open_folder(tmp_path / "c.parquet")


@KINDS
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_decoded_is_named_and_counted(tmp_path: Path, kind: Kind, workers: int) -> None:
    damaged = [PICTURES[0], b"no image", *PICTURES[2:5], PICTURES[5][:60]]
    loader = data.loader(data.open_folder(kind(tmp_path, damaged)), CONFIG, batch=2, workers=workers)
    for _ in range(2):
        assert torch.cat([target for _, target in loader]).tolist() == [1, 0, 0, 2]
        (first, why), (last, _) = loader.skipped
        assert (first, last) == (("1.png", "5.png") if kind is as_parquet else ("0.tar/001.png", "0.tar/005.png"))
        assert why == "not an image in a format that can be read" and loader.total == 6


@KINDS
def test_images_can_be_sent_and_come_in_any_order(tmp_path: Path, kind: Kind) -> None:
    images = data.open_folder(kind(tmp_path))
    in_order = [np.asarray(images.open(i, "RGB")) for i in range(6)]
    sent = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(images))
    for i in (5, 0, 3, 2, 2, 4, 1):
        assert np.array_equal(np.asarray(sent.open(i, "RGB")), in_order[i])


@KINDS
def test_parts_are_told_by_their_names(tmp_path: Path, kind: Kind) -> None:
    suffix = "parquet" if kind is as_parquet else "tar"
    for part, count in (("train-00000-of-00002", 6), ("train-00001-of-00002", 4), ("validation-00000-of-00001", 3)):
        kind(tmp_path / "data", PICTURES[:count], [*"bbaacc"][:count])
        (tmp_path / "data" / f"0.{suffix}").rename(tmp_path / "data" / f"{part}.{suffix}")
    images = data.open_folder(tmp_path)
    assert (images.split, len(images), images.classes) == ("validation", 3, ("a", "b"))
    assert images.notes == (f"Accuracy is measured on validation of {tmp_path}: 3 images of 2 classes.",)
    assert len(data.open_folder(tmp_path, "train")) == 10
    train, held_out = data.open_training(tmp_path)
    assert (len(train), len(held_out)) == (10, 3) and train.classes == held_out.classes == ("a", "b", "c")
    assert list(held_out.targets) == [1, 1, 0]
    alone = data.open_folder(tmp_path / "data" / f"train-{{00000..00001}}-of-00002.{suffix}")
    assert (len(alone), alone.split, alone.name) == (10, "train", "data"), "what is named is taken, whatever it is"
    with refused(
        BadData, f"'{tmp_path}' has no split 'holdout'; it has train, validation: name the one to measure on …."
    ):
        data.open_folder(tmp_path, "holdout")
    (tmp_path / "data" / f"validation-00000-of-00001.{suffix}").unlink()
    with refused(BadData, f"'{tmp_path}' has no part called val or test; it has train: name the one to measure on …."):
        data.open_folder(tmp_path)
    with refused(
        BadData, f"'{tmp_path}' has train, and training needs a part called train and one called val or test; …."
    ):
        data.open_training(tmp_path)
    kind(tmp_path)
    with refused(
        BadData, f"'{tmp_path}' has files of a split, such as 'train-…', and others, such as '0.{suffix}'; …."
    ):
        data.open_folder(tmp_path)


def test_pictures_in_folders_win_over_a_table_beside_them(tmp_path: Path) -> None:
    as_parquet(as_folder(tmp_path))
    assert data.open_folder(tmp_path).classes == ("2", "10", "cat")
    assert isinstance(data.open_folder(tmp_path).items, list)


def test_indices_of_both_splits_are_the_same_classes(tmp_path: Path) -> None:
    """Of held-out images that lack a class, too."""
    as_parquet(tmp_path / "train", PICTURES[:3], [0, 1, 2])
    as_parquet(tmp_path / "val", PICTURES[:2], [0, 2])
    train, held_out = data.open_training(tmp_path)
    assert train.classes == held_out.classes == ("0", "1", "2") and list(held_out.targets) == [0, 2]


def test_the_column_of_labels_can_be_named(tmp_path: Path) -> None:
    made = table(PICTURES[:2], [0, 1], fine=["a", "b"], coarse=[1, 0]).drop_columns(["label"])
    pq.write_table(made, tmp_path / "a.parquet")
    with refused(BadData, "'a.parquet' has no column that is called label; it has image (struct<…>), fine (string), …"):
        data.open_folder(tmp_path / "a.parquet")
    images = data.open_folder(tmp_path / "a.parquet", labels=Path("fine"))
    assert images.classes == ("a", "b") and images.conditions == {"labels": "fine"}
    assert data.open_folder(tmp_path / "a.parquet", labels=Path("coarse")).digest([0, 1]) != images.digest([0, 1])
    samples = [
        {"jpg": png, "json": json.dumps({"kind": k, "label": 0}).encode()}
        for png, k in zip(PICTURES[:2], "ab", strict=True)
    ]
    tar(tmp_path / "a.tar", samples)
    assert data.open_folder(tmp_path / "a.tar", labels=Path("kind")).classes == ("a", "b")
    assert data.open_folder(tmp_path / "a.tar").order == "index"


def test_images_without_a_label_are_left_out(tmp_path: Path) -> None:
    pq.write_table(table(PICTURES[:4], [1, None, -1, 0]), tmp_path / "a.parquet")
    images = data.open_folder(tmp_path / "a.parquet")
    assert [images.label(i) for i in range(2)] == ["0.png", "3.png"] and list(images.targets) == [1, 0]
    assert images.notes == ("a: 2 of 4 images have no label and are left out.",)
    assert np.array_equal(np.asarray(images.open(1, "RGB")), np.asarray(Image.open(io.BytesIO(PICTURES[3]))))
    tar(tmp_path / "a.tar", [{"png": PICTURES[0], "cls": b"a"}, {"png": PICTURES[1]}, {"cls": b"b"}])
    images = data.open_folder(tmp_path / "a.tar")
    assert list(images.targets) == [0] and images.notes == (
        "a: 1 left out: samples without an image (1).",
        "a: 1 of 2 images have no label and are left out.",
    )


def test_plain_bytes_paths_and_empty_cells(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [PICTURES[0], None], "label": ["a", "b"]}), tmp_path / "a.parquet")
    loader = data.loader(data.open_folder(tmp_path / "a.parquet"), CONFIG, batch=2)
    assert [len(target) for _, target in loader] == [1]
    assert loader.skipped == [("a.parquet row 1", "there is no image in its place")]
    (tmp_path / "b.png").write_bytes(PICTURES[1])
    cells = [{"bytes": None, "path": name} for name in ("b.png", "gone.png")]
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int8()})
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}, schema=schema), tmp_path / "b.parquet")
    loader = data.loader(data.open_folder(tmp_path / "b.parquet"), CONFIG, batch=2)
    assert [target.tolist() for _, target in loader] == [[0]]
    assert loader.skipped == [("gone.png", "the file is not there, or its link leads nowhere")]


def test_tables_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"

    def says(sentence: str, made: pa.Table | None = None, **how: Any) -> None:
        if made is not None:
            pq.write_table(made, file, **how)
        with refused(BadData, sentence):
            data.open_folder(file)

    say = "give a table that has images as bytes, or as `datasets` has them (bytes and path)."
    says(f"'a.parquet' has label (int64); {say}", pa.table({"label": [1]}))
    bytes_twice = pa.table({"a": [b"1"], "b": [b"2"], "label": [1]})
    says(f"'a.parquet' has 'a' and 'b', and which of them has images is not clear: call it image; {say}", bytes_twice)
    says(
        "'a.parquet' has labels of type double in column 'label', which must be whole numbers or names; give another "
        "column (--labels NAME), or write them so.",
        table(PICTURES[:2], [0.0, 1.0]),
    )
    says(
        "'a' has no label for any of its 2 images; give data that has, or name where they are (--labels NAME).",
        table(PICTURES[:2], [-1, -1]),
    )
    says(f"Parquet file '{file}' has no rows; give one.", table(PICTURES[:1], [0]).slice(1))
    for content in (b"", b"PAR1 no PAR1"):
        file.write_bytes(content)
        says(f"Parquet file '{file}' cannot be read (…); give another.")
    file.unlink()
    says(f"'{file}' does not exist; give a .parquet file, or a folder of them.")
    as_parquet(tmp_path / "two", labels=[0, 0, 1, 1, 2, 2])
    pq.write_table(table(PICTURES[:1], ["a"]), tmp_path / "two" / "1.parquet")
    with refused(
        BadData, "Column 'label' has numbers in one of '…0.parquet' and '…1.parquet' and names in the other; …."
    ):
        data.open_folder(tmp_path / "two")


def test_tar_files_that_cannot_be_used_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"

    def says(sentence: str, *samples: Mapping[str, bytes]) -> None:
        if samples:
            tar(file, samples)
        with refused(BadData, sentence):
            data.open_folder(file)

    says(
        f"Tar file '{file}' has images without labels: none has a .cls, or a .json with a label beside it; give some.",
        {"png": PICTURES[0]},
        {"png": PICTURES[1]},
    )
    says(f"Tar file '{file}' has no images in it; give one that has, as 0001.jpg beside 0001.cls.", {"cls": b"1"})
    for said, what in ((b"{", "is no JSON"), (b"[]", "is no mapping")):
        says(f"Tar file '{file}' has '000.json', which {what}; mend it.", {"png": PICTURES[0], "json": said})
    odd = {"png": PICTURES[0], "json": b'{"label": [1]}'}
    says(
        f"Tar file '{file}' has '000.json', whose label [1] is neither a whole number nor a name; give another field.",
        odd,
    )
    whole = tar(file, [{"png": PICTURES[0], "cls": b"1"}]).read_bytes()
    for content in (b"", b"no tar" * 200, whole[: 512 + len(PICTURES[0]) // 2]):
        file.write_bytes(content)
        says(f"Tar file '{file}' cannot be read (…); give one that is whole and not compressed.")
    with refused(BadData, f"'{tmp_path}/b-1.tar' does not exist; give a .tar file, or a folder of them."):
        data.open_folder(tmp_path / "b-{1..3}.tar")
    with refused(BadData, "'…b-{3..1}.tar' stands for no files or too many; count up in it, as {000..012}."):
        data.open_folder(tmp_path / "b-{3..1}.tar")


def test_timms_words_stand_before_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(as_tar(tmp_path / "here").parent)
    for given in (Path("wds/here"), Path("wds/here/0.tar"), Path(f"wds/{tmp_path}/here")):
        assert len(data.open_folder(given)) == 6 and packs.needed(given) is not None
    assert packs.absolute(Path("wds/here")) == Path(f"wds{tmp_path}/here")
    assert packs.absolute(Path("here")) == tmp_path / "here" == packs.needed(tmp_path / "here")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused(
        UsageError, "--data-dir hfds/… needs datasets, which is not installed; pip install 'tokenbench[datasets]'."
    ):
        data.open_folder(Path("hfds/timm/imagenette"))
    assert packs.absolute(Path("hfds/timm/imagenette")) == Path("hfds/timm/imagenette")
    assert packs.needed(Path("hfds/timm/imagenette")) is None
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with refused(UsageError, "Parquet needs pyarrow, which is not installed; pip install 'tokenbench[parquet]'."):
        data.open_folder(as_parquet(tmp_path / "there"))


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """One row group of 20,000, of which only a few rows are held; to shuffle it would be to read it for each image."""
    block = np.random.default_rng(0).bytes(60_000_000)
    cells = [block[at : at + 3000] for at in range(0, len(block), 3000)]
    pq.write_table(
        pa.table({"image": cells, "label": [0, 1] * 10_000}), tmp_path / "a.parquet", use_dictionary=["label"]
    )
    del cells
    images = data.open_folder(tmp_path / "a.parquet")
    assert isinstance(images.items, parquet.Parquet) and len(images) == 20_000
    pool, most = pa.default_memory_pool(), 0
    before = pool.bytes_allocated()
    for i in range(0, 20_000, 7):
        assert images.items.read(i) == block[3000 * i : 3000 * i + 3000]
        most = max(most, pool.bytes_allocated() - before)
    assert most < 12_000_000, most
    os.rename(tmp_path / "a.parquet", tmp_path / "train.parquet")
    as_parquet(tmp_path, PICTURES[:2], [0, 1])
    os.rename(tmp_path / "0.parquet", tmp_path / "val.parquet")
    with (
        pytest.MonkeyPatch.context() as patch,
        refused(BadData, "Parquet file '…train.parquet' has row groups of 57 MiB, …"),
    ):
        patch.setattr(parquet, "SHUFFLED", 2**24)
        data.open_training(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_datasets_reads_is_what_folders_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    plain = data.open_folder(as_folder(tmp_path / "plain"), order="lexical")
    for part in ("train", "validation"):
        as_folder(tmp_path / "folders" / part)
        as_parquet(tmp_path / "tables", labels=[0, 0, 1, 1, 2, 2])
        (tmp_path / "tables" / "0.parquet").rename(tmp_path / "tables" / f"{part}-0.parquet")
    loaded = datasets.load_dataset(str(tmp_path / "folders"))
    loaded.save_to_disk(tmp_path / "several")
    loaded["validation"].save_to_disk(tmp_path / "one")
    for kind in ("folders", "tables", "several", "one"):
        given = Path(f"hfds/{tmp_path}/{kind}")
        images = data.open_folder(given)
        pixels, targets = seen(images)
        assert targets == seen(plain)[1] and torch.equal(pixels, seen(plain)[0]), kind
        assert (images.name, images.split) == (kind, "all" if kind == "one" else "validation")
        assert images.names == (("0", "1", "2") if kind == "tables" else NAMES)
        assert images.digest(range(6)) == data.open_folder(given).digest(range(6)) != images.digest(range(5))
        sent = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(images))
        assert np.array_equal(np.asarray(sent.open(3, "RGB")), np.asarray(plain.open(3, "RGB")))
        if kind != "one":
            train, held_out = data.open_training(given)
            assert train.split == "train" and train.classes == held_out.classes
            assert data.open_folder(Path(f"{given}:train")).split == "train"
    with refused(BadData, f"'{tmp_path}/folders' has no split 'test'; it has train, validation."):
        data.open_folder(Path(f"hfds/{tmp_path}/folders:test"))
    with refused(BadData, "'…/nothing' cannot be opened as a data set (…); give a name on the hub, …"):
        data.open_folder(Path(f"hfds/{tmp_path}/nothing"))


def test_of_several_images_to_a_sample_the_picture_is_taken_and_said(tmp_path: Path) -> None:
    made = [{"depth.png": png(9), "jpg": PICTURES[0], "cls": b"0"}, {"png": PICTURES[1], "cls": b"--5"}]
    images = data.open_folder(tar(tmp_path / "a.tar", made))
    assert [images.label(i) for i in range(2)] == ["a.tar/000.jpg", "a.tar/001.png"], "and not the map of depths"
    assert "a: samples have several images, of which .jpg is taken and not .depth.png." in images.notes
    assert images.classes == ("0", "--5"), "which is no number"


def test_tables_that_name_their_classes_otherwise_are_refused(tmp_path: Path) -> None:
    def write(name: str, labels: Sequence[int], names: Sequence[str] = ()) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table(PICTURES[: len(labels)], labels, names), tmp_path / name)

    write("a/val-0.parquet", [0, 1], ("cat", "dog"))
    write("a/val-1.parquet", [0, 1], ("dog", "cat"))
    one, two = (tmp_path / f"a/val-{i}.parquet" for i in range(2))
    with refused(BadData, f"'{one}' and '{two}' call their classes otherwise, or in another order; write both alike."):
        data.open_folder(tmp_path / "a")
    for split, labels, names in (("b", [0, 2], ("cat", "dog", "emu")), ("c", [0, 1], ())):
        write(f"{split}/train.parquet", [0, 1], ("cat", "dog"))
        write(f"{split}/val.parquet", labels, names)
        with refused(BadData, f"'{split}' has a label '…' in one split that is none of the classes that another …"):
            data.open_training(tmp_path / split)
