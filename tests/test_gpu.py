"""On a CUDA device: the numbers of the CPU, and what only runs there: autocast, NCCL, CUDA events, its memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner
from conftest import FAMILIES, served, tiny_swin
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from tokenbench import Pyramid, backbones
from tokenbench.backbones import Backbone
from tokenbench.cli import main
from tokenbench.core.processes import Processes
from tokenbench.measure import memory, speed
from tokenbench.measure.accuracy import Predictions
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method
from tokenbench.methods.dense import Dense
from tokenbench.model import Model
from tokenbench.training import log, optim
from tokenbench.training.task import MethodTask
from tokenbench.weights import files

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
METHODS = "evit,tome,dynamicvit,stvit"


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """No TF32: cuDNN would take it for the patch embedding, which is a convolution."""
    places = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = False
    yield
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def pair(family: str, method: Method, images: int = 4) -> tuple[Model, Model, Tensor]:
    """The same random model on the CPU and on the GPU, and images on the CPU."""
    models = []
    for device in ("cpu", "cuda"):
        backbone = Backbone(FAMILIES[family](), "tiny")
        torch.manual_seed(5)
        models.append(Model(backbone, method).to(device).eval())
    models[1].load_state_dict(models[0].state_dict())
    return models[0], models[1], backbones.random_images(models[0].backbone, images, seed=1)


def cli(*args: object) -> str:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def rows(*args: object) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in cli("run", *args, "--json").splitlines()]
    return {row["label"]: row for row in found}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise, dark, grey and bright; 16 training and 4 held-out images of each."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 16), ("val", 4)):
        for label, bright in enumerate((0, 90, 180)):
            place = root / split / f"class{label}"
            place.mkdir(parents=True)
            for i in range(count):
                Image.fromarray((bright + 70 * rng.random((28, 28))).astype(np.uint8)).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense weights of deit_nano for three classes."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    files.save(path, backbones.create("deit_nano", classes=3), {})
    return path


# numbers


@pytest.mark.parametrize(("family", "method"), served())
def test_logits_and_maps_are_those_of_the_cpu(family: str, method: Method) -> None:
    here, there, images = pair(family, method)
    with torch.inference_mode():
        expected, found = here.run(images, trace=True), there.run(images.cuda(), trace=True)
        plain = there(images.cuda())
    torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(plain.cpu(), expected.logits, rtol=1e-3, atol=1e-4)
    for mine, other in zip(found.trace, expected.trace, strict=True):
        assert mine.count == other.count
        assert mine.source is not None and other.source is not None
        alike = torch.isclose(mine.source.cpu(), other.source, rtol=1e-3, atol=1e-4)
        assert alike.float().mean() > 0.995, "but for a score that ties here and not there"


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "method"), served())
def test_autocast_gives_finite_logits_near_those_of_fp32(family: str, method: Method, precision: torch.dtype) -> None:
    """Near on the whole: a token that is only just kept in fp32 may be dropped here."""
    _, there, images = pair(family, method, images=8)
    with torch.inference_mode():
        expected = there(images.cuda())
        with torch.autocast("cuda", precision):
            found = there(images.cuda()).float()
    assert found.isfinite().all()
    assert nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.75


def test_pyramid() -> None:
    found: list[list[Tensor]] = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = Model(Backbone(tiny_swin(), "tiny"), all_methods()["stvit_r"]()).eval().to(device)
        images = torch.randn(1, 3, 96, 132, generator=torch.Generator().manual_seed(1)).to(device)
        with torch.inference_mode():
            found.append([stage.cpu() for stage in Pyramid(model)(images).values()])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


COMPILED = ("dense", "evit", "tome", "stvit", "stvit_r")


@pytest.mark.parametrize(("family", "method"), [given for given in served() if given.values[0] in ("vit", "swin")])
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compiled(family: str, method: Method) -> None:
    """In one graph; what was captured is run for all, and compiled for a few, which takes long."""
    torch.compiler.reset()
    _, there, images = pair(family, method)
    backend = "inductor" if method.name in COMPILED else "eager"
    compiled = torch.compile(there, fullgraph=True, backend=backend)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(images.cuda()), there(images.cuda()), rtol=1e-3, atol=1e-3)


# training


def task(method: Method, device: str) -> tuple[MethodTask, torch.optim.Optimizer, Tensor, Tensor]:
    recipe = next(iter(method.recipes.values())).change({"backbone_wait": 0})
    torch.manual_seed(0)
    model = Model(Backbone(FAMILIES["vit"](), "tiny"), method)
    teacher = Model(Backbone(FAMILIES["vit"](seed=1), "tiny"), Dense()) if recipe.teacher == "dense" else None
    made = MethodTask(model, teacher, torch.device(device)).to(device).train()
    images = torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(1)).to(device)
    return made, optim.optimizer(model, recipe), images, torch.arange(8, device=device)


@pytest.mark.parametrize("name", [n for n, cls in all_methods().items() if not cls.control])  # which is for Swin
def test_an_update_under_autocast(name: str) -> None:
    """The loss is near the CPU's where nothing is drawn, gradients are finite, and what has one and a rate moves."""
    cls = all_methods()[name]
    method = cls(**cls.trial)
    made, optimizer, images, target = task(method, "cuda")
    before = {key: value.detach().clone() for key, value in made.model.named_parameters()}
    with torch.autocast("cuda", torch.bfloat16):
        loss = made(images, target)["loss"]
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.model.parameters())
    rated = {id(p) for group in optimizer.param_groups if group["lr"] for p in group["params"]}
    learning = [
        key for key, p in made.model.named_parameters() if id(p) in rated and p.grad is not None and p.grad.any()
    ]
    optimizer.step()
    assert learning
    for key, value in made.model.named_parameters():
        assert key not in learning or not torch.equal(value, before[key]), key
    expected = []
    for seed in (1, 2):
        made = task(method, "cpu")[0]
        torch.manual_seed(seed)
        expected.append(made(images.cpu(), target.cpu())["loss"].item())
    if expected[0] == expected[1]:  # else it draws, and the device draws other numbers
        assert loss.item() == pytest.approx(expected[0], rel=0.05)


