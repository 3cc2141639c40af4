"""The run: what is not done yet is measured in one go, one row a setting and batch size.

Three passes: count (each model alone), score (all models that share pixels, one pass over the data), speed
(all settings of a backbone interleaved with its dense model). Knows no screen: progress goes to a `Watch`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from torch import Tensor

from tokenbench.data import unreadable
from tokenbench.errors import DataError, ResultsError, first_line
from tokenbench.measure import flops, memory, parts, speed, tokens
from tokenbench.measure.running import evaluating
from tokenbench.runs import environment
from tokenbench.runs.candidates import Candidate, Group, Plan, failing, prepare
from tokenbench.runs.results import Results, load
from tokenbench.runs.row import Row
from tokenbench.tasks.base import Loader

__all__ = ["Plan", "Watch", "run"]

MOST = 10  # times the rounds asked for, where speed-ups are not known well enough before


class Watch(Protocol):
    """Who looks on: told of each stretch of work and what is worth saying."""

    def stretch(self, what: str, total: int) -> None:
        """A stretch of `total` steps begins."""

    def step(self, done: int) -> None:
        """So many steps of it are done."""

    def say(self, text: str) -> None:
        """A sentence for the user."""


def run(plan: Plan, results: Results, watch: Watch) -> list[Row]:
    """Measure what has no ok row yet, its dense model beside it, and return the rows of this plan, old and new.

    A failure becomes a row and the rest goes on. Interrupted, what was measured so far is kept as rows of status
    `failed`, so nothing measured is lost.

    Raises:
        TokenbenchError: the plan cannot be run at all: unknown backbone, unusable data, weights that do not fit.
    """
    known, problems = load(results.path) if results.path.is_file() else ([], [])
    for problem in problems:
        watch.say(f"Left out {problem}.")
    groups = prepare(plan, environment.describe(plan.device), watch.say)
    results.check()
    ids = [group.row(c, batch).id for group in groups for batch in group.batches for c in group.candidates]
    rows = {} if plan.force else {row.id: row for row in known if row.id in ids and row.status in ("ok", "skipped")}
    for group in groups:
        _skip(group, rows, watch)

    def write(group: Group, candidate: Candidate, batch: int) -> None:
        row = group.row(candidate, batch)
        results.append(row)
        rows[row.id] = row

    with _kept_if_interrupted(groups, write):
        for group in groups:
            _count(group, watch)
        for shared in _sharing(groups):
            _score(shared, results, watch)
        for group in groups:
            for batch in group.batches:
                trials = [c.at(batch) for c in group.candidates if batch in c.batches]
                _speed(group, trials, batch, watch)
                for trial in trials:
                    write(group, trial, batch)
                for candidate in group.candidates:
                    candidate.batches = [b for b in candidate.batches if b != batch]
    return [rows[id] for id in ids]


def _skip(group: Group, done: dict[str, Row], watch: Watch) -> None:
    """Leave out what is done; but where anything is measured, dense is measured beside it."""

    def is_done(candidate: Candidate, batch: int) -> bool:
        row = done.get(group.row(candidate, batch).id)
        return row is not None and (row.status == "ok" or candidate.status == "skipped")

    for candidate in group.candidates:
        candidate.batches = [batch for batch in group.batches if not is_done(candidate, batch)]
    dense = group.candidates[0]
    wanted = {*dense.batches, *(batch for candidate, _ in group.live() for batch in candidate.batches)}
    dense.batches = [batch for batch in group.batches if batch in wanted]
    skipped = sum(len(group.batches) - len(candidate.batches) for candidate in group.candidates)
    if skipped:
        total = len(group.batches) * len(group.candidates)
        watch.say(f"{group.backbone.name}: {skipped} of {total} jobs are done already; --force runs them again.")


def _count(group: Group, watch: Watch) -> None:
    """GMACs, parameters, tokens and why nothing will be scored."""
    live = list(group.live())
    if not live:
        return
    images, task = _some_images(group).to(group.plan.device), group.plan.task
    watch.stretch(f"{group.backbone.name}: counting", len(live))
    for done, (candidate, model) in enumerate(live, 1):
        with failing(candidate):
            counted = flops.over(task.counted(model), images)
            left = tokens.per_block(model, images[: flops.PROBED].split(1))  # a batch may not fit
            if left is not None and (counted.images > 1 or any(left.std)):
                left = tokens.per_block(model, images.split(1))
            candidate.measured |= {
                "gmacs": counted.gmacs,
                "gmacs_fvcore": counted.fvcore_gmacs,
                "gmacs_by_block": list(counted.by_block),
                "gmacs_by_part": dict(counted.by_part),
                "params_m": memory.parameters(model) / 1e6,
                "params_by_part": parts.parameters(model),
                "tokens_mean": None if left is None else list(left.mean),
                "tokens_std": None if left is None else list(left.std),
            }
            why = group.no_accuracy(candidate)
            candidate.notes += [*([why] if why else []), *counted.notes]
        watch.step(done)


def _some_images(group: Group) -> Tensor:
    """Images to count on, which matter where counts depend on them; noise where there are none that can be read."""
    with suppress(DataError, RuntimeError, OSError):  # told when the data is passed over
        for images, _ in group.few or ():
            return images
    return group.timed(1)


def _sharing(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups with data, those that see the same pixels together."""
    shared: dict[Any, list[Group]] = {}
    for group in groups:
        if group.loader is not None:
            key = (group.loader.sample_hash, group.plan.task.pixels(group.backbone))
            shared.setdefault(key, []).append(group)
    return list(shared.values())


