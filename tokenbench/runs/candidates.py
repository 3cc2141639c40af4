"""What a run measures: every setting on every backbone, with its weights and data, and the row it becomes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench import __version__
from tokenbench.backbones import Backbone
from tokenbench.core.registry import source
from tokenbench.errors import (
    ResultsError,
    TokenbenchError,
    Unsupported,
    UsageError,
    first_line,
    place,
)
from tokenbench.measure import memory
from tokenbench.measure.compiling import Compiled
from tokenbench.measure.running import OutOfMemory, conditions, is_out_of_memory
from tokenbench.methods import get
from tokenbench.methods.base import Method, make
from tokenbench.methods.dense import Dense
from tokenbench.runs import budget, exported
from tokenbench.runs.budget import Budget
from tokenbench.runs.environment import version
from tokenbench.runs.heading import making
from tokenbench.runs.plan import Plan
from tokenbench.runs.row import Row
from tokenbench.tasks.base import Loader
from tokenbench.weights import checkpoints, files, sources

_log = logging.getLogger(__name__)
AUTO_BATCH = 256  # where `--batch-size auto` starts halving
USUAL = {"fused_attention": True, "matmul_precision": "highest"}
ACCURACY_BATCH = 128  # at most: larger ones are timed, but bring no speed to the pass over the data


@dataclass
class Candidate:
    """One setting on one backbone on its way to its rows, one for each of `batches`, the batch sizes still to do."""

    method: Method
    model: nn.Module | None  # None once it is stopped
    batches: list[int]
    measured: dict[str, Any] = field(default_factory=dict)  # fields of its row
    scores: dict[str, float | None] = field(default_factory=dict)  # its metrics, as the task declares them
    notes: list[str] = field(default_factory=list)
    status: str = "ok"
    own: checkpoints.Weights | None = None  # those trained with the method, if it does not run on the dense ones
    schedule: str | None = None  # how those were trained, where rows of other schedules must stand apart
    budget: Budget | None = None  # with how much they, or else the dense ones, were trained
    written: list[int] = field(default_factory=list)  # of `batches`, those that get a row; others are a reference only
    file: Path | None = None  # that was exported of it, and runs in its model's place
    session: str | None = None  # in which its timing began, if that was an earlier one

    def stop(self, status: str, reason: str) -> None:
        """No more is measured of it; its rows will say why."""
        self.status, self.notes, self.model = status, [reason], None

    def at(self, batch: int) -> Candidate:
        """A copy to be measured at one batch size: what is found or fails there stays there."""
        return replace(
            self,
            batches=[batch],
            written=[batch] if batch in self.written else [],
            measured=dict(self.measured),
            scores=dict(self.scores),
            notes=list(self.notes),
        )

    def done(self, batch: int) -> None:
        """Its row for a batch size is written, or left to another process."""
        self.batches = [b for b in self.batches if b != batch]
        self.written = [b for b in self.written if b != batch]


@contextmanager
def failing(*candidates: Candidate) -> Iterator[None]:
    """An error inside stops these candidates only: a plug-in may raise anything. Not one of keeping results."""
    try:
        yield
    except ResultsError:
        raise
    except (Exception, SystemExit) as error:
        status = "oom" if _does_not_fit(error) else "failed"
        kind = "" if isinstance(error, TokenbenchError) else f"{type(error).__name__}: "
        reason = f"{kind}{first_line(error)}{place(error)}"
        _log.debug("%s", reason, exc_info=True)
        for candidate in candidates:
            if candidate.status == "ok":
                candidate.stop(status, reason)


@dataclass
class Group:
    """A backbone with its weights, its data and its candidates, dense first."""

    plan: Plan
    env: Mapping[str, Any]
    backbone: Backbone
    weights: checkpoints.Weights
    loader: Loader | None
    batches: Sequence[int]
    candidates: list[Candidate]
    few: Loader | None = None  # of the same data, to count with
    data: Any = None
    compiled: dict[str, Compiled] = field(default_factory=dict)  # by label, for all batch sizes

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that models are counted and timed at."""
        return self.plan.task.size(self.backbone, self.plan.image_size)

    def timed(self, batch: int) -> Tensor:
        """Images to count and time with, on the device."""
        images = self.plan.task.timed(self.data, self.backbone, batch, self.plan.seed, self.size)
        return images.to(self.plan.device)

    def ready(self, candidate: Candidate) -> nn.Module:
        """A candidate's model as it is timed: compiled, if the plan says so."""
        assert candidate.model is not None
        if not self.plan.compile:
            return candidate.model
        return self.compiled.setdefault(candidate.method.label, Compiled(candidate.model))

    def live(self) -> Iterator[tuple[Candidate, nn.Module]]:
        """Those that can still be measured."""
        for candidate in self.candidates:
            if candidate.model is not None and candidate.batches:
                yield candidate, candidate.model

    def no_accuracy(self, candidate: Candidate) -> str | None:
        """Why there will be no accuracy of a setting, as a clause; None if there will."""
        task, why = self.plan.task, None
        if candidate.own is None and task.has_head:
            why = "its head is random"
        elif candidate.own is None and self.weights.kind == "random":
            why = "random weights"
        elif candidate.own is None and self.weights.random_head and task.reads_head:
            why = "its head is random"
        elif candidate.own is None and candidate.method.trained:
            why = "needs its own training"
        elif self.loader is None:
            why = "no --data-dir"
        return f"{why}, so no {task.scored}" if why else None

    def job(self, candidate: Candidate, batch: int | None = None) -> str:
        """The id of a candidate's row at a batch size, by default the first."""
        return self.row(candidate, self.batches[0] if batch is None else batch).id

    def row(self, candidate: Candidate, batch: int) -> Row:
        """A candidate's row at a batch size, as it stands."""
        loader, weights, method, plan = self.loader, self.weights, candidate.method, self.plan
        scores = {**candidate.scores, **plan.task.derived(candidate.measured)}
        return Row(
            task=plan.task.name,
            method=method.name,
            setting=method.model_dump(mode="json"),
            label=method.label,
            backbone=self.backbone.name,
            weights=weights.identity,
            trained=candidate.own.identity if candidate.own else None,
            dataset=loader.name if loader else None,
            split=loader.split if loader else None,
            sample_hash=loader.sample_hash if loader else None,
            image_size=list(self.size),
            device=plan.device,
            hardware=self.env["hardware"],
            precision=plan.precision,
            batch=batch,
            compile=plan.compile,
            seed=plan.seed,
            version=__version__,
            conditions={
                **plan.task.model_dump(mode="json", exclude_defaults=True),
                **getattr(loader, "conditions", {}),
                **self.backbone.pixels,
                **({"schedule": candidate.schedule} if candidate.schedule else {}),
                **({} if plan.runtime == "torch" else {"runtime": f"{plan.runtime} {version(plan.runtime)}"}),
                **({"file": exported.identity(candidate.file)} if candidate.file else {}),
                **unusual(backbone=type(self.backbone), task=type(plan.task), method=type(method)),
            },
            env={**self.env, **({"session": candidate.session} if candidate.session else {})},
            status=candidate.status,
            reason="; ".join(candidate.notes) or None,
            budget=candidate.budget,
            imagenet_val=getattr(loader, "imagenet_val", None),
            metrics={key: scores.get(key) for key in plan.task.metric_names()},
            intervals=plan.task.intervals if candidate.scores else {},
            **candidate.measured,
        )


