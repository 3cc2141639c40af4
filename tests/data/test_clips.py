"""Clips: which frames are read of what file, which classes and splits, and what is said of files that are none."""

from __future__ import annotations

from pathlib import Path

import moving
import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from tokenbench.clips.lessons import Lessons
from tokenbench.clips.recipes import VIDEO
from tokenbench.data import decoding, sampling
from tokenbench.data.clips import open_clips, open_training
from tokenbench.data.viewing import ViewLoader, Views
from tokenbench.errors import BadData, DataError, UsageError
from tokenbench.tasks.video import Video

LEVELS = [10 * i for i in range(1, 21)]
CONFIG = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def levels(found: decoding.Frames) -> list[int]:
    """Which of `LEVELS` each frame has that was asked for."""
    means = found.pixels.float().mean((1, 2, 3))[found.order]
    return (means / 10).round().int().sub(1).tolist()


def can(reader: str) -> bool:
    try:
        return decoding.reader(reader) == reader
    except UsageError:
        return False


READERS = [
    pytest.param(by, marks=pytest.mark.skipif(not can(by), reason=f"{by} cannot be imported"))
    for by in ("pyav", "torchcodec")
]


@pytest.mark.parametrize("by", READERS)
@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        *(("a.mp4", "mpeg4", "yuv420p"), ("a.avi", "mjpeg", "yuvj444p"), ("a.mkv", "ffv1", "gray10le")),
        *(("a.mkv", "ffv1", "yuva444p"), ("a.mkv", "ffv1", "yuv410p")),
        *(("a.mov", "png", "rgba"), ("a.mov", "qtrle", "rgb24")),
    ],
)
def test_frames_by_index(tmp_path: Path, name: str, codec: str, pixels: str, by: str) -> None:
    path = moving.write(tmp_path / name, moving.grey(LEVELS), codec, pixels)
    wanted = [19, 0, 7, 7, 12]
    found = decoding.read(path, lambda count: wanted if count == 20 else pytest.fail(f"{count} frames"), by)
    assert levels(found) == wanted
    assert found.pixels.shape == (4, 3, 48, 64) and found.pixels.dtype == torch.uint8, "each frame once"
    assert found.decoded == {"pyav": 20, "torchcodec": 4}[by] and found.seconds > 0


def test_frames_of_a_folder(tmp_path: Path) -> None:
    folder = moving.pictures(tmp_path / "clip", moving.grey(LEVELS))
    (folder / "notes.txt").write_text("no picture")
    found = decoding.read(folder, lambda count: [count - 1, 0, 10])
    assert levels(found) == [19, 0, 10], "frame10 comes after frame9"


@pytest.mark.parametrize("by", READERS)
def test_frames_of_several_sizes_get_that_of_the_first(tmp_path: Path, by: str) -> None:
    one = moving.write(tmp_path / "1.ts", moving.grey(LEVELS[:10]), "mpeg2video")
    other = moving.write(tmp_path / "2.ts", moving.grey(LEVELS[10:], (64, 80)), "mpeg2video")
    both = tmp_path / "both.ts"
    both.write_bytes(one.read_bytes() + other.read_bytes())
    found = decoding.read(both, lambda count: [0, count - 1], by)
    assert found.pixels.shape == (2, 3, 48, 64) and levels(found)[1] == 19
    assert by == "torchcodec" or levels(found)[0] == 0, "of frames of equal times it does not take the first"
    folder = moving.pictures(tmp_path / "clip", [*moving.grey([50]), *moving.grey([100], (10, 90))])
    assert decoding.read(folder, lambda count: [0, 1]).pixels.shape == (2, 3, 48, 64)


