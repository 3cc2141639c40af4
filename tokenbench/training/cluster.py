"""Trainings of a sweep on a Ray cluster, whose nodes share the folder that they write into.

A job is one training, or a few that share their batches. Where its worker or node dies it is begun again on another and
goes on from its last checkpoint, and what is finished is found in its folder: so no training is done twice.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.core.processes import let_go
from tokenbench.core.words import counted
from tokenbench.errors import TokenbenchError, TrainingError
from tokenbench.runs import nodes, remote
from tokenbench.tasks import load_plugin
from tokenbench.training import together
from tokenbench.training.job import Job
from tokenbench.training.loop import Trained, Watch
from tokenbench.training.telling import Once

GONE = 60.0  # seconds that a worker may take to die after its node is taken for dead


@dataclass(frozen=True)
class Learnt:
    """What a worker sends: what its trainings came to, and what it said."""

    found: tuple[Trained | TokenbenchError, ...]
    said: tuple[str, ...]


def train_all(
    make: Callable[[], Sequence[Job]],
    jobs: Sequence[Job],
    watch: Watch,
    output: Path,
    at_once: int = 1,
    address: str | None = None,
    share: remote.Share | None = None,
    plugins: Sequence[Path] = (),
) -> Iterator[tuple[Job, Trained | TokenbenchError]]:
    """As `together.train_all`, on the nodes of a cluster; none before its teacher.

    Args:
        make: makes the jobs on a worker, whose device it finds there.
        jobs: the same jobs here.
        watch: who looks on here.
        output: the folder above those of all jobs.
        at_once: jobs that share their batches in one worker, at the most.
        address: of the cluster; None for one of this machine alone.
        share: what of a node each worker gets.
        plugins: files with methods or tasks, at the same paths on all nodes.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or a node differs from this machine or does not see
            `output`.
    """
    once = Once(watch)
    files = [*nodes.data(jobs[0].data_dir), *plugins]
    files += [Path(name) for name in (jobs[0].weights, jobs[0].teacher) if Path(name).is_file()]
    with remote.connected(address) as ray:
        with _mark(output) as mark:
            nodes.check(ray, files, shared=mark)
        resources = remote.resources(ray, share or remote.Share())
        once.stretch(f"{counted(len(jobs), 'training')} on {counted(len(nodes.alive(ray)), 'node')}", len(jobs))
        places, done = {job.output: place for place, job in enumerate(jobs)}, 0
        for groups in together.waves(jobs, at_once):
            asked = [(make, tuple(plugins), [places[job.output] for job in group]) for group in groups]
            for which, found in remote.each(ray, learn, asked, resources, once.say):
                for text in getattr(found, "said", ()):
                    once.say(text)
                done += len(groups[which])
                once.step(done)
                yield from zip(groups[which], _outcomes(found, len(groups[which])), strict=True)


def learn(make: Callable[[], Sequence[Job]], plugins: Sequence[Path], places: Sequence[int]) -> Learnt:
    """Some of the jobs, on a worker."""
    for path in plugins:
        load_plugin(path)
    jobs, heard = make(), remote.Heard()
    mine = [jobs[place] for place in places]
    for job in mine:
        let_go(job.output, GONE)
    found = {job.output: result for job, result in together.train_all(mine, heard, len(mine))}
    return Learnt(tuple(found[job.output] for job in mine), tuple(heard.said))


def _outcomes(found: Any, count: int) -> Sequence[Trained | TokenbenchError]:
    """What each job of a worker came to."""
    if isinstance(found, Learnt):
        return found.found
    if isinstance(found, TokenbenchError):
        return [found] * count
    lost = f"Its workers died {remote.RETRIES + 1} times over ({found})"
    return [TrainingError(f"{lost}; the same command goes on from its last checkpoint.")] * count


@contextmanager
def _mark(output: Path) -> Iterator[Path]:
    """A file below the output, by which nodes tell that they see the same."""
    mark = output / f".seen-{os.getpid()}"
    atomic.write(mark, "", TrainingError, "give another --output")
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)
