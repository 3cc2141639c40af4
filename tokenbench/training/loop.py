"""A run: from a job to a model that learns, an update at a time, from wherever the last one stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenbench import __version__, backbones, data
from tokenbench.backbones import Backbone
from tokenbench.core import atomic
from tokenbench.errors import BadSetting, TrainingError, UsageError, WeightsError
from tokenbench.measure import accuracy
from tokenbench.methods.base import Method, make
from tokenbench.methods.dense import Dense
from tokenbench.methods.recipe import Recipe
from tokenbench.model import Model
from tokenbench.reports import curves
from tokenbench.runs import runner
from tokenbench.training import log, optim, state
from tokenbench.training.processes import Processes
from tokenbench.training.stream import SEEN, Stream, Targets, check_training, seed_all
from tokenbench.training.task import MethodTask
from tokenbench.weights import checkpoints, files

RESULT = "model.safetensors"  # in a run's folder
LOG_EVERY = 50  # updates
SAVE_SECONDS = 600.0  # at the longest, between two checkpoints


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where to. The recipe's other values are in `recipe`."""

    method: Method
    backbone: str
    recipe: Recipe
    data_dir: Path
    output: Path
    weights: str = "auto"  # to start from; "auto" is what the recipe says
    teacher: str = "auto"  # the teacher's weights, where the recipe has one; "auto" is those the run starts from
    image_size: tuple[int, int] | None = None
    device: str = "cpu"
    precision: str = "fp32"
    passes: int = 1
    compile: bool = False
    recompute: bool = False
    workers: int = 0
    seed: int = 42
    save_every: int | None = None  # updates; an epoch if None, and ten minutes at the longest
    evaluate_every: float = 1.0  # epochs
    tracker: str | None = None

    @property
    def sees(self) -> tuple[object, ...]:
        """What decides which images come when and how they look; jobs that are equal in it can share their batches."""
        seen = self.recipe.model_dump(include=SEEN)
        where = (self.data_dir, self.backbone, self.image_size, self.device, self.precision)
        return (*where, self.seed, self.passes, self.workers, self.evaluate_every, *seen.values())


class Watch(runner.Watch, Protocol):
    """Who looks on."""

    def note(self, text: str) -> None:
        """How it stands, beside the bar."""


@dataclass(frozen=True)
class Trained:
    """What a run ends with."""

    path: Path
    top1: float  # percent, on `images` images of `split`
    images: int
    split: str
    updates: int
    leads: bool  # whether this process is the one that speaks


def prepare(job: Job, watch: Watch, processes: Processes) -> Run:
    """All that a job needs to learn, with what its folder holds of it already.

    Raises:
        TokenbenchError: data, weights, teacher or recipe do not fit; a folder of another run.
    """
    images, held_out = data.open_training(job.data_dir)
    check_training(images)
    method = _with_knobs(job.method, job.recipe)
    backbone = backbones.create(job.backbone, job.image_size, len(images.classes), job.recipe.drop_path)
    start = _start(job, backbone)
    if start.random_head and processes.leads:
        watch.say(f"{job.output.name}: {start.note}.")
    torch.manual_seed(job.seed)
    model = Model(backbone, method).to(processes.device)
    model.recompute = job.recompute
    for parameter in model.idle():  # DDP waits for the gradient of every other one
        parameter.requires_grad_(False)
    teacher, taught_by = _teacher(job, len(images.classes))
    settings = {
        "method": method.name,
        "setting": method.model_dump(mode="json"),
        "backbone": job.backbone,
        "classes": len(images.classes),
        "image_size": list(backbone.input_size[1:]),
        "recipe": job.recipe.model_dump(mode="json"),
        "data": {"name": images.name, "images": len(images), "first": images.digest(range(min(100, len(images))))},
        "weights": start.identity,
        "teacher": taught_by,
        "precision": job.precision,
        "seed": job.seed,
    }
    task = MethodTask(model, teacher, torch.device(processes.device), job.recipe).to(processes.device)
    if job.recipe.ema:
        task.setup_ema(decay=job.recipe.ema)
    stream = Stream(images, backbone.config, job.recipe, job.seed, job.workers, processes, job.passes)
    total = max(1, round(job.recipe.epochs * stream.updates))
    optimizer = optim.optimizer(model, job.recipe)
    schedule = optim.Schedule(optimizer, job.recipe, stream.updates, total)
    done = state.restore(job.output, task, optimizer, settings)
    if not processes.agree(done):
        raise UsageError(
            f"The processes do not find the same checkpoint in {job.output}; give an --output that all machines share."
        )
    if job.compile:
        task.compile()
    if processes.count > 1:
        task.prepare_distributed([torch.cuda.current_device()] if processes.device.startswith("cuda") else None)
    if done and processes.leads:
        watch.say(f"{job.output.name}: going on after update {done} of {total}.")
    return Run(job, watch, processes, method, settings, task, optimizer, schedule, stream, held_out, total, done)