@pytest.mark.parametrize("name", ["evit", "dynamicvit"])
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_a_compiled_update(name: str) -> None:
    """What learns and the teacher are compiled; the first loss is that of the eager task where nothing is drawn."""
    torch.compiler.reset()
    made, optimizer, images, target = task(all_methods()[name](), "cuda")
    made.compile()
    losses = []
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            loss = made(images, target)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    if name == "evit":
        with torch.autocast("cuda", torch.bfloat16):
            eager = task(all_methods()[name](), "cuda")[0](images, target)["loss"].item()
        assert losses[0] == pytest.approx(eager, rel=0.02)


@contextmanager
def nccl(folder: Path) -> Iterator[Processes]:
    """One process that is a group of its own."""
    dist.init_process_group(
        "nccl", init_method=f"file://{folder / 'store'}", rank=0, world_size=1, device_id=torch.device("cuda:0")
    )
    try:
        yield Processes(0, 2, "cuda:0")  # two, or it would ask nobody
    finally:
        dist.destroy_process_group()


def test_distributed_over_nccl(tmp_path: Path) -> None:
    """Gradients of two passes, the first without exchange, are those without DDP."""
    alone, _, images, target = task(all_methods()["evit"](), "cuda")
    for _ in range(2):
        alone(images, target)["loss"].backward()
    with nccl(tmp_path) as processes:
        made, optimizer, _, _ = task(all_methods()["evit"](), "cuda")
        made.prepare_distributed([0])
        with made.no_sync():
            made(images, target)["loss"].backward()
        made(images, target)["loss"].backward()
        for (key, mine), other in zip(made.model.named_parameters(), alone.model.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-5, msg=key)
        optimizer.step()
        processes.wait()
        assert processes.agree(7)
        torch.testing.assert_close(processes.mean(torch.tensor([4.0], device="cuda")), torch.tensor([2.0]).cuda())


