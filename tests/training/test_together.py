"""Runs that share batches: each ends as it would alone, whatever stops it, and what fails stops no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from tokenbench import backbones
from tokenbench.cli import main
from tokenbench.errors import TokenbenchError
from tokenbench.methods import all_methods
from tokenbench.methods.recipe import DEIT, FINETUNE
from tokenbench.model import Model
from tokenbench.training import Job, Trained, log, train, train_all
from tokenbench.training.task import MethodTask
from tokenbench.weights import files

PLAIN = dict(mixup=0, cutmix=0, auto_augment="none", color_jitter=0, erasing=0.5, repeats=1, drop_path=0)
SHORT = {**PLAIN, "epochs": 2, "batch": 6, "lr": 1e-3, "lr_batch": 6, "warmup_epochs": 0}


class Quiet:
    def __init__(self) -> None:
        self.said: list[str] = []

    def stretch(self, what: str, total: int) -> None: ...
    def step(self, done: int) -> None: ...
    def note(self, text: str) -> None: ...
    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ImageNet by wnid, all noise; 8 training and 4 held-out images of each."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, wnid in enumerate(("n01440764", "n02102040", "n02979186")):
            place = root / split / wnid
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray((90 * label + 70 * rng.random((28, 28))).astype(np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of deit_nano for ten classes, as others save them."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "ten.pth"
    torch.save({"model": backbones.create("deit_nano").vit.state_dict()}, path)
    return path


@pytest.fixture
def jobs(folder: Path, ten: Path, tmp_path: Path) -> list[Job]:
    recipe = FINETUNE.change({**SHORT, "mixup": 0.8, "drop_path": 0.1})
    return [
        Job(all_methods()[name](), "deit_nano", recipe, folder, tmp_path / name, weights=str(ten))
        for name in ("dense", "evit", "stvit")
    ]


def results(found: Sequence[tuple[Job, Trained | TokenbenchError]]) -> dict[str, Trained | TokenbenchError]:
    return {job.method.name: result for job, result in found}


def weights(job: Job) -> dict[str, torch.Tensor]:
    return load_file(job.output / "model.safetensors")


def told(job: Job) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "images_per_s"} for row in log.read(job.output / "log.jsonl")]


def same(first: Job, second: Job) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("together", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_together_is_as_alone(jobs: list[Job], tmp_path: Path, together: int) -> None:
    """To the last bit, draws included; a group larger than allowed is divided."""
    alone = [replace(job, output=tmp_path / "alone" / job.output.name) for job in jobs]
    for job in alone:
        train(job, Quiet())
    found = results(list(train_all(jobs, Quiet(), together)))
    for job, other in zip(jobs, alone, strict=True):
        result = found[job.method.name]
        assert isinstance(result, Trained) and result.images == 12
        assert same(job, other) and told(job) == told(other)
    again = Quiet()
    assert results(list(train_all(jobs, again, together))) == found, "what is finished is not done again"


@pytest.mark.slow  # each run by itself is stopped and killed in test_training
def test_stopped_it_goes_on_each_from_where_it_was(jobs: list[Job], tmp_path: Path) -> None:
    alone = [replace(job, output=tmp_path / "alone" / job.output.name) for job in jobs]
    jobs = [replace(job, save_every=every) for job, every in zip(jobs, (2, 3, 100), strict=True)]
    list(train_all(alone, Quiet(), 3))

    class Stopping(Quiet):
        def step(self, done: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(train_all(jobs, Stopping(), 3))
    assert [files.header(job.output / "last.safetensors")["update"] for job in jobs[:2]] == [4, 3]
    assert not (jobs[2].output / "last.safetensors").exists()
    watch = Quiet()
    list(train_all(jobs, watch, 3))
    assert "dense: going on after update 4 of 8." in watch.said
    for job, other in zip(jobs, alone, strict=True):
        assert same(job, other)


def test_what_fails_stops_no_other(jobs: list[Job], tmp_path: Path) -> None:
    """In its updates, and before the first of them."""
    wild = jobs[1].recipe.change({"optimizer": "sgd", "lr": 1e20})
    missing = replace(jobs[2], weights=str(tmp_path / "nowhere.pth"))
    found = results(list(train_all([jobs[0], replace(jobs[1], recipe=wild, save_every=1), missing], Quiet(), 3)))
    assert isinstance(found["dense"], Trained)
    assert "The loss is" in str(found["evit"]) and "does not exist" in str(found["stvit"])


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def sweep(folder: Path, ten: Path, output: Path) -> list[object]:
    sets = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    return [
        *("train", "--method", "dynamicvit,dense,stvit[tokens=9,16]", "--recipe", "finetune", "--data-dir", folder),
        *("--weights", ten, "--teacher", "swept", "--together", 4, "--seed", "0,1", "-o", output, *sets),
        *("--set", "backbone_wait=0", "--set", "ema=0", "--set", "teacher=dense", "--set", "distill=soft"),
    ]


def test_a_sweep_and_what_run_makes_of_it(folder: Path, ten: Path, tmp_path: Path) -> None:
    """Seeds in folders of their own; dense first, which teaches all others; the new head is said; `run` scores three
    classes.
    """
    done = invoke(*sweep(folder, ten, tmp_path / "out"))
    assert done.exit_code == 0, done.output
    found = {path.parent.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("model.safetensors")}
    names = ("dense", "dynamicvit-keep_rate-0.7", "stvit-tokens-9", "stvit-tokens-16")
    assert found == {f"seed{seed}/{name}" for seed in (0, 1) for name in names}
    assert "the head of 3 classes is new, the file has 10" in done.stderr and done.stdout.count("top-1") == 8
    for name, teacher in (*((name, "dense/model.safetensors") for name in names[1:]), ("dense", None)):
        header = files.header(tmp_path / f"out/seed1/{name}/model.safetensors")
        taught_by = None if teacher is None else files.sha(tmp_path / "out/seed1" / teacher)
        assert header["classes"] == 3 and (header["teacher"] or {}).get("hash") == taught_by
    args = ("--methods", "dynamicvit,stvit[tokens=9,16]", "--data-dir", folder, "--rounds", 3, "-b", 4, "--json")
    measured = invoke("run", *args, "--weights", tmp_path / "out" / "seed0", "-o", tmp_path / "rows.jsonl")
    assert measured.exit_code == 0, measured.output
    assert measured.stdout.count('"images": 12') + measured.stdout.count('"images":12') == 4


def test_a_seed_may_differ_but_not_its_images(jobs: list[Job]) -> None:
    """What would show other pixels is trained apart, and in the order given."""
    other = replace(jobs[1], seed=7, output=jobs[1].output / "seed7")
    jobs = [jobs[0], other, jobs[2], replace(jobs[1], recipe=jobs[1].recipe.change({"crop": 0.9}))]
    order = [job.output.name for job, _ in train_all(jobs, Quiet(), 4)]
    assert order == ["dense", "stvit", "seed7", "evit"]


def test_recipes_of_other_lengths_are_apart(jobs: list[Job]) -> None:
    assert jobs[0].sees != replace(jobs[0], recipe=DEIT.change({**SHORT, "epochs": 3})).sees
    assert jobs[0].sees == jobs[1].sees


# distillation


def test_what_is_distilled() -> None:
    """Each term by hand, beside the method's own losses."""
    torch.manual_seed(0)
    model, teacher = (Model(backbones.create("deit_nano"), all_methods()[n]()).eval() for n in ("evit", "dense"))
    images, target = torch.randn(3, 1, 28, 28), torch.tensor([1, 2, 3])
    mine, other = model.run(images), teacher.run(images)
    p, q = ((x.logits / 2).softmax(-1) for x in (other, mine))
    a, b = mine.features.mean(1), other.features.mean(1)
    by_hand = {
        "soft": 4 * (p * (p.log() - q.log())).sum(-1).mean(),
        "hard": -mine.logits.log_softmax(-1)[torch.arange(3), other.logits.argmax(-1)].mean(),
        "feature": 1 - ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).mean(),
    }
    for kind, expected in by_hand.items():
        recipe = FINETUNE.change({"teacher": "dense", "distill": kind, "temperature": 2, "distill_weight": 0.5})
        found = MethodTask(model, teacher, torch.device("cpu"), recipe)(images, target)
        torch.testing.assert_close(found["distill"], 0.5 * expected)
        torch.testing.assert_close(found["loss"], found["class"] + found["distill"])
    assert "distill" not in MethodTask(model, teacher, torch.device("cpu"), FINETUNE)(images, target)
    with pytest.raises(TokenbenchError, match="distill=soft needs a teacher; add teacher=dense"):
        FINETUNE.change({"distill": "soft"})
