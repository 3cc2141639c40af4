"""The run: every setting on every backbone, measured in one go, one row a setting and batch size.

Four passes: count and size (each model), accuracy (all models that share a transform, one pass over the data), speed
(all settings of a backbone interleaved with its dense model), rows. Knows no screen: progress goes to a `Watch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenbench import __version__, backbones, checkpoints, data, environment
from tokenbench.backbones import Backbone, random_images
from tokenbench.errors import TokenbenchError
from tokenbench.measure import accuracy, flops, memory, speed, tokens
from tokenbench.measure.running import OutOfMemory
from tokenbench.methods.base import Method
from tokenbench.methods.dense import Dense
from tokenbench.model import Model
from tokenbench.results import Results, Row

AUTO_BATCH = 256  # where `--batch-size auto` starts halving


@dataclass(frozen=True)
class Plan:
    """What to run. `batches` empty means: the largest power of two from 256 down that fits."""

    methods: Sequence[Method]
    backbones: Sequence[str]
    data_dir: Path | None = None
    weights: str = "auto"
    device: str = "cpu"
    precision: str = "fp32"
    batches: Sequence[int] = (32,)
    workers: int = 0
    seed: int = 42
    limit: int | None = None
    image_size: tuple[int, int] | None = None
    compile: bool = False
    rounds: int = 10
    force: bool = False


class Watch(Protocol):
    """Who looks on: told of each stretch of work and what is worth saying."""

    def stretch(self, what: str, total: int) -> None:
        """A stretch of `total` steps begins."""

    def step(self, done: int) -> None:
        """So many steps of it are done."""

    def say(self, text: str) -> None:
        """A sentence for the user."""


@dataclass
class _Candidate:
    """One setting on one backbone on its way to its rows."""

    method: Method
    model: Model | None
    metrics: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    status: str = "ok"

    def stop(self, status: str, reason: str) -> None:
        self.status, self.model = status, None
        self.notes = [reason]


@dataclass
class _Group:
    """A backbone with its weights, its data and its settings, dense first."""

    backbone: Backbone
    weights: checkpoints.Weights
    loader: data.Loader | None
    candidates: list[_Candidate]
    batches: Sequence[int]

    def live(self) -> Iterator[tuple[_Candidate, Model]]:
        for candidate in self.candidates:
            if candidate.model is not None:
                yield candidate, candidate.model


def run(plan: Plan, results: Results, watch: Watch) -> list[Row]:
    """Run what is not done yet and return the rows of this plan, old and new.

    A failure becomes a row and the rest goes on. Interrupted, what was measured so far is kept as rows of status
    `failed`, so nothing measured is lost.

    Raises:
        TokenbenchError: the plan cannot be run at all: unknown backbone, unusable data, weights that do not fit.
    """
    done = {} if plan.force else {row.id: row for row in results.rows() if row.status == "ok"}
    env = environment.describe(plan.device)
    rows: list[Row] = []
    groups = []
    for name in plan.backbones:
        group = _prepare(plan, name, watch)
        found = [done.get(row.id) for row in _rows(plan, group, env) if row.status == "ok"]
        if all(found):
            rows += filter(None, found)
            watch.say(f"{name}: all {len(found)} jobs are done already; --force runs them again.")
        else:
            groups.append(group)
    with _kept_if_interrupted(plan, groups, env, results):
        for group in groups:
            _count(plan, group, watch)
        for shared in _sharing(groups):
            _accuracy(plan, shared, results, env, watch)
        while groups:
            group = groups[0]
            rows += _speed(plan, group, env, results, watch)
            groups.pop(0)
    return rows


def _prepare(plan: Plan, name: str, watch: Watch) -> _Group:
    torch.manual_seed(plan.seed)
    backbone = backbones.create(name, plan.image_size)
    weights = checkpoints.load_dense(backbone, plan.weights, plan.seed)
    backbone.vit.to(plan.device).eval()
    images = None
    if plan.data_dir is not None:
        images = data.open_folder(plan.data_dir)
    elif name == "deit_nano":
        images = data.sample()
    if images is not None:
        data.check_classes(images, backbone.vit.num_classes, name)
    if weights.note:
        watch.say(f"{weights.note[0].upper()}{weights.note[1:]}.")
    methods = [Dense(), *(m for m in plan.methods if m.name != "dense")]
    candidates = []
    for method in methods:
        reason = method.refusal(backbone)
        if reason:
            candidates.append(_Candidate(method, None, status="skipped", notes=[reason]))
            watch.say(f"{method.label} skips {name}: {reason}.")
            continue
        torch.manual_seed(plan.seed)
        candidates.append(_Candidate(method, Model(backbone, method).to(plan.device).eval()))
    batches = plan.batches or [_largest(plan, backbone, watch)]
    loader = None
    if images is not None and weights.kind != "random":
        loader = data.loader(images, backbone.config, max(batches), plan.workers, plan.limit)
    return _Group(backbone, weights, loader, candidates, batches)


def _largest(plan: Plan, backbone: Backbone, watch: Watch) -> int:
    """The largest batch, halving from `AUTO_BATCH`, at which the dense model runs."""
    batch = AUTO_BATCH
    while batch > 1:
        try:
            memory.peak(backbone.vit, random_images(backbone, batch, plan.seed).to(plan.device), plan.precision)
            break
        except OutOfMemory:
            watch.say(f"Batch {batch} does not fit; trying {batch // 2}.")
            batch //= 2
    return batch


def _count(plan: Plan, group: _Group, watch: Watch) -> None:
    """GMACs, parameters, tokens and why there will be no accuracy."""
    images = random_images(group.backbone, 1, plan.seed).to(plan.device)
    watch.stretch(f"{group.backbone.name}: counting", len(group.candidates))
    for done, candidate in enumerate(group.candidates, 1):
        if candidate.model is not None:
            with _failing(candidate):
                counted = flops.count(candidate.model, images)
                left = tokens.per_block(candidate.model, [images])
                candidate.metrics |= {
                    "gmacs": counted.gmacs,
                    "gmacs_fvcore": counted.fvcore_gmacs,
                    "gmacs_by_block": list(counted.by_block),
                    "gmacs_by_part": dict(counted.by_part),
                    "params_m": memory.parameters(candidate.model) / 1e6,
                    "tokens_mean": None if left is None else list(left.mean),
                    "tokens_std": None if left is None else list(left.std),
                }
            if candidate.status == "ok":
                why = _no_accuracy(group, candidate.method)
                candidate.notes += [why] if why else []
        watch.step(done)


def _no_accuracy(group: _Group, method: Method) -> str | None:
    if group.weights.kind == "random":
        return "random weights, so no accuracy"
    if method.trained:
        return "needs its own training, so no accuracy"
    if group.loader is None:
        return "no --data-dir, so no accuracy"
    return None


def _sharing(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Groups with data, those that see the same pixels together."""
    shared: dict[Any, list[_Group]] = {}
    for group in groups:
        if group.loader is not None:
            shared.setdefault(data.transform_key(group.backbone.config), []).append(group)
    return list(shared.values())


