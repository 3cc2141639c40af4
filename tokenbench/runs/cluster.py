"""A sweep on a Ray cluster: each setting is a job on some node, and rows stream into one file here.

A job is a shard, of one setting or a few, that `runner.run` measures beside their dense model, in a file of the
worker's own. What is done already it knows from the rows it is given, so a job that is repeated, since its worker died,
has one row.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, TokenbenchError, UsageError, first_sentence
from tokenbench.runs import nodes, runner
from tokenbench.runs.plan import Plan
from tokenbench.runs.reading import parse
from tokenbench.runs.results import Results, predictions_path
from tokenbench.runs.row import Row, dumps
from tokenbench.runs.watch import Watch
from tokenbench.shipping.extras import needed
from tokenbench.tasks import load_plugin

RETRIES = 3  # of a job whose worker or node died
POLL = 1.0  # seconds


@dataclass(frozen=True)
class Share:
    """What of a node each job gets; what is None follows from the cluster: a GPU, or the CPUs of the smallest node.
    And how many settings are a job: they share one pass over the data.
    """

    cpus: float | None = None
    gpus: float | None = None
    settings: int = 1


@dataclass(frozen=True)
class Measured:
    """What a worker sends: rows as lines of JSON, predictions by id, and what it said."""

    rows: tuple[str, ...]
    predictions: dict[str, bytes]
    said: tuple[str, ...]


class _Heard:
    """A watch of a worker."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stretch(self, what: str, total: int) -> None:
        """Nobody looks on."""

    def step(self, done: int) -> None:
        """Nobody looks on."""

    def say(self, text: str) -> None:
        """Remembered."""
        self.said.append(text)


def run(
    make: Callable[[], Plan],
    plan: Plan,
    results: Results,
    watch: Watch,
    address: str | None = None,
    share: Share | None = None,
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
    ray = needed("ray", "ray", "--engine ray")
    results.check()
    share = share or Share()
    with _connected(ray, address):
        nodes.check(ray, plan, plugins)
        resources = _resources(ray, share)
        known = ray.put(results.path.read_bytes())
        before = {(row.id, row.time) for row in results.rows()}
        job = ray.remote(measure).options(max_retries=RETRIES, **resources)
        count = -(-plan.settings // share.settings)
        running = {job.remote(make, tuple(plugins), (i, count), known, resources): i for i in range(1, count + 1)}
        watch.stretch(f"{count} jobs on {len(nodes.alive(ray))} nodes", count)
        rows: list[Row] = []
        lost: list[str] = []
        while running:
            ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
            for one in ended:
                which = running.pop(one)
                try:
                    found: Measured = ray.get(one)
                except ray.exceptions.RayTaskError as error:
                    raise _told(error) from None
                except ray.exceptions.RayError as error:
                    lost.append(f"{which}/{count} ({first_sentence(error)})")
                    continue
                rows += _keep(found, results, before)
                for text in found.said:
                    watch.say(text)
                watch.step(count - len(running))
    if lost:
        raise ResultsError(
            f"{len(lost)} of {count} jobs were lost with their workers {RETRIES + 1} times over, first {lost[0]}; the "
            "rows of the others are kept, and the same command goes on from there."
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
    heard = _Heard()
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


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # of Ray's client or of gRPC
        raise UsageError(
            f"No Ray cluster can be reached at {address or 'this machine'} ({first_sentence(error)}); start one with "
            "`ray start --head`, or give its --address."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _resources(ray: Any, share: Share) -> dict[str, float]:
    """What each job asks Ray for; raises `UsageError` where no node has so much."""
    every = [node["Resources"] for node in nodes.alive(ray)]
    gpus = share.gpus if share.gpus is not None else float(any(node.get("GPU") for node in every))
    cpus = share.cpus if share.cpus is not None else 1.0 if gpus else min(node.get("CPU", 1.0) for node in every)
    if not any(node.get("GPU", 0.0) >= gpus and node.get("CPU", 0.0) >= cpus for node in every):
        raise UsageError(f"No node of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a job; give it less of them.")
    return {"num_cpus": cpus, "num_gpus": gpus}


def _told(error: Any) -> TokenbenchError:
    """An error of a job: ours as it is."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, TokenbenchError):
        return cause
    return ResultsError(f"A job failed on its node: {first_sentence(cause or error)}.")
