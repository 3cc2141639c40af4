"""Every image is read once, labelled right, and named if it cannot be read."""

from __future__ import annotations

import csv
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from tokenbench import backbones, data
from tokenbench.data import ordering
from tokenbench.errors import BadSetting, DataError
from tokenbench.weights import checkpoints

SHARED = Path(__file__).parents[3] / "shared"
CONFIG: dict[str, Any] = {
    "input_size": (3, 32, 32),
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 0.9,
    "interpolation": "bicubic",
}
GREY = {**CONFIG, "input_size": (1, 28, 28), "mean": (0.25,), "std": (0.5,), "crop_pct": 1.0}


def folder(root: Path, classes: dict[str, int], suffix: str = ".png", size: tuple[int, int] = (48, 40)) -> Path:
    """Class folders of random images."""
    random = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}{suffix}")
    return root


def test_the_sample_is_balanced_and_grouped() -> None:
    sample = data.sample()
    assert (len(sample), len(sample.classes), sample.split) == (2000, 10, "test")
    assert np.asarray(sample.items).shape == (2000, 28, 28)
    assert sample.targets == tuple(c for c in range(10) for _ in range(200))
    chosen = torch.cat([target for _, target in data.loader(sample, GREY, batch=7, limit=50)])
    assert chosen.bincount().tolist() == [5] * 10


def test_the_sample_reaches_the_model_as_it_is() -> None:
    sample = data.sample()
    pixels, target = next(iter(data.loader(sample, GREY, batch=4)))
    expected = (torch.tensor(np.asarray(sample.items[:4])).unsqueeze(1) / 255 - 0.25) / 0.5
    assert torch.allclose(pixels, expected) and pixels.dtype == torch.float32
    assert target.dtype == torch.int64
    nano = backbones.create("deit_nano")
    data.check_classes(sample, nano.vit.num_classes, nano.name)
    assert next(iter(data.loader(sample, nano.config, batch=2)))[0].shape == (2, 1, 28, 28)


def test_a_folder_gives_what_timm_makes_of_each_file(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path / "pets", {"cat": 2, "dog": 3}))
    assert (images.name, images.split, images.classes, list(images.targets)) == (
        "pets",
        "all",
        ("cat", "dog"),
        [0, 0, 1, 1, 1],
    )
    loader = data.loader(images, CONFIG, batch=2)
    assert (loader.total, len(loader), loader.name, loader.split) == (5, 3, "pets", "all")
    transform = create_transform(**{**CONFIG, "crop_mode": "center"})
    seen = list(loader)
    assert [len(target) for _, target in seen] == [2, 2, 1]
    for pixels, item in zip(torch.cat([p for p, _ in seen]), images.items, strict=True):
        assert torch.equal(pixels, transform(Image.open(item).convert("RGB")))


@pytest.mark.parametrize("split", ["val", "validation", "test"])
def test_a_split_is_found_and_named(tmp_path: Path, split: str) -> None:
    top = tmp_path / "pets"
    folder(top / split, {"cat": 1, "dog": 1})
    folder(top / "train", {"cat": 2, "dog": 2})
    for path in (top, top / split):
        images = data.open_folder(path)
        assert (images.name, images.split, len(images)) == ("pets", split, 2)
    assert (data.open_folder(top, "train").split, len(data.open_folder(top, "train"))) == ("train", 4)
    with pytest.raises(DataError, match="has no split 'holdout' with class folders; it has"):
        data.open_folder(top, "holdout")


def test_a_class_may_be_called_like_a_split(tmp_path: Path) -> None:
    assert data.open_folder(folder(tmp_path, {"test": 1, "text": 1})).classes == ("test", "text")


def test_the_index_is_the_place_in_natural_order_empty_folders_counted(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path, {"10": 1, "2": 1, "1": 0, ".git": 1}))
    assert images.classes == ("1", "2", "10")
    assert {images.label(i): images.targets[i] for i in range(2)} == {"10/0.png": 2, "2/0.png": 1}


def test_wnids_are_placed_among_all_of_imagenet(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path / "a", {"n01440764": 1, "n01443537": 1, "n15075141": 1}))
    assert list(images.targets) == [0, 1, 999] and len(images.classes) == 1000
    assert images.classes[1].startswith("goldfish")
    images = data.open_folder(folder(tmp_path / "b", {"n01443537": 1, "n99999999": 1}))
    assert list(images.targets) == [0, 1] and len(images.classes) == 2