def _accuracy(plan: Plan, groups: Sequence[_Group], results: Results, env: dict[str, Any], watch: Watch) -> None:
    """One pass over the data for all settings of all these backbones."""
    models = {
        f"{group.backbone.name}/{candidate.method.label}": (group, candidate, model)
        for group in groups
        for candidate, model in group.live()
        if _no_accuracy(group, candidate.method) is None
    }
    loader = groups[0].loader
    if not models or loader is None:
        return
    watch.stretch(f"{', '.join(g.backbone.name for g in groups)}: accuracy on {loader.total} images", loader.total)
    found = accuracy.predict(
        {key: model for key, (_, _, model) in models.items()}, loader, plan.device, plan.precision, watch.step
    )
    if loader.skipped:
        first, why = loader.skipped[0]
        watch.say(
            f"{len(loader.skipped)} of {loader.total} images could not be read and were left out; {first}: {why}."
        )
    for key, (group, candidate, _) in models.items():
        own, dense = found[key], found[f"{group.backbone.name}/dense"]
        low, high = accuracy.bootstrap(own, seed=plan.seed)
        candidate.metrics |= {
            "top1": own.top1,
            "top5": own.top5,
            "top1_low": low,
            "top1_high": high,
            "images": len(own.target),
            "skipped": len(loader.skipped),
        }
        if candidate.method.name != "dense":
            low, high = accuracy.bootstrap(own, dense, seed=plan.seed)
            candidate.metrics |= {
                "agreement": own.agreement(dense),
                "diff_dense": own.top1 - dense.top1,
                "diff_dense_low": low,
                "diff_dense_high": high,
                "p_value": accuracy.mcnemar(own, dense),
            }
        for row in _rows(plan, group, env, candidate):
            own.save(results.predictions(row.id))