@pytest.mark.parametrize("by", READERS)
def test_files_that_are_none(tmp_path: Path, by: str) -> None:
    import av

    whole = moving.write(tmp_path / "whole.mp4", moving.grey(LEVELS * 4))
    front = moving.write(tmp_path / "front.mp4", moving.grey(LEVELS * 4), movflags="faststart")
    cut, shorter = tmp_path / "cut.mp4", tmp_path / "shorter.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shorter.write_bytes(front.read_bytes()[: front.stat().st_size * 2 // 3])
    film = moving.write(tmp_path / "film.mkv", moving.grey(LEVELS * 4), "ffv1")
    assert levels(decoding.read(film, lambda count: [count - 1], by)) == [19]
    (tmp_path / "half.mkv").write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3)).astype(np.uint8)
    holed = bytearray(moving.write(tmp_path / "noise.mp4", list(noise)).read_bytes())
    holed[len(holed) // 3 : len(holed) // 3 + 300] = bytes(300)
    (tmp_path / "holed.mp4").write_bytes(holed)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "nothing").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    for name, says in (
        ("cut.mp4", "damaged or no video"),
        ("shorter.mp4", "cut short: .* of 80 frames"),
        *([("half.mkv", "cut short: it ends after 1.* of 3.2 seconds")] if by == "pyav" else []),
        *([("holed.mp4", "damaged: frame .* cannot be decoded whole")] if by == "pyav" else []),
        ("empty.mp4", "empty"),
        ("text.mp4", "damaged or no video"),
        ("sound.mp4", "no video stream|video stream is unknown"),
        ("nothing", "no pictures"),
    ):
        with pytest.raises(DataError, match=says):
            decoding.read(tmp_path / name, lambda count: [0, count - 1], by)


def test_one_frame_is_repeated(tmp_path: Path) -> None:
    path = moving.write(tmp_path / "one.mp4", moving.grey([90]))
    found = decoding.read(path, Views(4, 2, 3, 1).choose)
    assert found.pixels.shape[0] == 1 and len(found.order) == 12


def test_views() -> None:
    """As published: starts in the middle of equal parts of what fits; too short a clip is repeated from its start."""
    assert sampling.starts(300, 64, 4) == [29, 88, 148, 207]
    assert sampling.starts(63, 64, 4) == [0, 0, 0, 0]
    assert sampling.places(3, 4, 2, 7) == [3, 5, 0, 2]
    assert [sampling.offsets(340, 224, n) for n in (1, 2, 3)] == [[58], [0, 116], [0, 58, 116]]


@pytest.mark.parametrize("size", [(48, 96), (96, 48), (32, 32)])
def test_crops_lie_along_the_longer_side(size: tuple[int, int]) -> None:
    rows, cols = (torch.linspace(0, 240, n) for n in size)
    ramp = (rows[:, None] if size[0] > size[1] else cols[None]).expand(size).to(torch.uint8)
    frames = decoding.Frames(ramp.expand(2, 3, *size), [0, 1], 2, 1.0)
    views = Views(2, 1, 1, 3).cut(frames, (32, 32))
    assert views.shape == (3, 3, 2, 32, 32)
    means = views.float().mean((1, 2, 3, 4))
    assert means[1] == pytest.approx(120, abs=3)
    if size[0] != size[1]:
        assert means[0] == pytest.approx(60, abs=4) and means[2] == pytest.approx(180, abs=4)