def test_folders_below_a_class_and_capital_suffixes_count(tmp_path: Path) -> None:
    folder(tmp_path / "cat", {"deep": 1}, ".JPG")
    folder(tmp_path, {"dog": 1}, ".webp")
    images = data.open_folder(tmp_path)
    assert list(images.targets) == [0, 1] and images.label(0) == "cat/deep/0.JPG"


def damaged(root: Path) -> Path:
    """Ten images of which 0 and 5 cannot be read."""
    folder(root, {"cat": 5, "dog": 5}, ".jpg")
    (root / "cat" / "0.jpg").write_bytes(b"no image")
    whole = (root / "dog" / "0.jpg").read_bytes()
    (root / "dog" / "0.jpg").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_named_and_skipped(tmp_path: Path, workers: int) -> None:
    loader = data.loader(data.open_folder(damaged(tmp_path)), CONFIG, batch=5, workers=workers)
    for _ in range(2):  # the second pass does not add to the first
        seen = list(loader)
        assert [len(target) for _, target in seen] == [4, 4]
        assert torch.cat([target for _, target in seen]).tolist() == [0] * 4 + [1] * 4
        (first, why), (second, _) = loader.skipped
        assert (first, second) == ("cat/0.jpg", "dog/0.jpg")
        assert why == "not an image in a format that can be read"
    assert "truncated" in loader.skipped[1][1] and loader.total == 10


def test_a_batch_without_a_readable_image_is_left_out(tmp_path: Path) -> None:
    loader = data.loader(data.open_folder(damaged(tmp_path)), CONFIG, batch=1)
    assert len(list(loader)) == 8 and len(loader.skipped) == 2


def test_no_readable_image_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^None of the 1 images of .* can be read; the first, cat/0.png: "):
        list(data.loader(data.open_folder(tmp_path), CONFIG, batch=1))


def test_each_image_is_decoded_once_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = data.open_folder(folder(tmp_path, {"cat": 3, "dog": 3}))
    opened: list[int] = []
    plain = data.Images.open
    monkeypatch.setattr(data.Images, "open", lambda self, i, mode: opened.append(i) or plain(self, i, mode))
    loader = data.loader(images, CONFIG, batch=4)
    assert not opened
    list(loader)
    assert opened == [0, 1, 2, 3, 4, 5]


def test_a_limit_spreads_evenly_and_says_so_in_the_hash(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path, {"a": 4, "b": 4, "c": 4}))
    some, again, all_of_them = (data.loader(images, CONFIG, 8, limit=n) for n in (3, 3, 99))
    assert next(iter(some))[1].tolist() == [0, 1, 2]
    assert all_of_them.total == 12
    assert some.sample_hash == again.sample_hash != all_of_them.sample_hash
    assert len(some.sample_hash) == 16
    path = images.items[0]
    assert isinstance(path, Path)
    path.write_bytes(path.read_bytes() + b"0")
    assert data.loader(images, CONFIG, 8, limit=3).sample_hash != some.sample_hash
    whole = data.loader(data.sample(), GREY, 8).sample_hash
    assert whole == "53467f245e19d50e" and whole != data.loader(data.sample(), GREY, 8, limit=5).sample_hash


def test_configs_with_one_key_share_a_loader() -> None:
    tiny, small, large = (backbones.create(n).config for n in ("vit_ti", "vit_s", "deit_t"))
    assert data.transform_key(tiny) == data.transform_key(small) != data.transform_key(large)
    assert hash(data.transform_key(tiny)) == hash(data.transform_key({**tiny, "mean": [0.5, 0.5, 0.5]}))
    assert data.transform_key(tiny) != data.transform_key({**tiny, "input_size": (3, 96, 96)})


def test_channels_and_statistics_are_brought_together(tmp_path: Path) -> None:
    images = data.open_folder(folder(tmp_path, {"cat": 1}))
    pixels, _ = next(iter(data.loader(images, {**CONFIG, "input_size": (1, 32, 32)}, 1)))
    assert pixels.shape == (1, 1, 32, 32)
    pixels, _ = next(iter(data.loader(data.sample(), {**GREY, "input_size": (3, 28, 28)}, 1)))
    assert pixels.shape == (1, 3, 28, 28) and torch.equal(pixels[:, 0], pixels[:, 2])
    with pytest.raises(DataError, match="4 channels"):
        data.loader(images, {**CONFIG, "input_size": (4, 32, 32)}, 1)


