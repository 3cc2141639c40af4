"""What every update of a training really used, and that recipes are what papers and released code say.

A run is followed from outside: gradients, rates and weights just before and after each step, and what losses see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from femto import Watch, deit_femto  # noqa: F401  registers it
from PIL import Image
from refusals import refused
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tokenbench import backbones
from tokenbench.core.processes import Processes
from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.methods import all_methods, get
from tokenbench.methods.dense import Dense
from tokenbench.methods.diffrate.diffrate import DiffRate
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.evit import EViT
from tokenbench.methods.recipe import DEIT, FINETUNE, Recipe
from tokenbench.model import Model
from tokenbench.reports import curves
from tokenbench.tasks.base import Task
from tokenbench.tasks.detection import Detection
from tokenbench.tasks.segmentation import Segmentation
from tokenbench.training import Job, stream, train
from tokenbench.training.loop import prepare
from tokenbench.training.task import MethodTask
from tokenbench.weights import checkpoints, files

PLAIN = dict(mixup=0, cutmix=0, auto_augment="none", color_jitter=0, erasing=0, repeats=1, drop_path=0)
RECIPE = DEIT.change({**PLAIN, "epochs": 3, "batch": 6, "lr_batch": 4, "lr": 0.02, "warmup_epochs": 1, "smoothing": 0})
SHORT = RECIPE.change({"epochs": 0.5, "warmup_epochs": 0})
AN_EPOCH = 4  # updates: 24 images
DECAY, BUFFER = 0.3, 0.9  # timm's sgd has Nesterov's momentum of 0.9


class Quiet:
    def stretch(self, what: str, total: int) -> None: ...
    def step(self, done: int) -> None: ...
    def note(self, text: str) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Update:
    """One step of the optimizer, by name of the parameter."""

    lr: dict[str, float] = field(default_factory=dict)
    decay: dict[str, float] = field(default_factory=dict)
    grads: dict[str, Tensor] = field(default_factory=dict)
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    part: dict[str, str] = field(default_factory=dict)


@dataclass
class Followed:
    updates: list[Update] = field(default_factory=list)
    losses: list[dict[str, Any]] = field(default_factory=list)  # what they were given, each time
    model: Any = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise; 8 training and 2 held-out images of each."""
    root, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for label in range(3):
            (root / split / f"{label}").mkdir(parents=True)
            for i in range(count):
                pixels = (60 * label + 70 * rng.random((28, 28))).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / f"{label}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    files.save(path, backbones.create("deit_femto", classes=3), {})
    return path


@pytest.fixture
def job(folder: Path, tmp_path: Path) -> Job:
    return Job(EViT(), "deit_femto", RECIPE, folder, tmp_path / "run", evaluate_every=100)


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Followed]:
    seen = Followed()
    task = MethodTask.__init__

    def made(self: MethodTask, model: Model, *args: Any, **options: Any) -> None:
        seen.model = model
        task(self, model, *args, **options)

    def listen(cls: type[Any]) -> None:
        losses = cls.losses

        def given(self: Any, out: Any, target: Tensor, teacher: Any = None) -> Any:
            seen.losses.append({"method": self, "out": out, "target": target.clone(), "teacher": teacher})
            return losses(self, out, target, teacher)

        monkeypatch.setattr(cls, "losses", given)

    def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        names = {id(p): name for name, p in seen.model.named_parameters()}
        now = Update()
        for group in optimizer.param_groups:
            for p in group["params"]:
                name = names[id(p)]
                assert name not in now.lr, "no parameter is in two groups"
                now.lr[name], now.decay[name], now.part[name] = group["lr"], group["weight_decay"], group["part"]
                if p.grad is not None:
                    now.grads[name] = p.grad.clone()
        now.before = {name: p.detach().clone() for name, p in seen.model.named_parameters()}
        seen.updates.append(now)

    def after(*_: Any) -> None:
        seen.updates[-1].after = {name: p.detach().clone() for name, p in seen.model.named_parameters()}

    monkeypatch.setattr(MethodTask, "__init__", made)
    monkeypatch.setattr(curves, "draw", lambda *_: None)  # what takes longest
    listen(EViT)
    listen(DynamicViT)
    hooks = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    yield seen
    for hook in hooks:
        hook.remove()


def cosine(update: int, high: float, low: float, start: float, warm: int, total: int) -> float:
    if update < warm:
        return start + update * (high - start) / warm
    return low + (high - low) * (1 + math.cos(math.pi * update / total)) / 2