@dataclass(eq=False)
class Run:
    """The state that the updates of one run share."""

    job: Job
    watch: Watch
    processes: Processes
    method: Method
    settings: Mapping[str, Any]
    task: MethodTask
    optimizer: torch.optim.Optimizer
    schedule: optim.Schedule
    stream: Stream
    held_out: data.Images
    total: int
    done: int  # updates
    log: log.Log | None = None  # of the process that leads
    saved: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    told: tuple[int, float] = (0, 0.0)  # the update of the last line, and when it was
    since: list[tuple[int, float, dict[str, Tensor]]] = field(default_factory=list)  # update, rate, losses not yet told

    def __post_init__(self) -> None:
        self.targets = Targets(self.job.recipe, self.settings["classes"])

    @property
    def path(self) -> Path:
        """Where the result is written to."""
        return self.job.output / RESULT

    def finished(self) -> Trained | None:
        """What the folder holds, if that is the result of this run."""
        told = files.header(self.path) if self.path.is_file() else {}
        if self.done < self.total or {key: told.get(key) for key in self.settings} != self.settings:
            return None
        return self._trained(**told["result"])

    def begin(self) -> None:
        """Make the folder and open the log."""
        if self.processes.leads:
            follow = self.job.tracker and log.tracker(self.job.tracker, self.job.output.name, self.settings)
            for name in (state.NAME, RESULT):  # found now, not after hours; and what a killed start left is removed
                atomic.check(self.job.output / name, WeightsError, "give another --output")
            self.log = log.Log(self.job.output, self.done, follow or None)
        self.saved, self.told = self.done, (self.done, time.monotonic())
        self.task.train()

    def tell(self, now: int, evaluating: bool) -> dict[str, Any] | None:
        """The line of the log after `now` updates; None if none is due."""
        if not (now % LOG_EVERY == 0 or self._saving(now) or evaluating):
            return None
        row, (first, began) = self._told(now), self.told
        row["images_per_s"] = round(self.job.recipe.batch * (now - first) / (time.monotonic() - began), 1)
        return row

    def keep(self, now: int, row: dict[str, Any]) -> None:
        """Write the line, and a checkpoint where one is due."""
        if self.log is not None:  # before the checkpoint: lines after it are dropped, none before it is missing
            self.log.add(row)
        if self._saving(now) or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self._save(now)
        self.told = (now, time.monotonic())

    def finish(self, found: accuracy.Predictions) -> Trained:
        """Write the result, of which these are the predictions on the held-out images."""
        result: dict[str, Any] = {"top1": found.top1, "images": len(found.target), "split": self.held_out.split}
        if self.log is not None:
            header = {**self.settings, "updates": self.total, "version": __version__, "result": result}
            files.save(self.path, state.averaged(self.task), header)
            rows = log.read(self.log.path)
            if not rows or "top1" not in rows[-1]:
                self.log.add({"update": self.total, "epoch": round(self.total / self.stream.updates, 4), **result})
            curves.draw(
                log.read(self.log.path), f"{self.method.label} on {self.job.backbone}", self.job.output / "curve.png"
            )
            self.log.close()
        self.processes.wait()
        return self._trained(**result)

    def _trained(self, top1: float, images: int, split: str) -> Trained:
        return Trained(self.path, top1, images, split, self.total, self.processes.leads)

    def _saving(self, now: int) -> bool:
        return now % (self.job.save_every or self.stream.updates) == 0 or now == self.total

    def update(self, update: int, batches: Sequence[tuple[Tensor, ...]]) -> None:
        """One update by the gradients of these batches on the device, which are left as they are."""
        job, passes = self.job, len(batches)
        lr = self.schedule.set(update)
        self.task.use(self.method.at(update / self.stream.updates))
        device = torch.device(self.processes.device)
        terms: dict[str, Tensor] = {}
        for index, (images, target) in enumerate(batches):
            seed_all(job.seed, update, index, self.processes.rank)
            images, soft = self.targets(images if self.targets.mixup is None else images.clone(), target)
            last = index == passes - 1
            with nullcontext() if last else self.task.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=job.precision == "bf16"):
                    found = self.task(images, soft)
                (found["loss"] / passes).backward()
            for name, value in found.items():
                if name != "output":
                    terms[name] = terms.get(name, 0) + value.detach() / passes
        if job.recipe.clip_grad:
            nn.utils.clip_grad_norm_(self.task.get_clip_parameters(), job.recipe.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.task.has_ema():
            self.task.update_ema(step=update + 1)
        self.since.append((update, lr, terms))

    def _told(self, now: int) -> dict[str, Any]:
        """What the log says of the updates since it last said something; the mean over them and all processes."""
        losses = self.processes.mean(torch.stack([terms["loss"].float() for _, _, terms in self.since]))
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            update, lr, _ = self.since[int(bad[0])]
            raise TrainingError(
                f"The loss is {losses[bad[0]].item()} at update {update + 1} with learning rate {lr:.3g}; "
                f"lower --lr or clip gradients (--set clip_grad=1); last good checkpoint: {self._last()}."
            )
        row: dict[str, Any] = {"update": now, "epoch": round(now / self.stream.updates, 4), "lr": self.since[-1][1]}
        for name in self.since[-1][2]:
            mean = self.processes.mean(torch.stack([terms[name].float() for _, _, terms in self.since]).mean())
            row[name if name == "loss" else f"loss_{name}"] = round(mean.item(), 6)
        self.since = []
        return row

    def _last(self) -> str:
        return f"{self.job.output / state.NAME}, after update {self.saved}" if self.saved else "none yet"

    def _save(self, now: int) -> None:
        if not all(bool(p.isfinite().all()) for p in self.task.model.parameters()):
            raise TrainingError(
                f"The weights are no longer finite after update {now}, though the loss was; lower --lr or clip "
                f"gradients (--set clip_grad=1); last good checkpoint: {self._last()}."
            )
        if self.processes.leads:
            state.save(self.job.output, self.task, self.optimizer, now, self.settings)
        self.saved, self.saved_at = now, time.monotonic()

    def candidate(self) -> nn.Module:
        """The model to evaluate, at the full setting."""
        self.task.use(self.method)
        model: nn.Module = state.averaged(self.task)
        model.use(self.method)  # type: ignore[operator]
        return model


def _with_knobs(method: Method, recipe: Recipe) -> Method:
    """The setting with the knobs that the recipe brings, where they are at their defaults."""
    fields = type(method).model_fields
    brought = {k: v for k, v in recipe.knobs.items() if k not in fields or getattr(method, k) == fields[k].default}
    method = make(type(method), {**method.model_dump(), **brought})
    if method.at(recipe.epochs).decides != method.decides:
        raise BadSetting(
            f"{method.label} is not reached after epochs={recipe.epochs:g}: its schedule takes longer; "
            "give more epochs, or a shorter schedule."
        )
    return method


def _start(job: Job, backbone: Backbone) -> checkpoints.Weights:
    """Fill the backbone with what the run starts from."""
    wanted = job.weights
    if wanted == "auto" and job.recipe.start == "scratch":
        wanted = "random"
    found = checkpoints.load_dense(backbone, wanted, job.seed, new_head=True)
    if found.kind == "random" and wanted == "auto":
        raise WeightsError(
            f"Fine-tuning starts from dense weights, but {found.note}; give --weights FILE, or --recipe scratch."
        )
    return found


def _teacher(job: Job, classes: int) -> tuple[Model | None, dict[str, Any] | None]:
    """The frozen dense model that the recipe asks for, and where its weights are from."""
    if job.recipe.teacher == "none":
        return None, None
    backbone = backbones.create(job.backbone, job.image_size, classes)
    source = job.weights if job.teacher == "auto" and job.weights != "random" else job.teacher
    try:
        found = checkpoints.load_dense(backbone, source, job.seed)
    except WeightsError as error:
        raise WeightsError(f"The teacher does not fit: {error}") from None
    if found.kind == "random" or found.random_head:
        raise WeightsError(
            f"The teacher of {job.method.name} needs dense weights of {job.backbone} with {classes} classes, but "
            f"{found.note or 'they are random'}; give --teacher FILE, or --set teacher=none."
        )
    return Model(backbone, Dense()), found.identity


def line(row: Mapping[str, Any]) -> str:
    """A line of the log as words."""
    parts = [f"epoch {row['epoch']:.2f}", f"loss {row['loss']:.4f}", f"lr {row['lr']:.2e}"]
    if "top1" in row:
        parts.append(f"top-1 {row['top1']:.2f} %")
    return ", ".join([*parts, f"{row['images_per_s']:.0f} images/s"])