def _speed(plan: Plan, group: _Group, env: dict[str, Any], results: Results, watch: Watch) -> list[Row]:
    """Speed and memory at every batch size; writes the rows of each as soon as it is measured."""
    written: list[Row] = []
    for batch in group.batches:
        images = random_images(group.backbone, batch, plan.seed).to(plan.device)
        fits = {}
        watch.stretch(f"{group.backbone.name}: memory at batch {batch}", len(group.candidates))
        for done, (candidate, model) in enumerate(group.live(), 1):
            watch.step(done)
            try:
                peak = memory.peak(model, images, plan.precision)
                share = speed.reduction_share(model, images, plan.precision, runs=3, warmup=1)
                candidate.metrics |= {"peak_memory_mb": peak / 2**20, "reduction_share": share}
                fits[candidate.method.label] = (candidate, model)
            except OutOfMemory as error:
                written.append(_write(plan, group, env, results, candidate, batch, "oom", str(error)))
        if fits:
            watch.stretch(f"{group.backbone.name}: speed at batch {batch}", plan.rounds)
            timed = _timed(plan, {label: model for label, (_, model) in fits.items()}, images, watch)
            for label, (candidate, _) in fits.items():
                candidate.metrics |= timed[label]
                written.append(_write(plan, group, env, results, candidate, batch))
        for candidate in group.candidates:
            if candidate.model is None:
                written.append(_write(plan, group, env, results, candidate, batch))
    return written


def _timed(plan: Plan, models: dict[str, Model], images: Tensor, watch: Watch) -> dict[str, dict[str, Any]]:
    measured = speed.measure(
        models,
        images,
        precision=plan.precision,
        compile=plan.compile,
        min_rounds=plan.rounds,
        max_rounds=plan.rounds,
        warmup=2,
        progress=watch.step,
    )
    return {
        label: {
            "images_per_s": s.images_per_s,
            "latency_p10": s.latency_p10_ms,
            "latency_p50": s.latency_p50_ms,
            "latency_p90": s.latency_p90_ms,
            "spread": s.spread,
            "runs": s.runs,
            "speedup": s.speedup,
            "speedup_low": s.speedup_low,
            "speedup_high": s.speedup_high,
        }
        for label, s in measured.items()
    }


def _rows(plan: Plan, group: _Group, env: dict[str, Any], only: _Candidate | None = None) -> list[Row]:
    """The rows of a group, or of one of its settings, as they stand."""
    candidates = group.candidates if only is None else [only]
    return [_row(plan, group, env, c, batch) for batch in group.batches for c in candidates]


def _row(plan: Plan, group: _Group, env: dict[str, Any], candidate: _Candidate, batch: int) -> Row:
    loader, weights, method = group.loader, group.weights, candidate.method
    return Row(
        method=method.name,
        setting=method.model_dump(mode="json"),
        label=method.label,
        backbone=group.backbone.name,
        weights={"kind": weights.kind, "name": weights.name, "hash": weights.hash},
        dataset=loader.name if loader else None,
        split=loader.split if loader else None,
        sample_hash=loader.sample_hash if loader else None,
        image_size=list(group.backbone.input_size[1:]),
        device=str(plan.device),
        hardware=env["hardware"],
        precision=plan.precision,
        batch=batch,
        compile=plan.compile,
        seed=plan.seed,
        version=__version__,
        env=env,
        status=candidate.status,
        reason="; ".join(candidate.notes) or None,
        **candidate.metrics,
    )


def _write(
    plan: Plan,
    group: _Group,
    env: dict[str, Any],
    results: Results,
    candidate: _Candidate,
    batch: int,
    status: str | None = None,
    reason: str | None = None,
) -> Row:
    row = _row(plan, group, env, candidate, batch)
    if status is not None:
        row = row.model_copy(update={"status": status, "reason": reason})
    results.append(row)
    return row


@contextmanager
def _failing(candidate: _Candidate) -> Iterator[None]:
    """A setting that fails becomes a failed row; the rest goes on."""
    try:
        yield
    except OutOfMemory as error:
        candidate.stop("oom", str(error))
    except (TokenbenchError, RuntimeError) as error:
        candidate.stop("failed", f"{type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def _kept_if_interrupted(plan: Plan, groups: list[_Group], env: dict[str, Any], results: Results) -> Iterator[None]:
    """On the way out by an error or Ctrl-C, write what was measured of the settings that have no row yet."""
    try:
        yield
    except BaseException as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        for group in groups:
            for candidate in group.candidates:
                if candidate.metrics and candidate.status == "ok":
                    for batch in group.batches:
                        _write(plan, group, env, results, candidate, batch, "failed", f"{why} before it was finished")
        raise
