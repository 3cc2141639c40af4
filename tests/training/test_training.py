"""Training: the recipes, the same run whoever stops it, one process or two, and what `run` makes of the result."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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
from tokenbench.core.processes import Processes
from tokenbench.data import open_training
from tokenbench.errors import TrainingError
from tokenbench.methods import all_methods
from tokenbench.methods.recipe import DEIT, FINETUNE
from tokenbench.model import Model
from tokenbench.training import Job, log, optim, train
from tokenbench.training.stream import Stream
from tokenbench.weights import checkpoints, files, sources

PLAIN = dict(mixup=0, cutmix=0, auto_augment="none", color_jitter=0, erasing=0, repeats=1, drop_path=0)
ALONE = Processes()
SHORT = DEIT.change({**PLAIN, "epochs": 2, "batch": 6, "lr_batch": 6, "lr": 1e-3, "warmup_epochs": 0})


class Quiet:
    def stretch(self, what: str, total: int) -> None: ...
    def step(self, done: int) -> None: ...
    def note(self, text: str) -> None: ...
    def say(self, text: str) -> None: ...


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise, dark, grey and bright; 12 training and 4 held-out images of each."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for label, bright in enumerate((0, 90, 180)):
            place = root / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray((bright + 70 * rng.random((28, 28))).astype(np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense weights of deit_nano for three classes."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    files.save(path, backbones.create("deit_nano", classes=3), {})
    return path


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> Job:
    return Job(all_methods()["evit"](), "deit_nano", SHORT, folder, tmp_path / "run")


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in log.read(run / "log.jsonl") if "loss" in row]


def invoke(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)])


# recipes


def test_deit_recipe_scales_its_learning_rate() -> None:
    assert DEIT.scaled_lr == pytest.approx(1e-3)  # 5e-4 x 1024 / 512
    assert DEIT.epochs == 300


@pytest.mark.parametrize("name", all_methods())
def test_every_recipe_reaches_its_setting(name: str) -> None:
    method = all_methods()[name]()
    for recipe in method.recipes.values():
        knobs = method.model_copy(update=dict(recipe.knobs))
        assert knobs.at(recipe.epochs).decides == method.decides


def test_dynamicvit_learns_at_three_rates() -> None:
    """Predictors at the full rate, the backbone at 0 for five epochs and at 0.01 after; the class token never."""
    method = all_methods()["dynamicvit"]()
    recipe = method.recipes["finetune"]
    model = Model(backbones.create("deit_nano"), method)
    optimizer = optim.optimizer(model, recipe)
    schedule = optim.Schedule(optimizer, recipe, updates=10, total=300)

    def rates(part: str) -> set[float]:
        return {group["lr"] for group in optimizer.param_groups if group["part"] == part}

    top = schedule.set(49)
    assert rates("method") == {top} and rates("backbone") == {0.0}
    top = schedule.set(60)
    assert rates("method") == {top}
    assert rates("backbone").pop() == pytest.approx(0.01 * top)
    assert not model.vit.cls_token.requires_grad and not model.vit.pos_embed.requires_grad


def test_evit_from_scratch_shrinks_its_keep_rate() -> None:
    method = all_methods()["evit"]
    knobs = method.recipes["scratch"].knobs
    assert method(**knobs).at(9).keep_rate == 1.0 and method(**knobs).at(110).keep_rate == pytest.approx(0.7)
    assert method(**knobs).decides == method().decides


# which images come when


def stream(folder: Path, processes: Processes = ALONE, **changes: Any) -> Stream:
    images = open_training(folder)[0]
    config = backbones.create("deit_nano").config
    return Stream(images, config, SHORT.change({"erasing": 0.5, **changes}), 1, 0, processes)


@pytest.mark.parametrize("repeats", [1, 3])
def test_stream_goes_on_where_it_was(folder: Path, repeats: int) -> None:
    whole, later = stream(folder, repeats=repeats).start(0), stream(folder, repeats=repeats).start(8)
    batches = [next(whole) for _ in range(10)]
    for expected in batches[8:]:
        images, targets = next(later)
        assert torch.equal(images, expected[0]) and torch.equal(targets, expected[1])


def test_two_processes_see_what_one_sees(folder: Path) -> None:
    one = next(stream(folder).start(7))
    two = [next(stream(folder, Processes(rank, 2)).start(7)) for rank in (0, 1)]
    both = torch.stack([two[0][0], two[1][0]], 1).flatten(0, 1)
    assert torch.equal(both, one[0])


def test_an_epoch_shows_every_image_once(folder: Path) -> None:
    images = [image for _, _, image in stream(folder).places(0)]
    assert sorted(images) == list(range(36))


# runs


@pytest.mark.parametrize("name", [n for n, cls in all_methods().items() if not cls.control])  # which is for Swin
def test_every_method_learns_and_comes_back(name: str, job: Job, dense: Path) -> None:
    """Trained by its first recipe; `run` and `build` find the result by method and setting."""
    method = all_methods()[name]()
    recipe = next(iter(method.recipes.values())).change(SHORT.model_dump(include={*PLAIN, "batch", "lr_batch"}))
    recipe = recipe.change({"epochs": 0.5, "warmup_epochs": 0, "knobs": {}})
    done = train(replace(job, method=method, recipe=recipe, weights=str(dense)), Quiet())
    assert done.updates == 3 and done.images == 12
    found = sources.find(str(done.path), "deit_nano")
    if name == "dense":
        assert found.dense == str(done.path)
    else:
        path = found.trained(method, "deit_nano")
        assert path == done.path
        model, weights = sources.model(method, backbones.create("deit_nano", classes=3), path)
        assert weights is not None and model(torch.zeros(1, 1, 28, 28)).shape == (1, 3)
    assert (job.output / "curve.png").stat().st_size > 5000
    assert json.loads(json.dumps(files.header(done.path)))["result"]["top1"] == done.value


def test_it_learns(job: Job) -> None:
    recipe = SHORT.change({"epochs": 8, "smoothing": 0})
    done = train(replace(job, recipe=recipe, evaluate_every=5), Quiet())
    assert losses(job.output)[-1] < 0.85 * losses(job.output)[0]
    assert done.value > 60  # of three classes


def test_frozen_and_averaged(job: Job, dense: Path) -> None:
    method = all_methods()["dynamicvit"]()
    changes = {**PLAIN, "epochs": 1, "batch": 6, "warmup_epochs": 0, "backbone_wait": 0, "ema": 0.5}
    recipe = method.recipes["finetune"].change(changes)
    done = train(replace(job, method=method, recipe=recipe, weights=str(dense)), Quiet())
    before, after, last = load_file(dense), load_file(done.path), load_file(job.output / "last.safetensors")
    assert torch.equal(before["cls_token"], after["vit.cls_token"])
    assert not torch.equal(before["head.weight"], after["vit.head.weight"])
    assert torch.equal(last["ema.vit.head.weight"], after["vit.head.weight"])
    assert not torch.equal(last["model.vit.head.weight"], after["vit.head.weight"])


def test_passes_add_up_to_the_batch(job: Job, tmp_path: Path) -> None:
    job = replace(job, recipe=SHORT.change({"optimizer": "sgd", "lr": 0.05}))
    train(job, Quiet())
    train(replace(job, passes=2, output=tmp_path / "passes"), Quiet())
    assert losses(tmp_path / "passes") == pytest.approx(losses(job.output), rel=1e-5)


def test_recomputing_changes_nothing() -> None:
    """Gradient checkpointing, with the draws that DynamicViT makes in training."""
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = Model(backbones.create("deit_nano"), all_methods()["dynamicvit"]()).train()
        model.recompute = recompute
        torch.manual_seed(1)
        model(torch.randn(2, 1, 28, 28)).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


HARD = dict(mixup=0.8, cutmix=1.0, erasing=0.5, repeats=3, drop_path=0.2, ema=0.9)


def command(folder: Path, dense: Path, output: Path) -> list[str]:
    """DynamicViT with all that draws at random: Gumbel samples, stochastic depth, mixup, erasing, repeats."""
    values = {**PLAIN, **HARD, "batch": 4, "warmup_epochs": 0.5, "backbone_wait": 0.5}
    sets = [word for key, value in values.items() if key != "auto_augment" for word in ("--set", f"{key}={value}")]
    return [
        *("train", "--method", "dynamicvit", "--data-dir", str(folder), "-o", str(output), "--weights", str(dense)),
        *("--epochs", "2", "--save-every", "2", "--threads", "1", "--eval-every", "100", *sets),
    ]


@pytest.mark.parametrize("places", [(6,), pytest.param((2, 10), marks=pytest.mark.slow)])
def test_killed_it_ends_with_the_same_weights(
    places: tuple[int, ...], folder: Path, dense: Path, tmp_path: Path
) -> None:
    whole = CliRunner().invoke(main, command(folder, dense, tmp_path / "whole"))
    assert whole.exit_code == 0, whole.output
    last = tmp_path / "killed" / "last.safetensors"
    args = [sys.executable, "-m", "tokenbench", *command(folder, dense, tmp_path / "killed")]
    for place in places:
        running = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while running.poll() is None and not (last.exists() and files.header(last)["update"] >= place):
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        errors = running.communicate()[1]
        assert running.returncode == -signal.SIGKILL, errors.decode()
        assert not (tmp_path / "killed" / "model.safetensors").exists()
    again = CliRunner().invoke(main, command(folder, dense, tmp_path / "killed"))
    assert again.exit_code == 0 and "going on after update" in again.stderr
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    told = [[{k: v for k, v in row.items() if k != "images_per_s"} for row in log.read(tmp_path / run / "log.jsonl")]
            for run in ("whole", "killed")]  # fmt: skip
    assert told[0] == told[1]


def test_two_processes_learn_as_one_with_the_doubled_batch(folder: Path, job: Job, tmp_path: Path) -> None:
    """By plain SGD, for Adam makes much of the last bit of a gradient near 0."""
    recipe = SHORT.change({"optimizer": "sgd", "lr": 0.05})
    train(replace(job, recipe=recipe, save_every=1), Quiet())
    told = {key: value for key, value in recipe.model_dump().items() if value != FINETUNE.model_dump()[key]}
    told = {key: value for key, value in told.items() if key not in ("source", "start")}
    args = ["--method", "evit", "--recipe", "finetune", "--weights", "random", "--data-dir", folder]
    args += ["-o", tmp_path / "two", "--save-every", 1]
    args += [word for key, value in told.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tokenbench", "train", *map(str, args)]
    ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("top-1") == 1, "one of them speaks"
    assert len(losses(tmp_path / "two")) == 12
    assert losses(tmp_path / "two") == pytest.approx(losses(job.output), rel=1e-5)
    first, second = (load_file(run / "model.safetensors") for run in (job.output, tmp_path / "two"))
    for key in first:
        torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-6)


# what `run` makes of it


def test_run_measures_trained_weights_beside_dense_ones(folder: Path, job: Job, dense: Path, tmp_path: Path) -> None:
    done = train(replace(job, weights=str(dense)), Quiet())
    rows = tmp_path / "rows.jsonl"
    args = [
        "run",
        "--methods",
        "evit,stvit",
        "--data-dir",
        str(folder),
        "--rounds",
        "3",
        "-o",
        str(rows),
        "--json",
    ]
    result = CliRunner().invoke(main, [*args, "--weights", f"{done.path.parent},{dense}", "-b", "2"])
    assert result.exit_code == 0, result.output
    found = {row["method"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert found["evit"]["trained"] == {"kind": "file", "name": "model.safetensors", "hash": files.sha(done.path)}
    assert found["evit"]["metrics"]["top1"] == pytest.approx(done.value)
    assert found["dense"]["trained"] is None and found["dense"]["metrics"]["top1"] is not None
    assert found["stvit"]["metrics"]["top1"] is None and "needs its own training" in found["stvit"]["reason"]
    other = CliRunner().invoke(main, [*args, "--weights", f"{done.path},{dense}", "--methods", "topk", "-b", "2"])
    assert "is not used: it was trained for evit[keep_rate=0.7] on deit_nano." in other.stderr


def test_trained_weights_are_measured_where_there_are_no_dense_ones(folder: Path, job: Job, tmp_path: Path) -> None:
    """No dense model of these classes ships, so there is nothing to differ from."""
    done = train(replace(job, weights="random"), Quiet())
    args = ["run", "--methods", "evit,topk", "--data-dir", folder, "--rounds", 3, "-b", 2, "--json"]
    result = CliRunner().invoke(main, [*map(str, args), "-o", str(tmp_path / "rows"), "--weights", str(done.path)])
    assert result.exit_code == 0, result.output
    found = {row["method"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert (
        found["evit"]["metrics"]["top1"] == pytest.approx(done.value) and found["evit"]["metrics"]["diff_dense"] is None
    )
    for name in ("dense", "topk"):
        assert found[name]["metrics"]["top1"] is None and "random weights, so no accuracy" in found[name]["reason"]


# trackers


def test_tracker_gets_the_log(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Any] = []

    class Fake:
        init = staticmethod(lambda **options: got.append(options["config"]["method"]))
        log = staticmethod(lambda values, step: got.append((step, values["epoch"])))
        finish = staticmethod(lambda: got.append("finished"))

    monkeypatch.setitem(sys.modules, "trackio", Fake)
    train(replace(job, tracker="trackio"), Quiet())
    assert got[0] == "evit" and got[-1] == "finished" and (12, 2.0) in got


def test_log_forgets_what_is_after_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"update": 1}\n{"update": 2}\n{"update": 3}\n{"upd')
    log.Log(tmp_path, 2).add({"update": 3, "loss": 1.0})
    assert [row["update"] for row in log.read(tmp_path / "log.jsonl")] == [1, 2, 3]


# bad input


Broken = Callable[[Path, Path], list[object]]


def remade(folder: Path, to: Path, without: str) -> Path:
    """The folder without what matches a pattern."""
    for file in folder.rglob("*.png"):
        place = to / file.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not file.relative_to(folder).match(without):
            place.write_bytes(file.read_bytes())
    for empty in (to / "train", to / "val"):
        if empty.exists() and not any(empty.rglob("*.png")):
            for inner in empty.iterdir():
                inner.rmdir()
            empty.rmdir()
    return to


@pytest.mark.parametrize(
    ("without", "told"),
    [
        ("train/*/*", "has no split 'train' with class folders; it has val"),
        ("val/*/*", "has no val folder with class folders; it has train"),
        ("train/class1/*", "has no train images of class 'class1'; add some, or remove its folder"),
    ],
)
def test_data_that_cannot_be_trained_on(folder: Path, tmp_path: Path, without: str, told: str) -> None:
    given = remade(folder, tmp_path / "data", without)
    result = invoke("--method", "evit", "--data-dir", given, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert told in result.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--method", "evit,tome", "--teacher", "swept"], "--teacher swept needs dense among the methods"),
        (["--method", "evit", "--seed", "0,one"], "--seed 0,one is not allowed"),
        (["--method", "evit", "--recipe", "fine"], "Unknown recipe of evit 'fine'. Did you mean finetune?"),
        (["--method", "evit", "--set", "lrr=1"], "A recipe has no 'lrr'"),
        (["--method", "evit", "--set", "lr"], "--set lr is not allowed"),
        (["--method", "evit", "--lr", "-1"], "recipe: lr=-1 is not allowed"),
        (["--method", "evit", "--epochs", "4"], "warmup_epochs=5 must be fewer than epochs=4"),
        (["--method", "evit", "--epochs", "20", "-b", "6"], "is not reached after epochs=20"),
        (["--method", "tome"], "36 images to train on, fewer than a batch of 1024"),
        (["--method", "tome", "-b", "6", "--accumulate", "4"], "cannot be divided over 1 processes of 4 passes"),
        (["--method", "tome", "-b", "6", "--set", "optimizer=adamv"], "optimizer=adamv cannot be made by timm here"),
        (["--method", "tome", "-b", "6", "--set", "schedule=cos"], "schedule=cos cannot be; cosine"),
        (["--method", "tome", "-b", "6", "--set", "auto_augment=foo"], "auto_augment=foo is no policy of timm's"),
        (["--method", "tome", "-b", "6", "--set", "frozen=token"], "frozen=token is no parameter of this backbone"),
        (["--method", "tome", "-b", "6", "--tracker", "paper"], "'paper' is not known; give trackio, wandb, mlflow or"),
        (["--method", "tome", "--backbone", "deit_s", "--recipe", "finetune"], "Fine-tuning starts from dense weights"),
    ],
)
def test_what_cannot_be_meant(args: list[str], told: str, folder: Path, tmp_path: Path) -> None:
    result = invoke(*args, "--data-dir", folder, "-o", tmp_path / "run")
    assert result.exit_code in (1, 2)
    assert told in result.stderr and result.stderr.count("\n") == 1


def test_weights_of_other_classes_get_a_new_head_and_the_result_keeps_its_pixels(folder: Path, tmp_path: Path) -> None:
    """And what it wrote is measured on those classes and pixels, with nothing said a second time."""
    args = ["--method", "evit", "--backbone", "deit_nano", "--data-dir", folder, "-o", tmp_path / "run"]
    start = [
        "--weights",
        checkpoints.SHIPPED / "deit_nano.safetensors",
        "--recipe",
        "finetune",
        "--set",
        "teacher=none",
    ]
    quick = ["--epochs", "1", "-b", "6", "--set", "warmup_epochs=0", "--mean", "0.4", "--std", "0.25"]
    result = invoke(*args, *start, *quick)
    assert result.exit_code == 0, result.stderr
    assert "deit_nano: the head of 3 classes is new, the file has 10." in result.stderr
    header = files.header(tmp_path / "run" / "model.safetensors")
    assert header["classes"] == 3 and header["pixels"] == {"mean": [0.4], "std": [0.25]}
    given = sources.find(str(tmp_path / "run"), "deit_nano")
    made = given.create("deit_nano")
    assert made.vit.num_classes == 3 and made.config["mean"] == (0.4,) and made.config["std"] == (0.25,)


def test_a_teacher_that_does_not_fit(folder: Path, dense: Path, tmp_path: Path) -> None:
    args = ["--method", "dynamicvit", "--data-dir", folder, "-o", tmp_path / "run", "--weights", dense]
    result = invoke(*args, "--teacher", checkpoints.SHIPPED / "deit_nano.safetensors")
    assert result.exit_code == 1
    assert "The teacher does not fit" in result.stderr and "head.weight" in result.stderr


def test_a_loss_that_is_no_number(job: Job) -> None:
    recipe = SHORT.change({"optimizer": "sgd", "lr": 1e20})
    with pytest.raises(
        Exception, match=r"The loss is (nan|inf) at update \d+ with learning rate [\d.]+e\+\d+"
    ) as caught:
        train(replace(job, recipe=recipe, save_every=1), Quiet())
    assert f"last good checkpoint: {job.output / 'last.safetensors'}, after update" in str(caught.value)
    left = load_file(job.output / "last.safetensors")
    assert all(value.isfinite().all() for key, value in left.items() if key.startswith("model."))


def test_weights_that_are_no_numbers_are_not_saved(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss whose gradient is not: the checkpoint before it stays."""
    train(replace(job, recipe=SHORT.change({"epochs": 1}), output=job.output / "good"), Quiet())
    step = torch.optim.AdamW.step

    def broken(self: torch.optim.AdamW, *args: Any) -> Any:
        done = step(self, *args)
        if len(self.state) and next(iter(self.state.values()))["step"] == 3:
            self.param_groups[0]["params"][0].data.fill_(float("nan"))
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", broken)
    with pytest.raises(Exception, match=r"no longer finite after update 3.*last.safetensors, after update 2"):
        train(replace(job, save_every=1), Quiet())
    assert files.header(job.output / "last.safetensors")["update"] == 2


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("lamb", "adan")]


