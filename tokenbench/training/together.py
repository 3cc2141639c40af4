"""Runs that share what they see: each batch is decoded once, and every model learns from it.

So methods are compared on the same images in the same order with the same augmentation, and a sweep of many small
models is not held up by its images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tokenbench import data
from tokenbench.errors import TokenbenchError
from tokenbench.measure import accuracy
from tokenbench.training.loop import RESULT, Job, Run, Trained, Watch, line, prepare
from tokenbench.training.processes import Processes, joined

EVAL_BATCH = 256


def train(job: Job, watch: Watch) -> Trained:
    """Train by the recipe, from the last checkpoint in `job.output` if there is one; call it in every process.

    Writes `last.safetensors` (to go on from), `model.safetensors` (the result, settings in its header), `log.jsonl`,
    `log.csv` and `curve.png` to `job.output`.

    Raises:
        TokenbenchError: data, weights, teacher or recipe do not fit; a folder of another run; a loss that is no number.
    """
    with joined(job.device) as processes:
        (found,) = _Group([job], watch, processes, strict=True).train()
    assert isinstance(found, Trained)
    return found


def train_all(jobs: Sequence[Job], watch: Watch, together: int = 1) -> Iterator[tuple[Job, Trained | TokenbenchError]]:
    """Train many jobs, up to `together` at once on the same batches; call it in every process.

    Only jobs that see the same images in the same order go together, and none before its teacher. What is finished is
    not done again. What fails stops neither the others nor the sweep, unless many processes train: they wait for each
    other.
    """
    with joined(jobs[0].device) as processes:
        for group in _groups(jobs, together):
            yield from zip(group, _Group(group, watch, processes, strict=processes.count > 1).train(), strict=True)


def _groups(jobs: Sequence[Job], together: int) -> list[list[Job]]:
    """In the order given, but a job that the result of another teaches comes after all that have no such teacher."""
    results = {job.output / RESULT for job in jobs}
    made: dict[tuple[object, ...], list[list[Job]]] = {}
    for job in jobs:
        waits = job.recipe.teacher != "none" and Path(job.teacher) in results
        alike = made.setdefault((waits, *job.sees), [[]])
        if len(alike[-1]) == together:
            alike.append([])
        alike[-1].append(job)
    return [group for waits in (False, True) for key, found in made.items() if key[0] is waits for group in found]


class _Group:
    """Jobs on their way, all on the same batches. `strict`: the first error ends it."""

    def __init__(self, jobs: Sequence[Job], watch: Watch, processes: Processes, strict: bool) -> None:
        self.watch, self.processes, self.strict = watch, processes, strict
        self.runs: dict[int, Run] = {}  # those that still learn, by the place of their job
        self.found: dict[int, Trained | TokenbenchError] = {}
        for place, job in enumerate(jobs):
            with self._failing(place):
                run = prepare(job, watch, processes)
                done = run.finished()
                if done is None:
                    run.begin()
                    self.runs[place] = run
                else:
                    self.found[place] = done

    def train(self) -> list[Trained | TokenbenchError]:
        """What each job came to, in order."""
        if self.runs:
            self._updates(next(iter(self.runs.values())), min(run.done for run in self.runs.values()))
            for place, predictions in self._evaluate(dict(self.runs)).items():
                with self._failing(place):
                    self.found[place] = self.runs[place].finish(predictions)
        return [self.found[place] for place in sorted(self.found)]

    def _updates(self, first: Run, start: int) -> None:
        every, total = max(1, round(first.job.evaluate_every * first.stream.updates)), first.total
        if self.processes.leads:
            what = first.method.label if len(self.runs) == 1 else f"{len(self.runs)} runs with seed {first.job.seed}"
            self.watch.stretch(f"{what} on {first.job.backbone}", total)
            self.watch.step(start)
        batches, device = first.stream.start(start), torch.device(self.processes.device)
        for update in range(start, total):
            passes = [tuple(x.to(device, non_blocking=True) for x in next(batches)) for _ in range(first.stream.passes)]
            now, rows = update + 1, dict[int, dict[str, Any] | None]()
            evaluating = now % every == 0 and now < total
            for place, run in list(self.runs.items()):
                if update >= run.done:
                    with self._failing(place):
                        run.update(update, passes)
                        rows[place] = run.tell(now, evaluating)
            if evaluating:
                for place, found in self._evaluate({place: self.runs[place] for place in rows}).items():
                    rows[place] = {**(rows[place] or {}), "top1": found.top1}
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
            self.watch.note(line(row) if len(self.runs) == 1 else f"{run.method.label}: {line(row)}")

    def _evaluate(self, runs: dict[int, Run]) -> dict[int, accuracy.Predictions]:
        """Predictions on the held-out images in one pass; every process makes the same."""
        if not runs:
            return {}
        first = next(iter(runs.values()))
        loader = data.loader(first.held_out, first.task.model.backbone.config, EVAL_BATCH, first.job.workers)
        models = {str(place): run.candidate() for place, run in runs.items()}
        try:
            found = accuracy.predict(models, loader, self.processes.device, first.job.precision)
            return {int(place): predictions for place, predictions in found.items()}
        except TokenbenchError:
            if len(runs) == 1:
                (place,) = runs
                with self._failing(place):
                    raise
                return {}
            return {p: one for place, run in runs.items() for p, one in self._evaluate({place: run}).items()}

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