def test_a_loader_can_be_sent_to_workers_that_are_not_forked(tmp_path: Path) -> None:
    dataset = data.loader(data.open_folder(folder(tmp_path, {"cat": 1, "dog": 1})), CONFIG, 1)._batches.dataset
    sent = pickle.loads(multiprocessing.reduction.ForkingPickler.dumps(dataset))
    assert len(sent) == len(dataset) == 2
    for place in range(2):
        (there, its_class), (here, label) = sent[place], dataset[place]
        assert torch.equal(there, here) and its_class == label == place


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "flat").mkdir()
    for name, what in {
        "none": "does not exist",
        "file": "is a file",
        "flat": "has no class folders",
        "empty": "has 1 class folders but no images",
    }.items():
        with pytest.raises(DataError, match=rf"^Data folder '.*{name}' {what}.*\.$"):
            data.open_folder(tmp_path / name)
    images = data.open_folder(folder(tmp_path / "pets", {f"class {i}": 1 for i in range(12)}))
    with pytest.raises(DataError, match="pets has 12 classes but vit_ti has 1000"):
        data.check_classes(images, 1000, "vit_ti")
    data.check_classes(images, 12, "vit_ti")
    for bad in ({"batch": 0}, {"batch": 1, "workers": -1}, {"batch": 1, "limit": 0}):
        with pytest.raises(BadSetting, match="must be"):
            data.loader(images, CONFIG, **bad)


def test_real_images_and_real_weights_give_real_accuracy() -> None:
    root, weights = SHARED / "data" / "in1k_nips17_256", SHARED / "weights" / "vit_tiny_patch16_224.safetensors"
    if not root.exists() or not weights.exists():
        pytest.skip(f"{root} or {weights} is not here")
    images = data.open_folder(root)
    with (SHARED / "data" / "in1k_nips17_256.csv").open() as file:
        truth = {row["ImageId"]: int(row["TrueLabel"]) - 1 for row in csv.DictReader(file)}
    assert [truth[Path(images.label(i)).stem] for i in range(len(images))] == list(images.targets)
    backbone = backbones.create("vit_ti")
    checkpoints.load(backbone, weights)
    backbone.vit.eval()
    with torch.inference_mode():
        hits = [backbone.vit(x).argmax(1) == y for x, y in data.loader(images, backbone.config, 20, limit=40)]
    assert torch.cat(hits).float().mean() > 0.7


def validation(root: Path, one_size: bool = False, **changes: Any) -> data.Images:
    """Two images of each of ImageNet-1k's classes, of which those are there that are looked at."""
    names = changes.pop("names", tuple(ordering.wnids(1000)))
    called = changes.pop("called", "ILSVRC2012_val_{:08d}.JPEG")
    files = [root / called.format(i) for i in range(2000)]
    for i, file in enumerate(files[::125]):
        Image.new("RGB", (8 if one_size else 8 + i % 2, 8)).save(file, "PNG")
    targets = [i // 2 for i in range(2000)]
    return data.Images("photos", "val", names, files, changes.pop("targets", targets), root, **changes)


def test_imagenets_validation_set_is_told_by_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenbench.data.images.EACH", 2)  # 50 take a while
    numbers = tuple(map(str, range(1000)))
    assert validation(tmp_path).imagenet_val, "whatever its folder is called"
    assert validation(tmp_path, called="{}.png").imagenet_val and validation(tmp_path, names=numbers).imagenet_val
    assert data.loader(validation(tmp_path), CONFIG, 8, limit=9).imagenet_val, "a part of it is of it"
    one_more = [i // 2 for i in range(1999)] + [0]
    for what, odd in {
        "other classes": validation(tmp_path, names=numbers, called="{}.png"),
        "one more of one class": validation(tmp_path, targets=one_more),
        "images to train on": validation(tmp_path, called="n01440764_{}.JPEG"),
        "of one size, as ImageNet-C": validation(tmp_path, one_size=True),
        "fewer": data.open_folder(folder(tmp_path / "few", {"n01440764": 2, "n01443537": 2})),
        "arrays": data.sample(),
    }.items():
        assert not odd.imagenet_val, what
