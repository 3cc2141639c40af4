"""Jobs on a Ray cluster, whatever they do: one a share of a node, begun again where its worker dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tokenbench.core.extras import needed
from tokenbench.errors import ResultsError, TokenbenchError, UsageError, first_sentence
from tokenbench.runs import nodes

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


class Lost(Exception):
    """A job whose workers died, as often as it was begun; the message is a clause that says of what."""


class Heard:
    """A watch of a worker, which remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stretch(self, what: str, total: int) -> None:
        """Nobody looks on."""

    def step(self, done: int) -> None:
        """Nobody looks on."""

    def note(self, text: str) -> None:
        """Nobody looks on."""

    def say(self, text: str) -> None:
        """Remembered."""
        self.said.append(text)


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Ray, while the block runs.

    Raises:
        UsageError: Ray is not installed, or no cluster answers.
    """
    ray = needed("ray", "ray", "--engine ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except Exception as error:  # of Ray's client or of gRPC
        raise UsageError(
            f"No Ray cluster can be reached at {address or 'this machine'} ({first_sentence(error)}); start one with "
            "`ray start --head`, or give its --address."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def resources(ray: Any, share: Share) -> dict[str, float]:
    """What each job asks Ray for; raises `UsageError` where no node has so much."""
    every = [node["Resources"] for node in nodes.alive(ray)]
    gpus = share.gpus if share.gpus is not None else float(any(node.get("GPU") for node in every))
    cpus = share.cpus if share.cpus is not None else 1.0 if gpus else min(node.get("CPU", 1.0) for node in every)
    if not any(node.get("GPU", 0.0) >= gpus and node.get("CPU", 0.0) >= cpus for node in every):
        raise UsageError(f"No node of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a job; give it less of them.")
    return {"num_cpus": cpus, "num_gpus": gpus}


def each(
    ray: Any,
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    share: dict[str, float],
    say: Callable[[str], None],
) -> Iterator[tuple[int, Any]]:
    """The places of jobs as they end, with what `work` made of their arguments, or the error that ended them.

    Ray itself retries nothing, for it would begin a job that runs out of memory again without end.

    Args:
        ray: as `connected` gives it.
        work: a function that the nodes can import.
        jobs: the arguments of each.
        share: as `resources` gives it.
        say: is told of workers that died.
    """
    remote = ray.remote(work).options(max_retries=0, **share)
    running = {remote.remote(*arguments): place for place, arguments in enumerate(jobs)}
    begun = [1] * len(jobs)
    while running:
        ended, _ = ray.wait(list(running), num_returns=1, timeout=POLL)
        for one in ended:
            place = running.pop(one)
            try:
                found = ray.get(one)
            except ray.exceptions.RayTaskError as error:
                found = _told(error)
            except ray.exceptions.RayError as error:
                why = first_sentence(error)
                if begun[place] <= RETRIES:
                    say(f"Job {place + 1} of {len(jobs)} is begun again: its worker died ({why}).")
                    begun[place] += 1
                    running[remote.remote(*jobs[place])] = place
                    continue
                found = Lost(why)
            yield place, found


def _told(error: Any) -> TokenbenchError:
    """An error of a job: ours as it is."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, TokenbenchError):
        return cause
    return ResultsError(f"A job failed on its node: {first_sentence(cause or error)}.")