def test_folders_of_classes(tmp_path: Path) -> None:
    root = moving.kinetics(tmp_path / "data", train=2, test=1)
    found = open_clips(root)
    assert (found.name, found.split, found.classes) == ("data", "test", moving.CLASSES)
    assert [found.label(i) for i in range(2)] == ["down/clip0", "right/clip1"] and list(found.targets) == [0, 1]
    assert found.reader == "pictures"
    train, held_out = open_training(root)
    assert (train.split, len(train), held_out.split) == ("train", 4, "test")
    moving.write(root / "test" / "right" / "more.mp4", moving.grey(LEVELS))
    assert open_clips(root).reader in ("pyav", "torchcodec") and len(open_clips(root)) == 3


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("path,label\ndown/abc_000001_000011,down\nright/clip1,right\n", moving.CLASSES),
        ("down/abc_000001_000011 down\nright/clip1 right\n", moving.CLASSES),
        ("down/abc_000001_000011\t0\nclip1\t1\n", ("0", "1")),
        ("down/abc_000001_000011 3 0\nright/clip1 3 1\n", ("0", "1")),
        (
            "split,class,clip,frames\ntest,down,abc_000001_000011,9\ntest,right,clip1,7\ntrain,right,clip2,7\n",
            moving.CLASSES,
        ),
    ],
)
def test_indexes(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    root = tmp_path / "data"
    for name in ("down/abc_000001_000011", "right/clip1"):
        moving.pictures(root / name, moving.grey(LEVELS[:3]))
    index = tmp_path / "index.csv"
    index.write_text(text)
    found = open_clips(root, index=index)
    assert [found.label(i) for i in range(len(found))] == ["down/abc_000001_000011", "right/clip1"]
    assert found.classes == classes and list(found.targets) == [0, 1]
    (root / "val.csv").write_text(text)  # beside clips that lie in no folder of a split
    assert len(open_clips(root)) == 2


def test_index_of_kinetics(tmp_path: Path) -> None:
    root = tmp_path / "data"
    moving.pictures(root / "abc_000001_000011", moving.grey(LEVELS[:3]))
    (root / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split\ndown,abc,1,11,validate\nright,def,2,12,validate\nright,ghi,2,12,train\n"
    )
    found = open_clips(root)
    assert [found.label(0), list(found.targets), found.classes] == ["abc_000001_000011", [0], moving.CLASSES]
    assert found.notes == (f"1 of 2 clips in val.csv are not in {root}.",)


def test_frames_of_kinetics_in_folders_of_splits(tmp_path: Path) -> None:
    """What lies in the folder of a split are clips, not classes, and the lists beside it say the classes."""
    root = tmp_path / "data"
    for split in ("train", "val"):
        for clip in ("abc_000001_000011", "def_000002_000012"):
            moving.pictures(root / split / f"{split}{clip}", moving.grey(LEVELS[:3]))
        (root / f"{split}.txt").write_text(f"{split}abc_000001_000011 3 0\n{split}def_000002_000012 3 1\n")
    train, held_out = open_training(root)
    assert (len(train), len(held_out), list(held_out.targets)) == (2, 2, [0, 1])
    assert [train.label(0), held_out.label(0)] == ["train/trainabc_000001_000011", "val/valabc_000001_000011"]


def test_odd_indexes(tmp_path: Path) -> None:
    root = moving.kinetics(tmp_path / "data", val=1)
    index = tmp_path / "index.csv"
    for text, says in (
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "not clear"),
        ("path,label\nonly\n", "too few columns in line 2"),
        ("path,label\nnowhere,down\n", "names none"),
        ("path,label,split\nclip0,down,train\n", "has no split val or test"),
        ("path,label\ndown/clip0,99999999999\n", "has label 99999999999, which is no class index"),
        ('path,label\n"' + "a" * 140_000 + '",down\n', "is no CSV"),
        ("label,youtube_id,time_start,time_end,split\ndown,abc,soon,11,val\n", "has time 'soon', which is no number"),
        ("label,split,youtube_id,time_start,time_end\ndown,val,abc,1\n", "too few columns in line 2"),
        ("path,label\nclip0,down\nclip1,\n", "has a gap in line 3; give a clip and a class in each"),
        ("down/clip0 down\nclip1\n", "has too few columns in line 2"),
        ("vid,action\nclip0,down\nclip1,right\n", "begins with 'vid,action', which is no path.*call its columns path"),
        ("path,label\nclip0,down\nval/down/clip0,right\n", "has val/down/clip0 as 'down' and as 'right'; leave one"),
    ):
        index.write_text(text)
        with pytest.raises(BadData, match=says):
            open_clips(root, index=index)
    with pytest.raises(BadData, match="cannot be read"):
        open_clips(root, index=tmp_path / "absent.csv")
    with pytest.raises(BadData, match="no clips in folders of classes"):
        open_clips(moving.pictures(tmp_path / "only" / "val" / "a", []).parents[1])