def command(folder: Path, dense: Path, output: Path, *more: object) -> list[str]:
    changes = dict(mixup=0.8, cutmix=1.0, auto_augment="none", erasing=0.5, repeats=1, drop_path=0.1, ema=0.9)
    sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    args = ["train", "--method", "dynamicvit", "--data-dir", folder, "-o", output, "--weights", dense, *sets, "-b", 8]
    args += ["--set", "warmup_epochs=0", "--set", "backbone_wait=0.5", "--epochs", 4, "--save-every", 2]
    return [str(arg) for arg in (*args, "--device", "cuda", "--amp", *more)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of it where there are threads
def test_train_with_amp_goes_on_after_a_kill(folder: Path, dense: Path, tmp_path: Path) -> None:
    """Not to the last bit: backward passes on CUDA add up in no fixed order."""
    cli(*command(folder, dense, tmp_path / "whole"))
    last = tmp_path / "killed" / "last.safetensors"
    args = [sys.executable, "-m", "tokenbench", *command(folder, dense, tmp_path / "killed", "-j", 2)]
    running = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while running.poll() is None and not (last.exists() and files.header(last)["update"] >= 6):
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    errors = running.communicate()[1]
    assert running.returncode == -signal.SIGKILL, errors.decode()
    again = CliRunner().invoke(main, command(folder, dense, tmp_path / "killed", "-j", 2))
    assert again.exit_code == 0 and "oing on after update" in again.stderr, again.output
    told = [[row["loss"] for row in log.read(tmp_path / run / "log.jsonl") if "loss" in row]
            for run in ("whole", "killed")]  # fmt: skip
    assert len(told[0]) == len(told[1]) == 12
    assert told[1] == pytest.approx(told[0], rel=0.03)
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed"))
    for key in first:
        assert first[key].device.type == "cpu"
        torch.testing.assert_close(second[key], first[key], rtol=0.05, atol=5e-3, msg=key)
    measured = rows(
        *("--methods", "dynamicvit", "--data-dir", folder, "--rounds", 3, "-b", 4, "-o", tmp_path / "rows.jsonl"),
        *("--weights", f"{tmp_path / 'whole' / 'model.safetensors'},{dense}", "--device", "cuda", "--amp"),
    )
    result = files.header(tmp_path / "whole" / "model.safetensors")["result"]
    assert measured["dynamicvit[keep_rate=0.7]"]["top1"] == pytest.approx(result["top1"])


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_train_compiled(folder: Path, dense: Path, tmp_path: Path) -> None:
    out = cli(*command(folder, dense, tmp_path / "run", "--compile", "--accumulate", 2))
    assert "top-1" in out and len(log.read(tmp_path / "run" / "log.jsonl")) >= 12


# measuring


class Sleeps(nn.Module):
    """Keeps the device busy for so many of its cycles."""

    def __init__(self, cycles: int) -> None:
        super().__init__()
        self.cycles = cycles

    def forward(self, images: Tensor) -> Tensor:
        torch.cuda._sleep(self.cycles)
        return images.flatten(1)


def test_events_time_the_device_and_not_the_launch() -> None:
    images = torch.zeros(4, 3, 2, 2, device="cuda")
    found = speed.measure({"dense": Sleeps(40_000_000), "half": Sleeps(20_000_000)}, images, max_seconds=0)
    assert found["dense"].latency_p50_ms > 10  # at 2 GHz they are 20
    assert found["half"].speedup == pytest.approx(2.0, rel=0.1)


def test_peak_memory_is_of_the_forward_pass_alone() -> None:
    """That of the CPU's count, but for what kernels take for themselves and the allocator's rounding."""
    here, there, images = pair("vit", Dense(), images=64)
    expected = memory.peak(here, images)
    found = memory.peak(there, images.cuda())
    assert 0.8 * expected < found < 2.0 * expected
    assert memory.peak(there, images.cuda()) == found, "the second time the same"


@contextmanager
def limited(mebibytes: int) -> Iterator[None]:
    """As on a device with that much memory to give."""
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * 2**20) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_a_batch_that_does_not_fit(tmp_path: Path) -> None:
    """Found by --batch-size auto, and a row of status oom where it is asked for."""
    args = ("--backbone", "deit_s", "--weights", "random", "--methods", "dense", "--rounds", 3, "--device", "cuda")
    with limited(600):
        auto = CliRunner().invoke(main, [str(a) for a in ("run", *args, "-b", "auto", "--json", "-o", tmp_path / "a")])
        asked = CliRunner().invoke(
            main, [str(a) for a in ("run", *args, "-b", "4,512", "--json", "-o", tmp_path / "b")]
        )
    assert auto.exit_code == 0, auto.output
    assert "deit_s: batch 256 does not fit, trying 128." in auto.stderr
    (row,) = map(json.loads, auto.stdout.splitlines())
    assert row["status"] == "ok" and 8 <= row["batch"] <= 128 and row["images_per_s"] > 0
    assert asked.exit_code == 1, asked.output
    found = {row["batch"]: row for row in map(json.loads, asked.stdout.splitlines())}
    assert (found[4]["status"], found[512]["status"]) == ("ok", "oom")
    assert "ran out of memory on cuda" in found[512]["reason"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_run_gives_the_numbers_of_the_cpu(tmp_path: Path) -> None:
    args = ("--methods", METHODS, "--limit", 100, "--rounds", 3, "-b", 8)
    here = rows(*args, "--device", "cpu", "-o", tmp_path / "cpu.jsonl")
    there = rows(*args, "--device", "cuda", "-o", tmp_path / "cuda.jsonl", "-j", 2)
    half = rows(*args, "--device", "cuda", "--amp", "-o", tmp_path / "cuda.jsonl")
    assert len(here) == len(there) == len(half) == 5
    for label, row in there.items():
        other = here[label]
        assert row["status"] == "ok" and row["hardware"] == torch.cuda.get_device_name(0)
        assert row["env"]["gpu"]["memory_gib"] > 1
        for key in ("gmacs", "gmacs_fvcore", "params_m", "tokens_mean", "sample_hash"):
            assert row[key] == other[key], key
        assert row["top1"] == pytest.approx(other["top1"], abs=1.01)
        assert half[label]["top1"] == pytest.approx(other["top1"], abs=2.01)
        assert row["peak_memory_mb"] > 0 and row["images_per_s"] > 0 and row["runs"] == 3
        mine = Predictions.load(tmp_path / "cuda.predictions" / f"{row['id']}.npz")
        amp = Predictions.load(tmp_path / "cuda.predictions" / f"{half[label]['id']}.npz")
        cpu = Predictions.load(tmp_path / "cpu.predictions" / f"{other['id']}.npz")
        assert mine.agreement(cpu) >= 99 and amp.agreement(cpu) >= 96


@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_run_compiled(tmp_path: Path) -> None:
    found = rows("--methods", "evit", "--limit", 20, "--rounds", 3, "-b", 64, "--device", "cuda", "--amp", "--compile",
                 "-o", tmp_path / "rows.jsonl")  # fmt: skip
    assert all(row["status"] == "ok" and row["compile"] and row["speedup"] > 0 for row in found.values())


def test_trace_draws_the_maps_of_the_cpu(tmp_path: Path) -> None:
    """But for patches that lie as near to one token as to another: ties fall either way."""
    for device in ("cpu", "cuda"):
        cli("trace", "--methods", METHODS, "--limit", 2, "--device", device, "-o", tmp_path / device)
    files = sorted(path.name for path in (tmp_path / "cpu").glob("*.npz"))
    assert files and files == sorted(path.name for path in (tmp_path / "cuda").glob("*.npz"))
    for name in files:
        here, there = (np.load(tmp_path / device / name) for device in ("cpu", "cuda"))
        assert set(here.files) == set(there.files)
        for key in here.files:
            assert there[key].shape == here[key].shape, f"{name}/{key}"
            if here[key].dtype.kind == "f":
                alike = np.isclose(there[key], here[key], rtol=1e-3, atol=1e-4, equal_nan=True)
            else:
                alike = there[key] == here[key]
            assert alike.mean() > 0.99, f"{name}/{key}"
    assert (tmp_path / "cuda" / "maps.html").stat().st_size > 10_000


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_devices_by_name(device: str) -> None:
    assert torch.cuda.get_device_name(0).split()[0] in cli("env", "--device", device)


def test_a_device_that_is_not_here() -> None:
    result = CliRunner().invoke(main, ["env", "--device", f"cuda:{torch.cuda.device_count()}"])
    assert result.exit_code == 2 and "is not here" in result.stderr
