"""A run: from a job to a model that learns, an update at a time, from wherever the last one stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tokenbench import __version__
from tokenbench.backbones import Backbone
from tokenbench.core import atomic
from tokenbench.core.processes import Processes, alone
from tokenbench.data.reading import seed_all
from tokenbench.errors import TrainingError, UsageError, WeightsError
from tokenbench.methods.base import Method
from tokenbench.model import Model
from tokenbench.pyramid import Body
from tokenbench.reports import curves
from tokenbench.runs import runner
from tokenbench.tasks.base import Metric
from tokenbench.training import log, optim, starting, state, telling, trackers
from tokenbench.training.job import RESULT, Job
from tokenbench.training.stream import Stream, Targets, check_training
from tokenbench.training.task import HeadedTask, MethodTask
from tokenbench.weights import files, sources, told

BEST = "best.safetensors"  # of the evaluations on the way, for models with a head of the task's own
LOG_EVERY = 50  # updates
SAVE_SECONDS = 600.0  # at the longest, between two checkpoints


class Watch(runner.Watch, Protocol):
    """Who looks on."""

    def note(self, text: str) -> None:
        """How it stands, beside the bar."""


@dataclass(frozen=True)
class Scored:
    """How a model does on what is held out."""

    scores: Mapping[str, float | None]
    images: int


@dataclass(frozen=True)
class Trained:
    """What a run ends with."""

    path: Path
    value: float | None  # of the task's main metric, on `images` images of `split`
    images: int
    split: str
    updates: int
    leads: bool  # whether this process is the one that speaks


def prepare(job: Job, watch: Watch, processes: Processes, held: ExitStack) -> Run:
    """All that a job needs to learn, with what its folder holds of it already; `held` keeps others off the folder.

    Raises:
        TokenbenchError: data, weights, teacher or recipe do not fit; a folder of another run, or one that another
            run writes into.
    """
    on_gpus = processes.device.startswith("cuda")
    if processes.count > 1 and not on_gpus and getattr(job.task, "norm", None) == "sync":
        raise UsageError("norm=sync needs GPUs, the only place where torch has it; give norm=train, or one process.")
    images, held_out = job.task.open_training(job.data_dir)
    headed = job.task.has_head
    if not headed:
        check_training(images)
    auto = job.weights == "auto" and job.recipe.start == "scratch"
    given = sources.single("random" if auto else job.weights, job.take)
    classes = None if headed else len(images.classes)
    made = given.create(job.backbone, job.image_size, classes, job.recipe.drop_path, job.pixels)
    backbone = job.task.on(made)
    method = starting.with_knobs(job.method.on(backbone), job.recipe)
    start, model = starting.begun(job, given, backbone, method)
    if start.note and processes.leads:
        watch.say(f"{job.backbone}: {start.note}.")
    model.recompute = job.recompute
    for parameter in () if headed else model.idle():  # DDP waits for the gradient of every other one
        parameter.requires_grad_(False)
    learning = job.task.model(model, len(images.classes), job.recipe) if headed else model
    learning.to(processes.device)
    starting.rescaled(learning, job.recipe.layer_scale_init)
    teacher, taught_by = starting.teacher(job, len(images.classes))
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
        **(starting.of_task(job, start) if job.task.name != sources.CLASSIFIER else {}),
    }
    device = torch.device(processes.device)
    task: MethodTask = (
        HeadedTask(learning, job.task, device, job.recipe, teacher)
        if headed
        else MethodTask(model, teacher, device, job.recipe)
    )
    task = task.to(device)
    if job.recipe.ema:
        task.setup_ema(decay=job.recipe.ema)
    lessons = job.task.lessons(images, backbone, job.recipe, job.seed)
    stream = Stream(images, backbone.config, job.recipe, job.seed, job.workers, processes, job.passes, lessons)
    total = job.recipe.updates or max(1, round(job.recipe.epochs * stream.updates))
    optimizer = optim.optimizer(learning, job.recipe)
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
        if headed and on_gpus:
            learning.synchronise()  # type: ignore[operator]
        task.prepare_distributed([torch.cuda.current_device()] if on_gpus else None)
    if done and processes.leads:
        watch.say(f"{job.output.name}: going on after update {done} of {total}.")
    return Run(
        job, watch, processes, method, settings, task, optimizer, schedule, stream, total, backbone, held_out, done
    )


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
    total: int
    backbone: Backbone
    held_out: Any
    done: int  # updates, when it was prepared
    log: log.Log | None = None  # of the process that leads
    saved: int = 0
    saved_at: float = field(default_factory=time.monotonic)
    told: tuple[int, float] = (0, 0.0)  # the update of the last line, and when it was
    since: list[tuple[int, float, dict[str, Tensor]]] = field(default_factory=list)  # update, rate, losses not yet told

    def __post_init__(self) -> None:
        self.targets = Targets(self.job.recipe, self.settings["classes"])
        self.unreadable = telling.Unreadable(self.job.output, self.processes, self.watch.say, self.job.task.items)
        self.path = self.job.output / RESULT

    def finished(self) -> Trained | None:
        """What the folder holds, if that is the result of this run."""
        if self.done < self.total or not self.path.is_file():
            return None
        try:
            files.read(self.path)
            told = files.header(self.path)
        except WeightsError:  # it is written anew
            return None
        expected = json.loads(json.dumps(self._header(self.total)))
        asked = [key for key in expected if key in told or key not in state.LATER]
        if not isinstance(told.get("result"), Mapping) or any(told.get(key) != expected[key] for key in asked):
            return None
        return self._trained(told["result"])

    def begin(self) -> None:
        """Make the folder and open the log."""
        if self.processes.leads:
            follow = self.job.tracker and trackers.start(self.job.tracker, self.job.output, self.settings)
            for name in (state.NAME, RESULT, BEST):  # found now, not after hours; what a killed start left is removed
                atomic.check(self.job.output / name, WeightsError, "give another --output")
            self.log = log.Log(self.job.output, self.done, follow or None)
            for sentence in telling.what_on(self.stream.images, self.held_out, self.backbone, self.job.task):
                self.watch.say(sentence)
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
            self._keep_best(row)
            self.log.add(row)
        if self._saving(now) or time.monotonic() - self.saved_at > SAVE_SECONDS:
            self._save(now)
        self.told = (now, time.monotonic())

    def finish(self, scored: Scored) -> Trained:
        """Write the result, which scores this on what is held out."""
        scores = scored.scores if self.job.task.has_head else {self.main.name: scored.scores.get(self.main.name)}
        result: dict[str, Any] = {**scores, "images": scored.images, "split": self.held_out.split}
        if self.log is not None:
            files.write(self.path, state.result(self.task, self.lean), {**self._header(self.total), "result": result})
            rows = log.read(self.log.path)
            if not rows or self.main.name not in rows[-1]:
                self.log.add({"update": self.total, "epoch": round(self.total / self.stream.updates, 4), **result})
            title = f"{self.method.label} on {self.job.backbone}"
            curves.draw(log.read(self.log.path), title, self.job.output / "curve.png", self.main)
            self.log.close()
        self.processes.wait()
        return self._trained(result)

    def _trained(self, result: Mapping[str, Any]) -> Trained:
        value, images, split = result.get(self.main.name), result["images"], result["split"]
        return Trained(self.path, value, images, split, self.total, self.processes.leads)

    @property
    def lean(self) -> Method:
        """The setting that the result is written for: a classifier leaves out what only training needs."""
        if self.job.task.has_head:
            return self.method
        return self.method.learnt(state.averaged(self.task).blocks).lean()

    @property
    def main(self) -> Metric:
        """The metric that tells how far it is."""
        return self.job.task.metrics[0]

    def _header(self, updates: int) -> dict[str, Any]:
        setting = self.lean.model_dump(mode="json")
        return {**self.settings, "setting": setting, "updates": updates, "version": __version__}

    def _saving(self, now: int) -> bool:
        return now % (self.job.save_every or self.stream.updates) == 0 or now == self.total

    def _keep_best(self, row: Mapping[str, Any]) -> None:
        """Write the weights where none of the evaluations before was as good."""
        if self.log is None or not self.job.task.has_head or row.get(self.main.name) is None:
            return
        sign = self.main.sign
        before = [sign * r[self.main.name] for r in log.read(self.log.path) if r.get(self.main.name) is not None]
        if all(sign * row[self.main.name] > value for value in before):
            result = {self.main.name: row[self.main.name]}
            files.save(
                self.job.output / BEST, state.averaged(self.task), {**self._header(row["update"]), "result": result}
            )

    def update(self, update: int, batches: Sequence[tuple[Tensor, Any]]) -> None:
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
        scales = [p.detach().mean() for name, p in self.task.model.named_parameters() if "layer_scale" in name]
        if scales:
            row["layer_scale"] = float(f"{torch.stack(scales).mean().item():.6g}")
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
        told = model.body if self.job.task.has_head else model
        if isinstance(told, Body | Model):
            told.use(self.method)
        return model

    def scored(self, answers: Sequence[Any], targets: Sequence[Any]) -> Scored:
        """The scores of a candidate's answers."""
        found = self.job.task.gather(answers, targets)
        return Scored(dict(self.job.task.score(found, None, self.job.seed)), len(found))