def _score(groups: Sequence[Group], results: Results, watch: Watch) -> None:
    """One pass over the data for all settings of all these backbones."""
    running = [(g, c, model) for g in groups for c, model in g.live() if g.no_accuracy(c) is None]
    loader, plan = groups[0].loader, groups[0].plan
    if not running or loader is None:
        return
    task = plan.task
    names = ", ".join(group.backbone.name for group in groups)
    watch.stretch(f"{names}: {task.scored} on {loader.total} {task.items}", loader.total)
    answers: list[list[Any]] = [[] for _ in running]
    targets: list[Any] = []
    with evaluating(*(model for _, _, model in running)):
        for images, target in _loading(loader, task.items):
            images = images.to(plan.device, non_blocking=True)
            for (_, candidate, model), kept in zip(running, answers, strict=True):
                if candidate.model is not None:  # it did not fail on a batch before
                    with failing(candidate):
                        kept.append(task.answer(model, images, target, plan.precision, candidate.method.label))
            targets.append(target)
            watch.step(sum(map(len, targets)))
    listed, skipped = unreadable.beside(results.path), dict(loader.skipped)
    unreadable.write(listed, f"{loader.name} {loader.split}", skipped)
    if skipped:
        watch.say(unreadable.told(skipped, loader.total, listed, task.items))
    found = {
        id(candidate): task.gather(kept, targets)
        for (_, candidate, _), kept in zip(running, answers, strict=True)
        if candidate.model is not None
    }
    for group, candidate, _ in running:
        if id(candidate) not in found:
            continue
        own, first = found[id(candidate)], group.candidates[0]
        dense = None if candidate is first else found.get(id(first))  # None too where the dense weights are random
        candidate.scores = dict(task.score(own, dense, plan.seed))
        candidate.measured |= {
            "images": len(own),
            "images_total": loader.available,
            "skipped": len(loader.skipped),
        }
        for batch in candidate.batches:
            path = results.predictions(group.row(candidate, batch).id)
            own.save(path)
            task.export(own, path)


def _loading(loader: Loader, items: str) -> Iterator[tuple[Tensor, Any]]:
    """The batches of one pass; raises `DataError` where a worker died or could not start."""
    try:
        yield from loader
    except (RuntimeError, OSError) as error:
        raise DataError(f"{items.capitalize()} cannot be loaded ({first_line(error)}); try --workers 0.") from None


def _speed(group: Group, trials: Sequence[Candidate], batch: int, watch: Watch) -> None:
    """Memory of each model at this batch size, then the time of all that fit, interleaved."""
    if not trials:
        return
    plan = group.plan
    with failing(*trials):
        images = group.timed(batch)
        watch.stretch(f"{group.backbone.name}: memory at batch {batch}", len(trials))
        for done, trial in enumerate(trials, 1):
            with failing(trial):
                if trial.model is not None:
                    share = speed.reduction_share(trial.model, images, plan.precision, plan.rounds, 1)
                    trial.measured |= {
                        "peak_memory_mb": memory.peak(trial.model, images, plan.precision) / 2**20,
                        "reduction_share": None if share is None else share.median,
                        "ms_by_part": parts.milliseconds(trial.model, images, plan.precision, plan.rounds),
                    }
                    if plan.compile:
                        what = "peak memory" if share is None else "peak memory and the share of selecting"
                        trial.notes.append(f"{what} measured before compiling")
            watch.step(done)
        live = [trial for trial in trials if trial.model is not None]
        if live:
            watch.stretch(f"{group.backbone.name}: speed at batch {batch}", plan.rounds)
            _time(plan, live, images, watch)


def _time(plan: Plan, trials: Sequence[Candidate], images: Tensor, watch: Watch) -> None:
    try:
        measured = _measured(plan, trials, images, watch)
    except Exception:  # of one of them, in compiling most likely: each is timed with dense alone, to find which
        measured = {}
        for trial in trials:
            with failing(trial):
                pair = list(dict.fromkeys(t.method.label for t in (trials[0], trial)))
                chosen = [t for t in trials if t.method.label in pair]
                measured[trial.method.label] = _measured(plan, chosen, images, watch)[trial.method.label]
    for trial in trials:
        if trial.method.label in measured:
            timed = measured[trial.method.label]
            trial.measured |= {
                "images_per_s": timed.images_per_s,
                "latency_p10": timed.latency_p10_ms,
                "latency_p50": timed.latency_p50_ms,
                "latency_p90": timed.latency_p90_ms,
                "spread": timed.spread,
                "noisy": timed.noisy,
                "runs": timed.runs,
                "speedup": timed.speedup,
                "speedup_low": timed.speedup_low,
                "speedup_high": timed.speedup_high,
            }


def _measured(plan: Plan, trials: Sequence[Candidate], images: Tensor, watch: Watch) -> dict[str, speed.Speed]:
    return speed.measure(
        {trial.method.label: trial.model for trial in trials if trial.model is not None},
        images,
        precision=plan.precision,
        compile=plan.compile,
        min_rounds=plan.rounds,
        max_rounds=MOST * plan.rounds,
        warmup=2,
        progress=lambda done: watch.step(min(done, plan.rounds)),
    )


@contextmanager
def _kept_if_interrupted(groups: Sequence[Group], write: Callable[[Group, Candidate, int], None]) -> Iterator[None]:
    """On the way out by an error or Ctrl-C, write what was measured of the settings that have no row yet."""
    try:
        yield
    except BaseException as error:
        why = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
        with suppress(ResultsError):  # the first error is the one to tell
            for group in groups:
                for candidate in group.candidates:
                    if candidate.status == "ok":
                        candidate.stop("failed", f"stopped before it was finished: {why}")
                    for batch in candidate.batches if candidate.measured else ():
                        write(group, candidate, batch)
        raise
