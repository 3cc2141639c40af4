"""Video recognition from files to rows and through training, on squares that move."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import moving
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scenes import Quiet

from tokenbench.cli import main
from tokenbench.clips.recipes import VIDEO
from tokenbench.data import decoding
from tokenbench.errors import UsageError
from tokenbench.measure.accuracy import Predictions
from tokenbench.measure.views import Viewed, answer, gather, join
from tokenbench.methods.dense import Dense
from tokenbench.methods.stvit.stvit import STViT
from tokenbench.runs.results import load
from tokenbench.tasks.video import Video
from tokenbench.training import Job, train

TASK = Video(frames=4, stride=1, views=(1, 1))
RECIPE = VIDEO["mini"].change({"updates": 4, "warmup_updates": 1, "batch": 4})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, Path]:
    """A run of a few updates of each of two methods."""
    root = tmp_path_factory.mktemp("video")
    folder = moving.kinetics(root / "squares", train=4, val=2)
    (folder / "val" / "down" / "bad.mp4").write_text("hello")
    job = Job(
        STViT(), "swin3d_femto", RECIPE, folder, root / "out" / "stvit", task=TASK, image_size=(112, 112), save_every=2
    )
    for one in (job, replace(job, method=Dense(), output=root / "out" / "dense")):
        found = train(one, Quiet())
        assert found.images == 4 and found.value is not None
    return job, root / "out"


def test_other_frames_are_another_run(trained: tuple[Job, Path]) -> None:
    """What is finished or begun with some is not taken for what others would give."""
    job, _ = trained
    with pytest.raises(UsageError, match=r"holds a run of other settings \(choices.frames: 4 before, 6 now\)"):
        train(replace(job, task=TASK.model_copy(update={"frames": 6})), Quiet())
    assert train(replace(job), Quiet()).images == 4


def test_killed_it_goes_on_bit_for_bit(trained: tuple[Job, Path], tmp_path: Path) -> None:
    job, output = trained
    again = replace(job, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train(again, Quiet(until=3))
    train(again, Quiet())
    one, other = (load_file(out / "model.safetensors") for out in (output / "stvit", again.output))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_rows(trained: tuple[Job, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each video is decoded once for both models, and one that is none is named."""
    job, output = trained
    seen: Counter[str] = Counter()
    read = decoding.read

    def counted(path: Path, *rest: object) -> decoding.Frames:
        seen[path.name] += 1
        return read(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "read", counted)
    out = tmp_path / "r.jsonl"
    done = CliRunner().invoke(
        main,
        ["run", "--task", "video", "--backbone", "swin3d_femto", "--methods", "dense,stvit", "--weights", str(output),
         "--data-dir", str(job.data_dir), "--frames", "4", "--stride", "1", "--views", "2x3", "--image-size", "112",
         "--rounds", "3", "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert set(seen.values()) == {1} and len(seen) == 5
    assert "1 of 5 videos cannot be read" in done.output and "down/bad.mp4" in done.output
    dense, stvit = load(out)[0]
    assert (dense.status, stvit.status, stvit.label) == ("ok", "ok", "stvit[tokens=9,keys=enlarged,projection=once]")
    for row in (dense, stvit):
        assert row.images == 4 and row.skipped == 1 and row.conditions["reader"] in ("pyav", "torchcodec")
        assert row.conditions["frames"] == 4 and row.conditions["views"] == [2, 3]
        assert row.metrics["video_gmacs"] == pytest.approx(6 * row.gmacs)
        assert row.metrics["frames_per_s"] == pytest.approx(4 * row.images_per_s)
        assert row.metrics["decoded_per_s"] > 0 and 0 <= row.metrics["clip_top1"] <= 100
    assert stvit.gmacs < dense.gmacs and stvit.metrics["diff_dense"] is not None
    saved = Viewed.load(tmp_path / "r.predictions" / f"{stvit.id}.npz")
    assert saved.views.shape == (4, 6, 1) and saved.alone.top1 == pytest.approx(stvit.metrics["clip_top1"])
    assert "clips/s" in done.output and "GMAC x views" in done.output and "video top-1" in done.output


@pytest.mark.parametrize("knobs", ["", "[joint=true]"])
def test_a_vit_on_frames(trained: tuple[Job, Path], tmp_path: Path, knobs: str) -> None:
    out = tmp_path / "r.jsonl"
    done = CliRunner().invoke(
        main,
        ["run", "--task", f"video{knobs}", "--backbone", "vit_tiny_patch16_224", "--methods", "dense,tome[r=4],topk",
         "--weights", "random", "--frames", "2", "--image-size", "64", "--rounds", "3", "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = {row.method: row for row in load(out)[0]}
    assert rows["tome"].status == "ok" and rows["dense"].tokens_mean[-1] == 2 * 17
    if knobs:
        assert rows["topk"].status == "skipped" and rows["tome"].tokens_mean[0] == 2 * 17 - 4, "four of both frames"
    else:
        assert rows["topk"].gmacs < rows["dense"].gmacs and rows["tome"].tokens_mean[0] == 2 * (17 - 4)


def test_the_class_of_a_video_is_of_the_mean_of_probabilities() -> None:
    logits = torch.tensor([[0.0, 5.0, 0.0], [3.0, 0.0, 0.0], [3.0, 0.0, 0.0]])

    class Batch:
        targets, views, logits = torch.tensor([1]), 3, None
        decoded, seconds = torch.tensor([9]), torch.tensor([0.5])

        def __len__(self) -> int:
            return 1

    model = torch.nn.Identity()
    batch = Batch()
    whole, alone = answer(model, logits, batch, "fp32", "m")
    shares = logits.double().softmax(1).mean(0)
    assert whole[0].tolist() == shares.argsort(descending=True)[:2].tolist()
    assert whole[0, 0] == 0 and alone[0, :, 0].tolist() == [1, 0, 0], "by the mean of logits it would be class 0 or 1"
    found = gather([(whole, alone)], [batch])
    both = join([found, found])
    assert len(both) == 2 and both.alone.top1 == pytest.approx(100 / 3) and both.decoding == pytest.approx(18)


def test_predictions_of_videos_pair_like_those_of_images(tmp_path: Path) -> None:
    own = Viewed(
        Predictions(np.array([[0], [1]], np.int32), np.array([0, 0], np.int32)),
        np.zeros((2, 3, 1), np.int32), np.array([4, 4]), np.array([0.1, 0.1]),
    )  # fmt: skip
    own.save(tmp_path / "p.npz")
    assert Predictions.load(tmp_path / "p.npz").top1 == 50 and Viewed.load(tmp_path / "p.npz").views.shape == (2, 3, 1)


@pytest.mark.slow
def test_the_mini_recipe_learns_which_way_garments_move(tmp_path: Path) -> None:
    """One frame does not tell it. A quarter would be right by chance, and 37 % of 160 once in some thousand times."""
    folder = moving.garments(tmp_path / "garments", train=480, val=160)
    job = Job(
        STViT(), "swin3d_nano", VIDEO["mini"].change({"flip": 0.0}), folder, tmp_path / "out", image_size=(112, 112),
        task=Video(frames=8, stride=1, views=(1, 1)), evaluate_every=1000,
    )  # fmt: skip
    found = train(job, Quiet())
    assert found.images == 160 and found.value is not None and found.value > 40


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task", "video", "--backbone", "swin_t"], "takes no clips"),
        (["--backbone", "swin3d_t", "--methods", "dense"], "give --task video"),
        (["--task", "video[views=4]", "--backbone", "swin3d_t"], "views"),
        (["--task", "video[joint=true]", "--backbone", "swin3d_t"], "leave joint out"),
        (["--frames", "3"], "says nothing to classification"),
    ],
)
def test_what_cannot_be(words: list[str], says: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["run", *words, "-o", str(tmp_path / "r.jsonl")])
    assert done.exit_code == 2 and says in done.output