# each update


def test_a_search_ends_with_its_counts(folder: Path, dense: Path, tmp_path: Path) -> None:
    """What is written is the dense weights, under the setting that was found."""
    how = {"epochs": 1, "warmup_epochs": 0, "backbone_lr": 0, "weight_decay": 0, "lr": 1.0, "start": "dense"}
    method = DiffRate(search=True, step=1, target=1e-3)  # as few tokens as can be
    job = Job(
        method, "deit_femto", RECIPE.change(how), folder, tmp_path / "run", weights=str(dense), evaluate_every=100
    )
    done = train(job, Quiet())
    written = files.header(done.path)["setting"]
    found = DiffRate(**written)
    depth = backbones.create("deit_femto", classes=3).depth
    assert not found.search and found.prune is not None and found.merge is not None
    assert len(found.prune) == len(found.merge) == depth and found.prune[0] == found.merge[0]
    pairs = [count for pair in zip(found.prune, found.merge, strict=True) for count in pair]
    assert pairs == sorted(pairs, reverse=True) and pairs[-1] < pairs[0] // 2
    before, after = load_file(dense), load_file(done.path)
    assert {name.removeprefix("vit.") for name in after} == set(before)
    assert all(torch.equal(value, before[name.removeprefix("vit.")]) for name, value in after.items())
    checkpoints.load(Model(backbones.create("deit_femto", classes=3), found), str(done.path))


def test_the_learning_rate_of_each_update(job: Job, followed: Followed) -> None:
    train(job, Quiet())
    high = 0.02 * 6 / 4  # at a batch of 4
    wanted = [cosine(u, high, 1e-5, 1e-6, AN_EPOCH, 3 * AN_EPOCH) for u in range(3 * AN_EPOCH)]
    assert [max(update.lr.values()) for update in followed.updates] == pytest.approx(wanted, rel=1e-9)
    assert [min(update.lr.values()) for update in followed.updates] == pytest.approx(wanted, rel=1e-9)
    assert set(followed.updates[0].lr) == {name for name, _ in followed.model.named_parameters()}


def test_the_backbone_waits_and_then_learns_at_its_own_rate(job: Job, dense: Path, followed: Followed) -> None:
    changes = {"backbone_lr": 0.1, "backbone_wait": 1.5, "frozen": "cls_token/pos_embed", "start": "dense"}
    recipe = RECIPE.change({**changes, "weight_decay": DECAY})
    train(replace(job, method=DynamicViT(), recipe=recipe, weights=str(dense)), Quiet())
    for number, update in enumerate(followed.updates):
        top = cosine(number, 0.03, 1e-5, 1e-6, AN_EPOCH, 3 * AN_EPOCH)
        for name, lr in update.lr.items():
            own = name.startswith("blocks.")
            assert update.part[name] == ("method" if own else "backbone")
            assert lr == pytest.approx(top if own else 0 if number < 6 else 0.1 * top), (number, name)
            changed = not torch.equal(update.before[name], update.after[name])
            assert changed == (own or number >= 6) or not update.grads[name].any(), (number, name)
        assert {"vit.cls_token", "vit.pos_embed"}.isdisjoint(update.lr)
    first, last = followed.updates[0].before, followed.updates[-1].after
    assert torch.equal(first["vit.cls_token"], last["vit.cls_token"])
    assert torch.equal(first["vit.pos_embed"], last["vit.pos_embed"])


def test_matrices_decay_and_nothing_else(job: Job, followed: Followed) -> None:
    """Each step is that of Nesterov's momentum, by hand: d = g + wd p; b = 0.9 b + d; p - lr (d + 0.9 b)."""
    train(replace(job, recipe=RECIPE.change({"optimizer": "sgd", "weight_decay": DECAY, "epochs": 2})), Quiet())
    buffers: dict[str, Tensor] = {}
    for update in followed.updates:
        for name, decay in update.decay.items():
            listed = name in ("vit.cls_token", "vit.pos_embed")
            assert decay == (0 if update.before[name].dim() < 2 or listed else DECAY), name
            step = update.grads[name] + decay * update.before[name]
            buffers[name] = BUFFER * buffers[name] + step if name in buffers else step
            wanted = update.before[name] - update.lr[name] * (step + BUFFER * buffers[name])
            torch.testing.assert_close(update.after[name], wanted)
    assert len({tuple(sorted(update.decay.items())) for update in followed.updates}) == 1