def unusual(**classes: type) -> dict[str, Any]:
    """What decides numbers beside the settings, where it is not as usual: attention, float32, sources of plug-ins."""
    found = {name: value for name, value in conditions().items() if USUAL.get(name, value) != value}
    sources_of = {f"{name}_source": source(cls) for name, cls in classes.items()}
    return found | {name: hash for name, hash in sources_of.items() if hash}


def otherwise(group: Group, rows: Sequence[Row]) -> list[str]:
    """A sentence if rows that are not measured again were measured under other versions or threads, or less surely."""
    good = [row for row in rows if row.status == "ok"]
    told: dict[str, None] = {}
    for name in ("torch", "timm", "threads", "cpu"):
        now = group.env.get(name)
        others = {str(row.env[name]) for row in good if row.env.get(name, now) != now}
        if name == "cpu":  # earlier versions wrote it as `hardware` has it, without the clock
            others = {other for other in others if not str(group.env.get("hardware")).startswith(f"{other}, ")}
        told |= {f"{name} {other} (now {now})": None for other in sorted(others)}
    fewer = [row.runs for row in good if row.runs is not None and row.runs < group.plan.rounds]
    told |= {f"{min(fewer)} rounds (now {group.plan.rounds})": None} if fewer else {}
    looser = [
        row.speed_goal for row in good if row.speed_goal is not None and row.speed_goal > group.plan.precision_goal
    ]
    told |= {f"--precision-goal {max(looser):g} (now {group.plan.precision_goal:g})": None} if looser else {}
    return [f"{group.backbone.name}: some of these were measured under {', '.join(told)}."] if told else []


