"""A sweep on a Ray cluster: each setting is a job on some node, and rows stream into one file here.

A job is a shard, of one setting or a few, that `runner.run` measures beside their dense model, in a file of the
worker's own. What is done already it knows from the rows it is given, so a job that is repeated, since its worker died,
has one row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.core.words import counted
from tokenbench.errors import ResultsError
from tokenbench.runs import nodes, remote, runner
from tokenbench.runs.plan import Plan
from tokenbench.runs.reading import parse
from tokenbench.runs.results import Results, predictions_path
from tokenbench.runs.row import Row, dumps
from tokenbench.runs.watch import Watch
from tokenbench.tasks import load_plugin
from tokenbench.weights.sources import WORDS


@dataclass(frozen=True)
class Measured:
    """What a worker sends: rows as lines of JSON, predictions by id, and what it said."""

    rows: tuple[str, ...]
    predictions: dict[str, bytes]
    said: tuple[str, ...]


def run(
    make: Callable[[], Plan],
    plan: Plan,
    results: Results,
    watch: Watch,
    address: str | None = None,
    share: remote.Share | None = None,
    plugins: Sequence[Path] = (),
) -> list[Row]:
    """As `runner.run`, on the nodes of a cluster; returns the rows of the jobs that came back.

    Args:
        make: makes the plan on a worker, whose device it finds there.
        plan: the same plan here, for what is the same everywhere.
        results: the file, here.
        watch: who looks on here.
        address: of the cluster; None for one of this machine alone.
        share: what of a node each job gets.
        plugins: files with methods or tasks, at the same paths on all nodes.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or a node differs from this machine.
        TokenbenchError: the plan cannot be run at all.
    """
    results.check()
    share = share or remote.Share()
    weights = [] if plan.weights in WORDS else [Path(part.strip()) for part in plan.weights.split(",")]
    with remote.connected(address) as ray:
        nodes.check(ray, [*nodes.data(plan.data_dir), *weights, *plan.exported, *plugins])
        resources = remote.resources(ray, share)
        known = ray.put(results.path.read_bytes())
        before = {(row.id, row.time) for row in results.rows()}
        count = -(-plan.settings // share.settings)
        jobs = [(make, tuple(plugins), (i, count), known, resources) for i in range(1, count + 1)]
        watch.stretch(f"{counted(count, 'job')} on {counted(len(nodes.alive(ray)), 'node')}", count)
        rows: list[Row] = []
        lost: list[str] = []
        for done, (place, found) in enumerate(remote.each(ray, measure, jobs, resources, watch.say), 1):
            if isinstance(found, remote.Lost):
                lost.append(f"{place + 1}/{count} ({found})")
            elif isinstance(found, Exception):
                raise found
            else:
                rows += _keep(found, results, before)
                for text in found.said:
                    watch.say(text)
            watch.step(done)
    if lost:
        raise ResultsError(
            f"{len(lost)} of {count} jobs were lost with their workers {remote.RETRIES + 1} times over, first "
            f"{lost[0]}; the rows of the others are kept, and the same command goes on from there."
        )
    return rows


def measure(
    make: Callable[[], Plan],
    plugins: Sequence[Path],
    shard: tuple[int, int],
    known: bytes,
    resources: dict[str, float],
) -> Measured:
    """One job on a worker."""
    for path in plugins:
        load_plugin(path)
    heard = remote.Heard()
    plan = replace(make(), shard=shard)
    plan = replace(plan, timed=nodes.exclusive(plan.device, resources))
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder) / "results.jsonl")
        results.path.write_bytes(known)
        rows = runner.run(plan, results, heard)
        files = {row.id: predictions_path(results.path, row.id) for row in rows}
        predictions = {id: file.read_bytes() for id, file in files.items() if file.is_file()}
    return Measured(tuple(map(dumps, rows)), predictions, tuple(heard.said))


def _keep(found: Measured, results: Results, before: set[tuple[str, Any]]) -> Iterator[Row]:
    """Put new rows and their predictions into the file here; all rows."""
    for line in found.rows:
        row = parse(line.encode())
        if (row.id, row.time) not in before:
            if row.id in found.predictions:
                atomic.write(results.predictions(row.id), found.predictions[row.id], ResultsError)
            results.append(row)
        yield row