def test_gradients_are_clipped_to_their_norm(job: Job, tmp_path: Path, followed: Followed) -> None:
    job = replace(job, recipe=SHORT)
    train(job, Quiet())
    raw = followed.updates[0].grads
    norm = torch.stack([grad.norm() for grad in raw.values()]).norm()
    followed.updates.clear()
    limit = norm.item() / 5
    train(replace(job, recipe=SHORT.change({"clip_grad": limit}), output=tmp_path / "clipped"), Quiet())
    for name, grad in followed.updates[0].grads.items():
        torch.testing.assert_close(grad, raw[name] / 5, rtol=1e-4, atol=1e-7)
    norms = [torch.stack([g.norm() for g in update.grads.values()]).norm().item() for update in followed.updates]
    assert max(norms) <= limit * 1.0001 and norms[0] == pytest.approx(limit, rel=1e-4)
    followed.updates.clear()
    train(replace(job, recipe=SHORT.change({"clip_grad": 10 * norm.item()}), output=tmp_path / "loose"), Quiet())
    for name, grad in followed.updates[0].grads.items():
        assert torch.equal(grad, raw[name]), "a gradient within the limit stays as it is"


def test_passes_are_a_mean(job: Job, tmp_path: Path, followed: Followed) -> None:
    job = replace(job, recipe=SHORT)
    train(job, Quiet())
    whole = followed.updates[0].grads
    followed.updates.clear()
    train(replace(job, passes=3, output=tmp_path / "passes"), Quiet())
    assert len(followed.updates) == AN_EPOCH // 2
    for name, grad in followed.updates[0].grads.items():
        torch.testing.assert_close(grad, whole[name], rtol=1e-4, atol=1e-6)


def test_the_keep_rate_of_each_update(job: Job, followed: Followed) -> None:
    """Down on a cosine by the update, and the tokens that were kept are as many; measured at the full setting."""
    method = EViT(keep_rate=0.4, shrink_start=0.5, shrink_epochs=2)
    train(replace(job, method=method), Quiet())
    assert len(followed.losses) == 3 * AN_EPOCH
    for number, given in enumerate(followed.losses):
        done = (number / AN_EPOCH - 0.5) / 2
        rate = 1.0 if done < 0 else 0.4 if done >= 1 else 0.4 + 0.6 * (1 + math.cos(math.pi * done)) / 2
        assert given["method"].keep_rate == pytest.approx(rate)
        left, counts = 16, [17]  # patches, and with the class token after each block
        for _ in range(3):
            kept = math.ceil(given["method"].keep_rate * left)
            left = kept + 1 if kept < left else left
            counts.append(left + 1)
        assert [tokens.count for tokens in given["out"].trace] == counts, number
    assert counts == [17, 9, 6, 4]


def test_targets_are_smoothed(job: Job, folder: Path, tmp_path: Path, followed: Followed) -> None:
    train(job, Quiet())
    hard = [given["target"] for given in followed.losses]
    assert all(target.dtype == torch.int64 for target in hard)
    assert torch.cat(hard[:AN_EPOCH]).bincount().tolist() == [8, 8, 8], "an epoch shows each image once"
    followed.losses.clear()
    train(replace(job, recipe=RECIPE.change({"smoothing": 0.3}), output=tmp_path / "smooth"), Quiet())
    for given, target in zip(followed.losses, hard, strict=True):
        wanted = torch.full((6, 3), 0.1)
        wanted[range(6), target] = 0.8
        torch.testing.assert_close(given["target"], wanted)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_targets_are_smoothed_too(mix: str, job: Job, followed: Followed) -> None:
    train(replace(job, recipe=RECIPE.change({mix: 1.0, "smoothing": 0.3, "epochs": 2})), Quiet())
    targets = torch.cat([given["target"] for given in followed.losses])
    assert torch.allclose(targets.sum(1), torch.ones(len(targets))) and (targets > 0.0999).all()
    between = (targets > 0.11) & (targets < 0.79)
    assert between.any(), "two classes share an image"


