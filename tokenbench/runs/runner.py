"""The run: what is not done yet is measured in one go, one row a setting and batch size.

Three passes: count (`counting`: each model alone), score (`scoring`: all models that share pixels, one pass over the
data), speed (`timing`: all settings of a backbone interleaved with its dense model); what is to run in another runtime
is exported before the second (`runtime`). What each finds is on disk as soon as it ends, and what lies between about
every second (`unfinished`), so a killed run goes on where it was. Several processes share the jobs of one file
(`claims`). Knows no screen: progress goes to a `Watch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from filelock import Timeout

from tokenbench.core import processes
from tokenbench.runs import environment, metering, runtime, spread, unfinished
from tokenbench.runs.candidates import Group, prepare
from tokenbench.runs.claims import Claims
from tokenbench.runs.counting import count
from tokenbench.runs.jobs import Jobs
from tokenbench.runs.plan import Plan
from tokenbench.runs.results import Results, load
from tokenbench.runs.row import Row
from tokenbench.runs.scoring import score, sharing
from tokenbench.runs.spread import Pool
from tokenbench.runs.timing import time
from tokenbench.runs.unfinished import Rounds
from tokenbench.runs.watch import Watch

__all__ = ["Plan", "Watch", "run"]


def run(plan: Plan, results: Results, watch: Watch, again: bool = True) -> list[Row]:
    """As `_run`; of the processes that `torchrun` started, the first leads and the others score with it.

    Args:
        plan: what to run.
        results: where rows are written, and found again.
        watch: who is told.
        again: whether it is worth saying how much of it was done before.

    Returns:
        The rows; none where another process leads.
    """
    runtime.check(plan)
    metering.check(plan)
    with processes.joined(plan.device, waiting=True) as here:
        if here.count == 1:
            return _run(plan, results, watch, again)
        if here.leads:
            with spread.leading(here) as pool:
                return _run(plan, results, watch, again, pool)
        spread.serve(prepare(plan, environment.describe(plan.device), lambda text: None), here)
        return []


def _run(plan: Plan, results: Results, watch: Watch, again: bool, pool: Pool | None = None) -> list[Row]:
    """Measure what has no ok row yet, its dense model beside it, and return the rows of this plan, old and new.

    A failure becomes a row and the rest goes on. What was measured before an interruption is kept, as rows of status
    `failed` that the same plan goes on from. Run by several processes at once, each job is measured by one of them.

    Raises:
        TokenbenchError: the plan cannot be run at all: unknown backbone, unusable data, weights that do not fit.
    """
    size = results.path.stat().st_size if results.path.is_file() else 0
    known, problems = load(results.path if size else ())
    for problem in problems:
        watch.say(f"Left out {problem}.")
    groups = prepare(plan, environment.describe(plan.device), watch.say)
    if pool is not None:
        pool.know(groups)
    results.check()
    with Claims(results.path) as claims:
        jobs = Jobs(groups, results, claims, watch)
        jobs.know(known, size)
        jobs.tell_done(again)
        while jobs.take():
            with jobs.kept_if_stopped():
                _measure(groups, jobs, results, claims, watch, pool)
        return jobs.rows()


def _measure(
    groups: Sequence[Group], jobs: Jobs, results: Results, claims: Claims, watch: Watch, pool: Pool | None
) -> None:
    """All that this process has claimed."""
    for group in groups:
        count(group, jobs.note, watch)
        runtime.export(group, watch)
    jobs.share()
    for shared in sharing(groups):
        score(shared, results, jobs.note, watch, pool)
    env, plan = groups[0].env, groups[0].plan
    rounds = Rounds(unfinished.folder(results.path), unfinished.same(env), env.get("session"))
    for group in groups:
        for batch in group.batches:
            jobs.share()
            trials = jobs.at(group, batch)
            if plan.timed and any(trial.written for trial in trials):
                with _alone(plan, claims, watch):
                    time(group, trials, batch, rounds, jobs.note, watch)
            for trial in trials:
                trial.notes += [] if plan.timed else ["speed is not measured, its device had other jobs"]
                jobs.write(group, trial)
            for candidate in group.candidates:
                candidate.done(batch)


@contextmanager
def _alone(plan: Plan, claims: Claims, watch: Watch) -> Iterator[None]:
    """No other process times models on this device meanwhile."""
    lock = claims.lock(f"timing-{environment.place(plan.device)}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        watch.say("Another process times models on this device; waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