@pytest.mark.parametrize("optimizer", ["muon", "lookahead_adamw", *LONG])
def test_every_optimizer_goes_on_as_it_was(optimizer: str, job: Job, tmp_path: Path) -> None:
    """Some count their steps in their groups and not beside the parameters."""
    job = replace(job, recipe=SHORT.change({"optimizer": optimizer, "epochs": 1, "batch": 4}), save_every=1)
    train(job, Quiet())

    class Stopping(Quiet):
        def step(self, done: int) -> None:
            if done == 7:
                raise KeyboardInterrupt

    again = replace(job, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        train(again, Stopping())
    train(again, Quiet())
    first, second = (load_file(run / "model.safetensors") for run in (job.output, again.output))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_step_schedule_falls_by_epochs() -> None:
    model = Model(backbones.create("deit_nano"), all_methods()["topk"]())
    recipe = DEIT.change({"schedule": "step", "warmup_epochs": 0})
    schedule = optim.Schedule(optim.optimizer(model, recipe), recipe, updates=10, total=3000)
    assert schedule.set(899) == pytest.approx(1e-3) and schedule.set(900) == pytest.approx(1e-4)


def test_toml_names_a_recipe_or_holds_its_values(folder: Path, dense: Path, tmp_path: Path) -> None:
    same = ["--method", "evit", "--data-dir", folder, "--weights", dense, "-b", 6, "--epochs", 0.2]
    (tmp_path / "name.toml").write_text('recipe = "finetune"\n')
    (tmp_path / "values.toml").write_text("[recipe]\nknobs = {shrink_strat = 0}\nwarmup_epochs = 0\n")
    named = invoke(*same, "-o", tmp_path / "named", "--config", tmp_path / "name.toml")
    assert named.exit_code == 0, named.output
    header = files.header(tmp_path / "named" / "model.safetensors")
    assert header["recipe"]["weight_decay"] == 1e-6
    wrong = invoke(*same, "-o", tmp_path / "wrong", "--config", tmp_path / "values.toml")
    assert wrong.exit_code == 2 and "evit has no knob 'shrink_strat'" in wrong.stderr


def test_a_folder_of_another_run(job: Job) -> None:
    train(job, Quiet())
    other = replace(job, recipe=SHORT.change({"lr": 5e-3}))
    with pytest.raises(Exception, match=r"holds a run of other settings \(recipe.lr: 0.001 before, 0.005 now\)"):
        train(other, Quiet())


def test_two_runs_into_one_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Beside(Quiet):
        """Starts a second run of the same folder while the first is under way."""

        def step(self, done: int) -> None:
            if done == 1:
                with pytest.raises(TrainingError) as error:
                    train(job, Quiet())
                told.append(str(error.value))

    train(job, Beside())
    assert told == [f"Another run trains into {job.output} now; wait for its end, or give another --output."]
    assert not (job.output / ".lock").exists()
    assert train(job, Quiet()).updates, "the folder is free again"


def test_a_full_disk(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match=r"cannot be written \(No space left on device.*free some space"):
        train(job, Quiet())
    assert not list(job.output.glob(".*.part"))


def test_images_that_cannot_be_read_are_passed_over(folder: Path, tmp_path: Path) -> None:
    """The next one stands in their place, they are counted and listed, and a resumed run ends with the same weights."""
    given = remade(folder, tmp_path / "data", "nothing")
    (given / "train/class0/3.png").write_bytes(b"no image")
    (given / "train/class2/9.png").write_bytes(b"")  # the last, after which comes the first
    (given / "val/class1/0.png").write_bytes(b"no image")
    weights = []
    for workers in (0, 1):
        run = tmp_path / f"run{workers}"
        args = ["--method", "tome", "--data-dir", given, "-o", run, "-b", 6, "-j", workers, "--weights", "random"]
        result = invoke(*args, "--epochs", 2, "--set", "warmup_epochs=0", "--set", "repeats=1")
        assert result.exit_code == 0, result.output
        assert "train: 2 of 36 images cannot be read and are left out: class" in result.stderr
        assert "val: 1 of 12 images cannot be read and are left out: class1/0.png: not an image" in result.stderr
        assert "on 11 val images" in result.stdout
        listed = [line.split("\t")[:2] for line in (run / "unreadable.txt").read_text().splitlines()]
        assert sorted(listed) == [
            ["data train", "class0/3.png"],
            ["data train", "class2/9.png"],
            ["data val", "class1/0.png"],
        ]
        weights.append(files.read(run / "model.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_next_image_stands_in_the_place_of_one_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    given = remade(folder, tmp_path / "data", "nothing")
    first_epoch = stream(given).start(0)
    whole = [next(first_epoch)[0] for _ in range(6)]
    (given / "train/class0/9.png").write_bytes(b"no image")
    damaged = stream(given)
    order, batches = [image for _, _, image in damaged.places(0)], damaged.start(0)
    for start in range(0, 36, 6):
        (images, targets), expected = next(batches), whole[start // 6]
        places = order[start : start + 6]
        assert targets.tolist() == [1 if place == 11 else place // 12 for place in places]
        for image, same, place in zip(images, expected, places, strict=True):
            assert torch.equal(image, same) is (place != 11)
    assert list(damaged.skipped) == ["class0/9.png"]


def test_no_image_to_train_on_can_be_read(folder: Path, tmp_path: Path) -> None:
    given = remade(folder, tmp_path / "data", "nothing")
    for file in given.glob("train/*/*.png"):
        file.write_bytes(b"no image")
    for workers in (0, 1):
        result = invoke("--method", "tome", "--data-dir", given, "-o", tmp_path / "run", "-b", 6, "-j", workers)
        assert result.exit_code == 1
        assert (
            "Error: None of the 36 images of data to train on can be read; the first, class0/0.png: " in result.stderr
        )
        assert "Traceback" not in result.stderr


def test_names_of_classes_are_written_and_held_to(folder: Path, tmp_path: Path) -> None:
    """Folders in another order are brought into that of the weights; other folders are refused."""
    run = tmp_path / "run"
    args = ["--method", "tome", "--data-dir", folder, "-o", run, "-b", 6, "--weights", "random", "--epochs", 1]
    assert invoke(*args, "--set", "warmup_epochs=0").exit_code == 0
    assert files.header(run / "model.safetensors")["class_names"] == ["class0", "class1", "class2"]
    given = tmp_path / "other"
    shutil.copytree(folder / "val", given)
    measure = ["run", "--methods", "tome", "--data-dir", given, "--weights", run / "model.safetensors", "--rounds", 3]
    measure = list(map(str, [*measure, "-b", 2, "-o", tmp_path / "r.jsonl", "--json", "--force"]))
    (given / "class1").rename(given / "other")
    refused = CliRunner().invoke(main, measure)
    assert (
        refused.exit_code == 2 and "has a class 'other' but the weights of deit_nano were trained on" in refused.stderr
    )
