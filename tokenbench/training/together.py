"""Runs that share what they see: each batch is decoded once, and every model learns from it.

So methods are compared on the same images in the same order with the same augmentation, and a sweep of many small
models is not held up by its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from tokenbench.core.processes import Processes, joined
from tokenbench.errors import TokenbenchError
from tokenbench.measure.allocator import keep_freed
from tokenbench.measure.running import evaluating
from tokenbench.training import log
from tokenbench.training.job import RESULT, Job
from tokenbench.training.loop import Run, Scored, Trained, Watch, prepare
from tokenbench.training.telling import Once

EVAL_BATCH = 256


def train(job: Job, watch: Watch) -> Trained:
    """Train by the recipe, from the last checkpoint in `job.output` if there is one; call it in every process.

    Writes `last.safetensors` (to go on from), `model.safetensors` (the result, settings in its header), `log.jsonl`,
    `log.csv` and `curve.png` to `job.output`. What is finished is not done again.

    Raises:
        TokenbenchError: data, weights, teacher or recipe do not fit; a folder of another run, or one that another
            run writes into; a loss that is no number.
    """
    with joined(job.device) as processes:
        (found,) = _together([job], watch, processes, strict=True)
    assert isinstance(found, Trained)
    return found


def train_all(jobs: Sequence[Job], watch: Watch, together: int = 1) -> Iterator[tuple[Job, Trained | TokenbenchError]]:
    """Train many jobs, up to `together` at once on the same batches; call it in every process.

    Only jobs that see the same images in the same order go together, and none before its teacher. What is finished is
    not done again. What fails stops neither the others nor the sweep, unless many processes train: they wait for each
    other.
    """
    once = Once(watch)
    with joined(jobs[0].device) as processes:
        for group in chain(*waves(jobs, together)):
            yield from zip(group, _together(group, once, processes, strict=processes.count > 1), strict=True)


def waves(jobs: Sequence[Job], together: int) -> tuple[list[list[Job]], list[list[Job]]]:
    """Groups that share their batches, in the order given: first those that wait for no other job, then those that the
    result of another teaches.
    """
    results = {job.output / RESULT for job in jobs}
    made: dict[tuple[bool, str], list[list[Job]]] = {}
    for job in jobs:
        waits = job.taught and Path(job.teacher) in results
        alike = made.setdefault((waits, job.sees), [[]])
        if len(alike[-1]) == together:
            alike.append([])
        alike[-1].append(job)
    first, then = (
        [group for key, found in made.items() if key[0] is waits for group in found] for waits in (False, True)
    )
    return first, then


def _together(jobs: Sequence[Job], watch: Watch, processes: Processes, strict: bool) -> list[Trained | TokenbenchError]:
    """What each job came to, in order."""
    with ExitStack() as held:
        group = _Group(jobs, watch, processes, strict, held)
        group.train()
    return [group.found[place] for place in range(len(jobs))]


class _Group:
    """Jobs on their way, all on the same batches. `strict`: the first error ends it."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, processes: Processes, strict: bool, held: ExitStack) -> None:
        self.watch, self.processes, self.strict = watch, processes, strict
        self.runs: dict[int, Run] = {}  # those that still learn, by the place of their job
        self.found: dict[int, Trained | TokenbenchError] = {}
        for place, job in enumerate(jobs):
            with self._failing(place):
                run = prepare(job, watch, processes, held)
                done = run.finished()
                if not processes.agree(done is None):
                    done = None
                if done is None:
                    run.begin()
                    self.runs[place] = run
                else:
                    self.found[place] = done

    def train(self) -> None:
        """To the end of all of them."""
        try:
            if self.runs:
                self._updates(next(iter(self.runs.values())), min(run.done for run in self.runs.values()))
            for place, scored in self._evaluate(list(self.runs)).items():
                with self._failing(place):
                    self.found[place] = self.runs[place].finish(scored)
        except TokenbenchError as error:  # of the images, which all need
            if self.strict:
                raise
            self.found |= dict.fromkeys(self.runs.keys() - self.found.keys(), error)

    def _updates(self, first: Run, start: int) -> None:
        every, total, stream = max(1, round(first.job.evaluate_every * first.stream.updates)), first.total, first.stream
        if self.processes.leads:
            what = first.method.label if len(self.runs) == 1 else f"{len(self.runs)} runs with seed {first.job.seed}"
            self.watch.stretch(f"{what} on {first.job.backbone}", total)
            self.watch.step(start)
        keep_freed()  # on a CPU updates take 5 % less for it
        batches, device = stream.start(start), torch.device(self.processes.device)
        for update in range(start, total):
            passes = [tuple(x.to(device, non_blocking=True) for x in next(batches)) for _ in range(stream.passes)]
            now, rows = update + 1, dict[int, dict[str, Any] | None]()
            scoring = now % every == 0 and now < total
            for place, run in list(self.runs.items()):
                if update >= run.done:
                    with self._failing(place):
                        run.update(update, passes)  # type: ignore[arg-type]
                        rows[place] = run.tell(now, scoring)
            if scoring or now == total:
                for run in self.runs.values():
                    run.unreadable.training(stream)
            if scoring:
                for place, scored in self._evaluate(list(rows)).items():
                    main = self.runs[place].main.name
                    rows[place] = {**(rows[place] or {}), main: scored.scores.get(main)}
            for place, row in rows.items():
                if row is not None and place in self.runs:
                    with self._failing(place):
                        self._keep(self.runs[place], now, row)
            if self.processes.leads:
                self.watch.step(now)
            if not self.runs:
                break

    def _keep(self, run: Run, now: int, row: dict[str, Any]) -> None:
        run.keep(now, row)
        if self.processes.leads:
            told = log.line(row, run.main, run.job.task.items)
            self.watch.note(told if len(self.runs) == 1 else f"{run.method.label}: {told}")

    def _evaluate(self, places: Sequence[int]) -> dict[int, Scored]:
        """Scores of these runs in one pass over what is held out; every process makes the same."""
        runs = {place: self.runs[place] for place in places if place in self.runs}
        if not runs:
            return {}
        first = next(iter(runs.values()))
        task, models = first.job.task, {place: run.candidate() for place, run in runs.items()}
        loader: Any = task.loader(first.held_out, first.backbone, task.batch or EVAL_BATCH, first.job.workers, None)
        answers: dict[int, list[Any]] = {place: [] for place in runs}
        targets: list[Any] = []
        with evaluating(*models.values()):
            for images, target in loader:
                images = images.to(self.processes.device, non_blocking=True)
                targets.append(target)
                for place, run in runs.items():
                    if place in self.runs:
                        with self._failing(place):
                            answer = task.answer(models[place], images, target, run.job.precision, "model")
                            answers[place].append(answer)
        found = {}
        for place in [place for place in runs if place in self.runs]:
            with self._failing(place):
                runs[place].unreadable.held_out(loader)
                found[place] = runs[place].scored(answers[place], targets)
        return found

    @contextmanager
    def _failing(self, place: int) -> Iterator[None]:
        """An error inside ends this run and no other."""
        try:
            yield
        except TokenbenchError as error:
            if self.strict:
                raise
            self.runs.pop(place, None)
            self.found[place] = error
