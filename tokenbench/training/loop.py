"""The run: updates until the recipe is done, from wherever the last one stopped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenbench import __version__, data
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
from tokenbench.training import log, optim, state, telling
from tokenbench.training.processes import Processes, alone, joined
from tokenbench.training.stream import Stream, Targets, check_training, seed_all
from tokenbench.training.task import MethodTask
from tokenbench.weights import checkpoints, choice, files, sources, told

RESULT = "model.safetensors"
LOG_EVERY = 50  # updates
SAVE_SECONDS = 600.0  # at the longest, between two checkpoints
EVAL_BATCH = 256


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where to. The recipe's other values are in `recipe`."""

    method: Method
    backbone: str
    recipe: Recipe
    data_dir: Path
    output: Path
    class_order: str = "auto"
    labels: Path | None = None
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
    pixels: Mapping[str, Any] = field(
        default_factory=dict
    )  # mean, std, crop_pct, interpolation, if not the model's own
    take: choice.Take = choice.ALL  # which weights, of files that hold several


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


def train(job: Job, watch: Watch) -> Trained:
    """Train by the recipe, from the last checkpoint in `job.output` if there is one; call it in every process.

    Writes `last.safetensors` (to go on from), `model.safetensors` (the result, settings in its header), `log.jsonl`,
    `log.csv` and `curve.png` to `job.output`.

    Raises:
        TokenbenchError: data, weights, teacher or recipe do not fit; a folder of another run, or one that another
            run writes into; a loss that is no number.
    """
    with joined(job.device) as processes, ExitStack() as held:
        return _train(job, watch, processes, held)


def _train(job: Job, watch: Watch, processes: Processes, held: ExitStack) -> Trained:
    images, held_out = data.open_training(job.data_dir, job.class_order, job.labels)
    check_training(images)
    method = _with_knobs(job.method, job.recipe)
    auto = job.weights == "auto" and job.recipe.start == "scratch"
    given = sources.single("random" if auto else job.weights, job.take)
    backbone = given.create(job.backbone, job.image_size, len(images.classes), job.recipe.drop_path, job.pixels)
    start = _start(job, given, backbone)
    if start.note and processes.leads:
        watch.say(f"{job.backbone}: {start.note}.")
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
        "class_names": list(images.names),
        "image_size": list(backbone.input_size[1:]),
        "recipe": job.recipe.model_dump(mode="json"),
        "data": {"name": images.name, "images": len(images), "first": images.digest(range(min(100, len(images))))},
        "weights": start.identity,
        "teacher": taught_by,
        "precision": job.precision,
        "seed": job.seed,
        **told.kept(given.told.pool, backbone.pixels),
    }
    task = MethodTask(model, teacher, torch.device(processes.device)).to(processes.device)
    if job.recipe.ema:
        task.setup_ema(decay=job.recipe.ema)
    stream = Stream(images, backbone.config, job.recipe, job.seed, job.workers, processes, job.passes)
    total = max(1, round(job.recipe.epochs * stream.updates))
    optimizer = optim.optimizer(model, job.recipe)
    schedule = optim.Schedule(optimizer, job.recipe, stream.updates, total)
    held.enter_context(alone(job.output, processes))
    done = state.restore(job.output, task, optimizer, settings)
    if not processes.agree(done):
        raise UsageError(
            f"The processes do not find the same checkpoint in {job.output}; give an --output that all machines share."
        )
    if job.compile:
        task.compile()
    if processes.count > 1:
        task.prepare_distributed([torch.cuda.current_device()] if processes.device.startswith("cuda") else None)
    run = _Run(job, watch, processes, method, settings, task, optimizer, schedule, stream, total)
    if done and processes.leads:
        watch.say(f"Going on after update {done} of {total}.")
    run.updates(done, held_out)
    return run.finish(held_out)


