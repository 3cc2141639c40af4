"""Trainings on the nodes of a cluster: each done once, teachers first, and gone on with where a worker died."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from played import Played, TaskError, played
from refusals import refused
from safetensors.torch import load_file

import tokenbench
from tokenbench import backbones
from tokenbench.cli import main
from tokenbench.core.processes import Processes, alone, let_go
from tokenbench.errors import TokenbenchError, TrainingError, UsageError, WeightsError
from tokenbench.methods import all_methods
from tokenbench.methods.recipe import FINETUNE
from tokenbench.runs.remote import Share
from tokenbench.training import Job, Trained, cluster, together

PLAIN = ("mixup=0", "cutmix=0", "auto_augment=none", "color_jitter=0", "erasing=0", "repeats=1", "drop_path=0")


class Watch:
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []

    def stretch(self, what: str, total: int) -> None:
        self.said.append(f"{what}: {total}")

    def step(self, done: int) -> None:
        self.steps.append(done)

    def note(self, text: str) -> None: ...
    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Played:
    """A cluster whose workers train by saying so; the method topk fails."""
    made = played(monkeypatch)

    def learnt(jobs: Sequence[Job], watch: Any, at_once: int) -> Iterator[tuple[Job, Trained | TokenbenchError]]:
        for job in jobs:
            watch.say(f"{job.method.name} among {len(jobs)}")
            bad = job.method.name == "topk"
            yield job, WeightsError("It does not fit.") if bad else Trained(job.output, 1.0, 2, "val", 3, True)

    monkeypatch.setattr(cluster.together, "train_all", learnt)
    return made


def jobs(root: Path) -> list[Job]:
    """Of which the teacher of the second is the last."""
    names = ("evit", "dynamicvit", "topk", "dense")
    recipes = {name: FINETUNE.change({"teacher": "dense" if name == "dynamicvit" else "none"}) for name in names}
    teacher = {"dynamicvit": str(root / "dense" / "model.safetensors")}
    return [
        Job(all_methods()[name](), "deit_nano", recipes[name], root, root / name, teacher=teacher.get(name, "auto"))
        for name in names
    ]


def outcomes(root: Path, watch: Watch, **how: Any) -> dict[str, Trained | TokenbenchError]:
    ended = cluster.train_all(lambda: jobs(root), jobs(root), watch, root / "out", **how)
    return {job.method.name: found for job, found in ended}


def test_each_job_comes_back_and_none_before_its_teacher(ray: Played, tmp_path: Path) -> None:
    watch = Watch()
    found = outcomes(tmp_path, watch)
    assert list(found) == ["dense", "topk", "evit", "dynamicvit"], "played workers end the last first"
    assert isinstance(found.pop("topk"), WeightsError)
    assert all(isinstance(one, Trained) and one.value == 1.0 for one in found.values())
    assert watch.said[0] == "4 trainings on 2 nodes: 4" and watch.steps == [1, 2, 3, 4]
    assert watch.said[1:] == [f"{name} among 1" for name in ("dense", "topk", "evit", "dynamicvit")]
    assert ray.asked[-1] == {"max_retries": 0, "num_cpus": 2.0, "num_gpus": 0.0} and ray.ended == 1
    assert not list((tmp_path / "out").iterdir()), "what nodes are told the folder by is gone"
    watch = Watch()
    assert len(outcomes(tmp_path, watch, at_once=2, share=Share(cpus=1))) == 4
    assert "evit among 2" in watch.said and ray.asked[-1]["num_cpus"] == 1


def test_jobs_that_fail_or_are_lost_stop_no_other(ray: Played, tmp_path: Path) -> None:
    theirs = TaskError("of Ray")
    theirs.cause = ValueError("no number. Or so.")
    ray.breaks = {"[0]": OSError("Out of memory. Read on."), "[3]": theirs}
    watch = Watch()
    found = outcomes(tmp_path, watch)
    lost = "Its workers died 4 times over (Out of memory); the same command goes on from its last checkpoint."
    assert isinstance(found["evit"], TrainingError) and str(found["evit"]) == lost
    assert str(found["dense"]) == "A job failed on its node: no number."
    assert isinstance(found["dynamicvit"], Trained)
    assert "Job 1 of 3 is begun again: its worker died (Out of memory)." in watch.said


def test_an_output_that_a_node_does_not_see_is_refused(ray: Played, tmp_path: Path) -> None:
    there = ray.get
    ray.get = lambda job, timeout=None: (there(job)[0], [str(p) for p in (tmp_path / "out").iterdir()])  # type: ignore[method-assign]
    sentence = f"Node 10.0.0.0 does not see what is in {tmp_path / 'out'}; give an --output that all nodes share."
    with refused(UsageError, sentence):
        outcomes(tmp_path, Watch())


def test_a_folder_that_is_written_into_is_waited_for(tmp_path: Path) -> None:
    let_go(tmp_path / "nowhere", 9)
    held, end = threading.Event(), threading.Event()

    def hold() -> None:
        with alone(tmp_path, Processes()):
            held.set()
            end.wait(9)

    writer = threading.Thread(target=hold)
    writer.start()
    held.wait(9)
    began = time.monotonic()
    let_go(tmp_path, 0.1)
    assert 0.1 <= time.monotonic() - began < 5, "for so long at the most"
    threading.Timer(0.1, end.set).start()
    let_go(tmp_path, 9)
    assert end.is_set()
    writer.join()


def test_what_is_said_of_no_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*flags: str) -> str:
        asked = ["train", "--method", "dense,evit", "--data-dir", str(tmp_path), "-o", str(tmp_path / "out"), *flags]
        result = CliRunner().invoke(main, asked)
        assert result.exit_code == 2
        return result.stderr

    assert "--gpus-per-job says something of a cluster; add --engine ray" in says("--gpus-per-job", "1")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert "ray, which is not installed; pip install 'tokenbench[ray]'" in says("--engine", "ray")
    with refused(UsageError, "--engine ray needs ray, which is not installed; pip install 'tokenbench[ray]'."):
        tokenbench.train(method="dense", data_dir=tmp_path, output=tmp_path / "out", engine="ray")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_of_trainings_survives_a_node(two_nodes: Any, tmp_path: Path) -> None:
    second = two_nodes.add_node(num_cpus=1)
    two_nodes.wait_for_nodes()
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label, name in enumerate(("a", "b", "c")):
            place = tmp_path / "data" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray((90 * label + 70 * rng.random((28, 28))).astype(np.uint8)).save(place / f"{i}.png")
    torch.manual_seed(3)
    torch.save({"model": backbones.create("deit_nano").vit.state_dict()}, tmp_path / "ten.pth")
    asked = ["train", "--method", "dense,topk", "--seed", "0,1", "--data-dir", str(tmp_path / "data")]
    asked += [
        "--weights",
        str(tmp_path / "ten.pth"),
        "-b",
        "6",
        "--epochs",
        "6",
        "--save-every",
        "1",
        "--device",
        "cpu",
    ]
    asked += [part for change in (*PLAIN, "warmup_epochs=0") for part in ("--set", change)]
    on_ray = ["--engine", "ray", "--address", two_nodes.address, "--cpus-per-job", "1"]

    def kill() -> None:
        while len(list((tmp_path / "out").rglob("last.safetensors"))) < 2:
            time.sleep(0.02)
        two_nodes.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    result = CliRunner().invoke(main, [*asked, "-o", str(tmp_path / "out"), *on_ray])
    killer.join()
    assert result.exit_code == 0, result.stderr
    assert "is begun again: its worker died" in result.stderr
    assert "going on after update" in result.stderr, "from the checkpoint, and not from the start"
    folders = [tmp_path / "out" / f"seed{seed}" / name for seed in (0, 1) for name in ("dense", "topk-keep_rate-0.7")]
    assert len(result.stdout.splitlines()) == len(folders)
    for folder in folders:
        lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        updates = [line["update"] for line in lines if "loss" in line]
        assert updates == list(range(1, 25))
    before = {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders}
    result = CliRunner().invoke(main, [*asked, "-o", str(tmp_path / "out"), *on_ray])
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == len(folders)
    assert {folder: (folder / "model.safetensors").stat().st_mtime_ns for folder in folders} == before
    assert CliRunner().invoke(main, [*asked, "-o", str(tmp_path / "alone")]).exit_code == 0
    for folder in folders:
        here = load_file(tmp_path / "alone" / folder.relative_to(tmp_path / "out") / "model.safetensors")
        there = load_file(folder / "model.safetensors")
        assert all(torch.equal(here[name], there[name]) for name in here), folder


def test_waves_are_the_groups_of_a_sweep(tmp_path: Path) -> None:
    first, then = together.waves(jobs(tmp_path), 2)
    assert [[job.method.name for job in group] for group in first] == [["evit", "topk"], ["dense"]]
    assert [[job.method.name for job in group] for group in then] == [["dynamicvit"]]