def test_averaged_weights_follow_by_their_decay(job: Job, followed: Followed) -> None:
    train(replace(job, recipe=RECIPE.change({"ema": 0.7, "epochs": 2})), Quiet())
    average = followed.updates[0].before
    for update in followed.updates:
        average = {name: 0.7 * average[name] + 0.3 * now for name, now in update.after.items()}
    stored = load_file(job.output / "model.safetensors")
    for name, wanted in average.items():
        torch.testing.assert_close(stored[name], wanted, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(stored["vit.head.weight"], followed.updates[-1].after["vit.head.weight"])


def test_the_teacher_is_the_dense_model_and_stays_so(job: Job, dense: Path, followed: Followed) -> None:
    recipe = RECIPE.change({"start": "dense", "teacher": "dense", "epochs": 2, "drop_path": 0.3})
    images: list[Tensor] = []
    backbone = backbones.create("deit_femto", classes=3)
    checkpoints.load(backbone, dense)
    taught = Model(backbone, Dense()).eval()
    forward = MethodTask.forward

    def spied(self: MethodTask, input: Tensor, target: Tensor) -> Any:
        images.append(input.clone())
        assert self.training and not any(module.training for module in self.teacher.modules())
        return forward(self, input, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MethodTask, "forward", spied)
        train(replace(job, method=DynamicViT(), recipe=recipe, weights=str(dense)), Quiet())
    assert len(images) == len(followed.losses) == 2 * AN_EPOCH
    for pixels, given in zip(images, followed.losses, strict=True):
        torch.testing.assert_close(given["teacher"].logits, taught(pixels))
    rates = [block.drop_path1.drop_prob for block in followed.model.vit.blocks[1:]]
    assert rates == pytest.approx([0.1, 0.2, 0.3]), "stochastic depth rises to what the recipe says"


def test_what_images_are_augmented_with(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    original = stream.create_transform

    def create(**options: Any) -> Any:
        told.append(options)
        return original(**options)

    monkeypatch.setattr(stream, "create_transform", create)
    looks = {"crop": 0.37, "flip": 0.11, "color_jitter": 0.21, "erasing": 0.13, "auto_augment": "rand-m3-inc1"}
    train(replace(job, recipe=RECIPE.change({**looks, "epochs": 0.5, "warmup_epochs": 0})), Quiet())
    wanted = {"scale": (0.37, 1.0), "hflip": 0.11, "color_jitter": 0.21, "re_prob": 0.13}
    wanted |= {"auto_augment": "rand-m3-inc1", "is_training": True, "input_size": (1, 28, 28)}
    assert told[0].items() >= wanted.items() and told[0]["mean"] == (0.286,) and told[0]["std"] == (0.353,)


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_other_schedules_are_followed(schedule: str, job: Job, followed: Followed) -> None:
    train(replace(job, recipe=RECIPE.change({"schedule": schedule, "warmup_epochs": 0, "epochs": 2})), Quiet())
    rates = [max(update.lr.values()) for update in followed.updates]
    assert rates == pytest.approx([0.03] * 8), "a step comes after 90 epochs"


# recipes


SCRATCH = {  # DeiT, arXiv 2012.12877, table 9
    **{
        "epochs": 300,
        "batch": 1024,
        "lr": 5e-4,
        "lr_batch": 512,
        "min_lr": 1e-5,
        "warmup_epochs": 5,
        "warmup_lr": 1e-6,
    },
    **{"schedule": "cosine", "optimizer": "adamw", "weight_decay": 0.05, "clip_grad": 0.0, "drop_path": 0.1},
    **{"smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0, "auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.3},
    **{"erasing": 0.25, "repeats": 3, "crop": 0.08, "flip": 0.5, "ema": 0.0, "start": "scratch", "teacher": "none"},
    **{"backbone_lr": 1.0, "backbone_wait": 0.0, "frozen": (), "knobs": {}},
    **{"distill": "none", "distill_weight": 1.0, "temperature": 1.0},
    **{"milestones": (90, 180, 270), "no_decay": "vectors", "layer_scale_init": 0.0, "updates": 0},
    "warmup_updates": 0,
}
# EViT, arXiv 2202.07800: 30 epochs at 2e-5 x batch / 512, weight decay 1e-6, the keep rate fixed
TUNE = {**SCRATCH, "epochs": 30, "lr": 2e-5, "min_lr": 1e-6, "warmup_epochs": 0, "weight_decay": 1e-6, "start": "dense"}
# DynamicViT, arXiv 2106.02034: predictors at 1e-3, the backbone at 0.01 of it after 5 epochs at 0
DYNAMIC = {
    **{**SCRATCH, "epochs": 30, "lr": 1e-3, "lr_batch": 1024, "min_lr": 1e-6, "start": "dense", "teacher": "dense"},
    **{"backbone_lr": 0.01, "backbone_wait": 5, "frozen": ("cls_token", "pos_embed"), "ema": 0.9999},
}
DYNAMIC_SWIN = {  # arXiv 2207.01580, its released settings
    **{**DYNAMIC, "epochs": 120, "batch": 4096, "lr": 4e-3, "lr_batch": 4096, "warmup_epochs": 20, "drop_path": 0.2},
    **{"repeats": 1, "backbone_lr": 0.2, "frozen": ()},
}
STUDY = {  # arXiv 2308.04657, shared by the methods of the study: from DeiT's weights, all at one rate
    **{**TUNE, "lr": 1e-3, "lr_batch": 1024, "min_lr": 1e-5, "warmup_epochs": 20, "weight_decay": 0.05, "ema": 0.99996}
}
# A-ViT, arXiv 2112.07658: 100 epochs from DeiT's weights, 5e-4 at 4 x 128 images for T and 3e-4 at 4 x 96 for S
HALTING = {**SCRATCH, "epochs": 100, "start": "dense"}
OWN = {**TUNE, "lr": 5e-5, "weight_decay": 0.05}  # tokenbench's own: nothing was published for these
RECIPES = {
    **{(name, "finetune"): STUDY for name in ("patchmerger", "sinkhorn", "sit")},
    ("evit", "scratch"): {**SCRATCH, "knobs": {"shrink_start": 10, "shrink_epochs": 100}},
    ("evit", "finetune"): TUNE,
    ("dynamicvit", "finetune"): DYNAMIC,
    ("dynamicvit", "swin"): DYNAMIC_SWIN,
    ("stvit", "scratch"): SCRATCH,
    ("stvit", "finetune"): OWN,
    ("tokenlearner", "finetune"): OWN,
    ("avit", "tiny"): {**HALTING, "batch": 512},
    ("avit", "small"): {**HALTING, "batch": 384, "lr": 3e-4, "lr_batch": 384},
    # arXiv 2412.00965 trains with a classifier on each module; how long a classifier is tuned it does not say
    ("cropr", "finetune"): {**SCRATCH, "epochs": 30, "start": "dense", "knobs": {"heads": True}},
    # DTEM (2412.10569), modular: only its layers learn, 30 epochs, 1e-4 to 1e-6, decay 1e-4, gradients to 5, r 16
    ("dtem", "modular"): {
        **{**SCRATCH, "epochs": 30, "lr": 1e-4, "lr_batch": 1024, "min_lr": 1e-6, "warmup_epochs": 0, "start": "dense"},
        **{"weight_decay": 1e-4, "clip_grad": 5.0, "backbone_lr": 0.0, "knobs": {"train_r": 16}},
    },
    # dTPS, arXiv 2304.10716: 2.5e-4 at 1024 images, the backbone at 0.01 of it, from the first epoch and all of it
    ("dtps", "finetune"): {
        **{**SCRATCH, "epochs": 30, "lr": 2.5e-4, "lr_batch": 1024, "min_lr": 1e-6, "start": "dense"},
        **{"teacher": "dense", "backbone_lr": 0.01},
    },
    # DiffRate, arXiv 2305.17997: counts alone are learnt, 3 epochs at 1024 images, 0.01 to 0.001 on a cosine, no decay
    ("diffrate", "search"): {
        **{**SCRATCH, "epochs": 3, "lr": 1e-2, "lr_batch": 1024, "min_lr": 1e-3, "warmup_epochs": 0, "start": "dense"},
        **{"weight_decay": 0.0, "drop_path": 0.0, "backbone_lr": 0.0, "knobs": {"search": True}},
    },
    # Evo-ViT, arXiv 2108.01390: DeiT's 300 epochs, the first 200 of which part tokens anew in each block; two heads
    ("evovit", "scratch"): {**SCRATCH, "knobs": {"heads": True, "layer_wise_epochs": 200.0}},
    # IdleViT, arXiv 2310.05654: 30 epochs, 1e-5 x batch / 512 to 1e-6, a weight of 10 on distillation
    ("idlevit", "finetune"): {**TUNE, "lr": 1e-5, "teacher": "dense", "knobs": {"distill_weight": 10.0}},
    # LTMP, arXiv 2307.10780: one epoch at 128 images, thresholds at 5e-3 and weights at 5e-6, merging from 0.9 on
    ("ltmp", "thresholds"): {
        **{**SCRATCH, "epochs": 1, "batch": 128, "lr": 5e-3, "lr_batch": 128, "warmup_epochs": 0, "start": "dense"},
        **{"backbone_lr": 1e-3, "knobs": {"merge_from": 0.9}},
    },
    # MCTF, arXiv 2403.10030: 30 epochs, 1.5e-5 x batch / 512 to 1e-6, decay 0.05, drop path 0.1, images unmixed
    ("mctf", "finetune"): {**TUNE, "lr": 1.5e-5, "weight_decay": 0.05, "drop_path": 0.1, "mixup": 0, "cutmix": 0},
    ("ppt", "finetune"): {**TUNE, "lr": 1e-5},  # arXiv 2310.01812: 30 epochs at 1e-5
    # SiT, arXiv 2111.12624, feature recycling: 125 epochs, 2e-4 x batch / 512, no warm-up, the dense model as teacher
    ("sit", "distil"): {
        **{**SCRATCH, "epochs": 125, "lr": 2e-4, "warmup_epochs": 0, "start": "dense", "teacher": "dense"},
        "knobs": {"reverse": True},
    },
    # SPViT, arXiv 2112.13890: 30 epochs (S), predictors at 5e-4 x batch / 512, the backbone 5 epochs at 0, then at 0.01
    ("spvit", "finetune"): {
        **{**SCRATCH, "epochs": 30, "start": "dense", "teacher": "dense", "backbone_lr": 0.01, "backbone_wait": 5},
    },
}
WEIGHTS = {  # of the terms of losses, and what else of a method only training reads, as its source has it
    ("avit", "ponder_weight"): 5e-4,
    ("avit", "prior_weight"): 1e-3,
    ("avit", "prior_depth"): 8,
    ("diffrate", "target_weight"): 5.0,
    ("diffrate", "step"): 4,
    ("dtem", "partners"): 3,
    ("dtem", "tau"): 0.1,
    ("dtem", "tau_first"): 0.1,
    ("dtps", "ratio_weight"): 2.0,
    ("dtps", "distill_weight"): 0.5,
    ("dtps", "token_mse"): False,
    ("idlevit", "cut_weight"): 20.0,
    ("idlevit", "distill_weight"): 5.0,
    ("ltmp", "budget_weight"): 10.0,
    ("ltmp", "prune_to"): 0.0,
    ("mctf", "consistency"): 3.0,
    ("mctf", "confidence"): 0.4,
    ("sit", "token_weight"): 2.0,
    ("sit", "logit_weight"): 2.0,
    ("spvit", "ratio_weight"): 2.0,
    ("spvit", "distill_weight"): 0.5,
    ("spvit", "token_mse"): True,
    ("spvit", "shares"): (0.617, 0.369, 0.137),
}


def test_every_recipe_is_what_its_source_says() -> None:
    found = {(name, way): recipe for name, cls in all_methods().items() for way, recipe in cls.recipes.items()}
    for (name, way), recipe in found.items():
        wanted = RECIPES.get((name, way), {"scratch": SCRATCH, "finetune": TUNE}.get(way))
        assert wanted is not None, f"the recipe {way} of {name} is held to nothing here"
        assert recipe.model_dump(exclude={"source"}) == wanted, (name, way)
        assert recipe.source
    assert set(RECIPES) <= set(found) and set(SCRATCH) == set(Recipe.model_fields) - {"source"}
    assert found["dynamicvit", "finetune"].scaled_lr == 1e-3 and found["evit", "finetune"].scaled_lr == 4e-5
    for (name, knob), value in WEIGHTS.items():
        assert getattr(all_methods()[name](), knob) == value, (name, knob)
    assert [next(iter(cls.recipes)) for cls in (EViT, DynamicViT)] == ["scratch", "finetune"], "the default comes first"


@pytest.mark.parametrize("task", [Detection(norm="sync"), Segmentation(norm="sync")])
def test_norms_that_only_gpus_synchronise_are_refused_on_cpus(task: Task, tmp_path: Path) -> None:
    """And not trained with each process's own statistics in silence; one process has nothing to synchronise."""
    job = Job(get("dense")(), "swin_nano", FINETUNE, tmp_path / "none", tmp_path / "run", task)
    told = "norm=sync needs GPUs, the only place where torch has it; give norm=train, or one process."
    with ExitStack() as held, refused(UsageError, told):
        prepare(job, Watch(), Processes(0, 2), held)
    for processes in (Processes(), Processes(0, 2, "cuda:0")):
        with ExitStack() as held, pytest.raises(TokenbenchError, match="none"):  # which is looked at next
            prepare(job, Watch(), processes, held)