@dataclass
class _Run:
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
    total: int
    log: log.Log | None = None  # of the process that leads
    saved: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    since: list[tuple[int, float, dict[str, Tensor]]] = field(default_factory=list)  # update, rate, losses not yet told

    def __post_init__(self) -> None:
        self.targets = Targets(self.job.recipe, self.settings["classes"])
        self.unreadable = telling.Unreadable(self.job.output, self.processes, self.watch.say)

    def updates(self, done: int, held_out: data.Images) -> None:
        """The updates that are left."""
        per_epoch, save_every = self.stream.updates, self.job.save_every or self.stream.updates
        evaluate_every = max(1, round(self.job.evaluate_every * per_epoch))
        if self.processes.leads:
            follow = self.job.tracker and log.tracker(self.job.tracker, self.job.output.name, self.settings)
            for name in (state.NAME, RESULT):  # found now, not after hours; and what a killed start left is removed
                atomic.check(self.job.output / name, WeightsError, "give another --output")
            self.log = log.Log(self.job.output, done, follow or None)
            for sentence in telling.what_on(self.stream.images, held_out, self.task.model.backbone):
                self.watch.say(sentence)
            self.watch.stretch(f"{self.method.label} on {self.job.backbone}", self.total)
            self.watch.step(done)
        self.saved, began, first = done, time.monotonic(), done
        batches = self.stream.start(done)
        self.task.train()
        for update in range(done, self.total):
            self._update(update, batches)
            now = update + 1
            saving = now % save_every == 0 or now == self.total
            evaluating = now % evaluate_every == 0 and now < self.total
            if now % LOG_EVERY == 0 or saving or evaluating:
                row = self._told(now)
                row["images_per_s"] = round(self.job.recipe.batch * (now - first) / (time.monotonic() - began), 1)
                if evaluating:
                    self.unreadable.training(self.stream)
                    row["top1"] = self._evaluate(held_out).top1
                if self.log is not None:  # before the checkpoint: lines after it are dropped, none before it is missing
                    self.log.add(row)
                    self.watch.note(log.line(row))
                if saving or time.monotonic() - self.saved_at > SAVE_SECONDS:
                    self._save(now)
                began, first = time.monotonic(), now
            if self.processes.leads:
                self.watch.step(now)

    def finish(self, held_out: data.Images) -> Trained:
        """Measure the result and write it."""
        self.unreadable.training(self.stream)
        found = self._evaluate(held_out)
        path = self.job.output / RESULT
        if self.log is not None:
            result = {"top1": found.top1, "images": len(found.target), "split": held_out.split}
            lean = self.method.lean()
            header = {**self.settings, "updates": self.total, "version": __version__, "result": result}
            header["setting"] = lean.model_dump(mode="json")
            files.write(path, state.result(self.task, lean), header)
            rows = log.read(self.log.path)
            if not rows or "top1" not in rows[-1]:
                self.log.add({"update": self.total, "epoch": round(self.total / self.stream.updates, 4), **result})
            curves.draw(
                log.read(self.log.path), f"{self.method.label} on {self.job.backbone}", self.job.output / "curve.png"
            )
            self.log.close()
        self.processes.wait()
        return Trained(path, found.top1, len(found.target), held_out.split, self.total, self.processes.leads)

    def _update(self, update: int, batches: Any) -> None:
        job, passes = self.job, self.stream.passes
        lr = self.schedule.set(update)
        self.task.use(self.method.at(update / self.stream.updates))
        device = torch.device(self.processes.device)
        terms: dict[str, Tensor] = {}
        for index in range(passes):
            images, target = next(batches)
            images, target = images.to(device, non_blocking=True), target.to(device, non_blocking=True)
            seed_all(job.seed, update, index, self.processes.rank)
            images, soft = self.targets(images, target)
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

    def _evaluate(self, held_out: data.Images) -> accuracy.Predictions:
        """Predictions on the held-out images, at the full setting; every process makes the same."""
        self.task.use(self.method)
        model = state.averaged(self.task)
        training = model.training
        model.use(self.method)
        config = self.task.model.backbone.config
        loader = data.loader(held_out, config, EVAL_BATCH, self.job.workers)
        found = accuracy.predict({"model": model.eval()}, loader, self.processes.device, self.job.precision)["model"]
        model.train(training)
        self.unreadable.held_out(loader)
        return found


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


def _start(job: Job, given: sources.Sources, backbone: Backbone) -> checkpoints.Weights:
    """Fill the backbone with what the run starts from; weights of other classes get a new head."""
    found = given.load(backbone, job.seed, transfer=True)
    if found.kind == "random" and given.dense == "auto":
        raise WeightsError(
            f"Fine-tuning starts from dense weights, but {found.note}; give --weights FILE, or --recipe scratch."
        )
    return found


def _teacher(job: Job, classes: int) -> tuple[Model | None, dict[str, Any] | None]:
    """The frozen dense model that the recipe asks for, and where its weights are from."""
    if job.recipe.teacher == "none":
        return None, None
    source = job.weights if job.teacher == "auto" and job.weights != "random" else job.teacher
    try:
        given = sources.single(source, job.take)
        backbone = given.create(job.backbone, job.image_size, classes, pixels=job.pixels)
        found = given.load(backbone, job.seed, transfer=job.teacher == "auto")
    except WeightsError as error:
        raise WeightsError(f"The teacher does not fit: {error}") from None
    if found.kind == "random" or found.random_head:
        raise WeightsError(
            f"The teacher of {job.method.name} needs dense weights of {job.backbone} with {classes} classes, but "
            f"{found.note or 'they are random'}; give --teacher FILE, or --set teacher=none."
        )
    return Model(backbone, Dense()), found.identity