def test_lines_of_clips_that_are_elsewhere_or_there_already(tmp_path: Path) -> None:
    """A name alone is no reason to take a clip of another folder, of which there is a line."""
    root = moving.kinetics(tmp_path / "data", val=1)
    index = tmp_path / "index.csv"
    index.write_text(
        "path,label\nval/right/clip0,right\nval/down/clip0,down\n/old/val/right/clip1,right\nclip1,right\n"
    )
    found = open_clips(root, index=index)
    assert [found.label(i) for i in range(len(found))] == ["val/down/clip0", "val/right/clip1"]
    assert list(found.targets) == [0, 1]
    assert found.notes == (
        f"1 of 4 clips in index.csv are not in {root}.",
        "1 of 4 lines in index.csv name a clip again; they are left out.",
    )


def test_advice_is_of_clips(tmp_path: Path) -> None:
    """No word of images and labels, which videos do not take."""
    advice = "give one folder of videos, or of folders of frames, for each class, or an index (--clips index.csv)."
    with refused(BadData, f"Data folder '{tmp_path}/nowhere' does not exist; {advice}"):
        open_clips(tmp_path / "nowhere")
    moving.write(tmp_path / "data" / "val" / "a.mp4", moving.grey(LEVELS[:2]))
    with refused(BadData, f"Data folder '{tmp_path}/data' has 'val' but no class folders in it; {advice}"):
        open_clips(tmp_path / "data")
    (tmp_path / "bad" / "val" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "val" / "a" / "1.mp4").write_text("hello")
    lessons = Lessons(open_clips(tmp_path / "bad"), CONFIG, VIDEO["mini"], 0, 2, 1)
    with refused(DataError, "None of the 1 clips of bad to train on can be read; the first, a/1.mp4: it is damaged…"):
        lessons[0, 0, 0]


def test_nothing_is_scored_on_what_is_learned_from(tmp_path: Path) -> None:
    root = moving.kinetics(tmp_path / "data", train=1)
    with refused(
        UsageError, "restrict_classes says nothing to training, whose head has the data's classes; leave it out."
    ):
        Video(restrict_classes=True).open_training(root)
    index = tmp_path / "index.csv"
    index.write_text("path,label\ntrain/down/clip0,down\ntrain/right/clip1,right\n")
    with refused(
        BadData,
        f"2 of 2 clips to score on are learned from too, such as {root}/train/down/clip0; give an index with a column "
        "of splits, or train.csv and val.csv of other clips each.",
    ):
        open_training(root, index)


def test_unreadable_clips_are_named_and_left_out(tmp_path: Path) -> None:
    root = moving.kinetics(tmp_path / "data", val=2)
    (root / "val" / "down" / "bad.mp4").write_text("hello")
    loader = ViewLoader(open_clips(root), CONFIG, Views(4, 1, 2, 3), 2)
    batches = list(loader)
    assert [len(batch) for _, batch in batches] == [1, 2, 1] and loader.total == 5
    assert [name for name, _ in loader.skipped] == ["down/bad.mp4"]
    assert batches[0][0].shape == (6, 3, 4, 32, 32) and batches[0][0].dtype == torch.float32
    assert torch.equal(torch.cat([v for v, _ in loader.after(3)]), torch.cat([v for v, _ in batches])[12:])
    for path in (root / "val").rglob("*.png"):
        path.write_text("no picture")
    with pytest.raises(DataError, match="None of the 5 clips"):
        list(loader)


def test_a_reader_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module in ("av", "torchcodec", "torchcodec.decoders"):
        monkeypatch.setitem(sys.modules, module, None)
    decoding.reader.cache_clear()
    with pytest.raises(UsageError, match=r"pip install tokenbench\[video\]"):
        decoding.reader("auto")
    decoding.reader.cache_clear()


def test_pixels_are_those_of_the_picture(tmp_path: Path) -> None:
    draw = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    folder = tmp_path / "clip"
    folder.mkdir()
    Image.fromarray(draw).save(folder / "0.png")
    found = decoding.read(folder, lambda count: [0])
    assert np.array_equal(found.pixels[0].permute(1, 2, 0).numpy(), draw)