def prepare(plan: Plan, env: Mapping[str, Any], say: Callable[[str], None]) -> list[Group]:
    """A group for each backbone of a plan; `say` is told what the user should know.

    Raises:
        TokenbenchError: the plan cannot be run at all: unknown backbone, unusable data, weights that do not fit.
    """
    if not plan.backbones:
        raise UsageError("No backbone was given; write one or more as deit_s,vit_b. See `tokenbench list --backbones`.")
    given = {name: exported.given(plan, name) for name in plan.backbones}
    for header in (header for found in given.values() for header in found.own.values()):
        plan = replace(plan, task=plan.task.told(header.get("task_setting", {})))
    size = None if plan.task.any_size else plan.image_size
    made = [(name, plan.task.on(given[name].create(name, size, pixels=plan.pixels))) for name in plan.backbones]
    for name, backbone in made:
        backbone.class_names = given[name].class_names(name)
    opened = [plan.task.open(plan.data_dir, backbone) for _, backbone in made]
    for note in dict.fromkeys(note for data in opened for note in getattr(data, "notes", ())):
        say(note)
    groups = [
        _group(plan, given[name], env, backbone, data, say) for (name, backbone), data in zip(made, opened, strict=True)
    ]
    exported.check(plan, groups)
    if plan.weights not in sources.WORDS:
        _say_unused(given, groups, say)
    return groups


def _say_unused(given: Mapping[str, sources.Sources], groups: Sequence[Group], say: Callable[[str], None]) -> None:
    for path in {path for found in given.values() for path in found.others}:
        if not any(found.dense == str(path) for found in given.values()):
            say(f"{path} is not used: it is of the dense {files.header(path).get('backbone')}.")
    used = {candidate.own.hash for group in groups for candidate in group.candidates if candidate.own}
    for path, header in {path: h for found in given.values() for path, h in found.own.items()}.items():
        if path.suffix != exported.SUFFIX and files.sha(path) not in used:
            label = make(get(header["method"]), header.get("setting", {})).label
            say(f"{path} is not used: it was trained for {label} on {header.get('backbone')}.")


def _group(
    plan: Plan,
    given: sources.Sources,
    env: Mapping[str, Any],
    backbone: Backbone,
    data: Any,
    say: Callable[[str], None],
) -> Group:
    task = plan.task
    if backbone.unseen and not task.any_size:
        say(f"{backbone.name}: {backbone.unseen}.")
    file = exported.dense_of(plan, backbone.name)
    weights = given.load(backbone, plan.seed)
    if file is not None:
        weights = exported.weights_of(plan.exported[file])
    if weights.note:
        say(f"{backbone.name}: {weights.note}.")
    backbone.vit.to(plan.device).eval()
    make = making(task, given, backbone.name, None if data is None else task.classes(data))
    dense = given.header or ({} if file else checkpoints.header(weights))
    candidates = []
    for method in (Dense(), *(m for m in plan.methods if m.name != "dense")):
        method = method.on(backbone)
        candidate = Candidate(method, None, [])
        with failing(candidate):
            reason = method.refusal(backbone)
            if reason is None:
                torch.manual_seed(plan.seed)
                own = given.trained(method, backbone.name)
                try:
                    candidate.file = own if own in plan.exported else None
                    candidate.model, candidate.own = sources.model(
                        method, backbone, None if candidate.file else own, make
                    )
                    if candidate.file is not None:
                        theirs = exported.weights_of(plan.exported[candidate.file])
                        candidate.own = None if theirs.identity == weights.identity else theirs
                except Unsupported as error:  # by the task
                    reason = first_line(error)
                caveat = method.caveat(backbone)
                candidate.notes += [*([caveat] if caveat else []), *task.caveats(plan.image_size)]
                header = given.own[own] if own else dense
                candidate.budget, candidate.schedule = budget.of(header), header.get("schedule") if own else None
            if reason:
                candidate.stop("skipped", reason)
                say(f"{method.label} skips {backbone.name}: {reason}.")
        candidates.append(candidate)
    group = Group(plan, env, backbone, weights, None, [], candidates, data=data)
    group.batches = batches = plan.batches or [_largest(group, say)]
    for candidate in candidates:
        candidate.batches = list(batches)
    if data is not None and (weights.kind != "random" or any(candidate.own for candidate in candidates)):
        group.loader = task.loader(data, backbone, min(max(batches), ACCURACY_BATCH), plan.workers, plan.limit)
        if task.depends and not (backbone.clips and backbone.windowed):  # whole grids cost the same, and clips are long
            few = min(task.counted_items, plan.limit or task.counted_items)
            group.few = task.loader(data, backbone, few, 0, few)
    return group


def _does_not_fit(error: BaseException) -> bool:
    return isinstance(error, OutOfMemory) or is_out_of_memory(error)


def _largest(group: Group, say: Callable[[str], None]) -> int:
    """The largest batch, halving from `AUTO_BATCH`, at which the dense model runs."""
    batch, plan, model = AUTO_BATCH, group.plan, group.candidates[0].model or group.backbone.vit
    while batch > 1:
        try:
            memory.peak(model, group.timed(batch), plan.autocast)
            break
        except Exception as error:
            if not _does_not_fit(error):
                raise
        say(f"{group.backbone.name}: batch {batch} does not fit, trying {batch // 2}.")
        batch //= 2
    return batch
