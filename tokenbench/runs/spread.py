"""A pass over the data by one process, or by all that `torchrun` started: the answers are the same, bit for bit.

Of N processes each takes every N-th batch, of the images that this batch has with one process; the first process
leads, and puts what all say back into order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor

from tokenbench.core.processes import Processes
from tokenbench.errors import DataError, UsageError, first_line
from tokenbench.measure.running import evaluating
from tokenbench.runs.candidates import Candidate, Group
from tokenbench.tasks.base import Loader

Asked = Sequence[tuple[Group, Candidate]]


@dataclass(frozen=True)
class Said:
    """What is said of one batch: items of the pass so far, right answers, what was skipped, and each model's answer,
    to be asked for one after the other, since any may fail. The last of a pass has no answers, only what was skipped.
    """

    done: int
    targets: Any
    skipped: Sequence[tuple[str, str]]
    answers: Sequence[Callable[[], Any]]


class Pool:
    """The processes that score together, seen from the one that leads."""

    def __init__(self, here: Processes) -> None:
        self.here = here
        self._groups: Sequence[Group] = ()

    def know(self, groups: Sequence[Group]) -> None:
        """The groups of the plan, which the others have made too."""
        self._groups = groups

    def ask(self, asked: Asked, start: int) -> None:
        """Have the others begin a pass that leaves out so many first items."""
        every = enumerate(self._groups)
        places = {id(candidate): (g, c) for g, group in every for c, candidate in enumerate(group.candidates)}
        _tell(([places[id(candidate)] for _, candidate in asked], start))


@contextmanager
def leading(here: Processes) -> Iterator[Pool]:
    """A pool that lets the others go at the end; after an error torchrun ends them, wherever they are."""
    yield Pool(here)
    _tell(None)


def serve(groups: Sequence[Group], here: Processes) -> None:
    """Score what the leading process asks for, until it lets go."""
    while (order := _tell(None)) is not None:
        places, start = order
        asked = [(groups[g], groups[g].candidates[c]) for g, c in places]
        with evaluating(*(candidate.model for _, candidate in asked if candidate.model is not None)):
            for _ in _rounds(asked, _from(asked, start), here):
                pass


def answers(asked: Asked, loader: Loader, start: int, pool: Pool | None) -> Iterator[Said]:
    """Batch after batch, what models say of the items that a loader brings.

    Args:
        asked: the models.
        loader: the items that are left of a pass.
        start: how many of it are done.
        pool: the processes to do it with; None for this one alone.

    Raises:
        DataError: items cannot be loaded: a worker died or could not start.
        UsageError: the task's data cannot be divided among processes.
    """
    if pool is None:
        yield from _alone(asked, loader, start)
        return
    pool.ask(asked, start)
    done, skipped, told = start, list[tuple[str, str]](), 0
    for round in _rounds(asked, loader, pool.here):
        for batch in round:
            if isinstance(batch, Exception):
                raise batch
            if batch is None:
                continue
            targets, missed, said = batch
            done += len(targets) + len(missed)
            skipped += missed
            if len(targets):
                yield Said(done, targets, skipped[told:], [partial(_given, one) for one in said])
                told = len(skipped)
    if start == 0:
        loader.check(skipped)  # type: ignore[attr-defined]
    yield Said(done, None, skipped[told:], ())


def _alone(asked: Asked, loader: Loader, start: int) -> Iterator[Said]:
    task, device, read, told = asked[0][0].plan.task, asked[0][0].plan.device, 0, 0
    for images, target in _loading(iter(loader), task.items):
        images = images.to(device, non_blocking=True)
        read, skipped, told = read + len(target), loader.skipped[told:], len(loader.skipped)
        yield Said(start + read + told, target, skipped, [partial(_answer, *one, images, target) for one in asked])
    yield Said(start + read + len(loader.skipped), None, loader.skipped[told:], ())


def _answer(group: Group, candidate: Candidate, images: Tensor, target: Any) -> Any:
    assert candidate.model is not None
    plan = group.plan
    return plan.task.answer(candidate.model, images, target, plan.autocast, candidate.method.label)


def _rounds(asked: Asked, loader: Loader, here: Processes) -> Iterator[list[Any]]:
    """A batch of each process at a time, in order, where this one leads; nothing where it does not."""
    if not hasattr(loader, "every"):
        task = asked[0][0].plan.task.name
        raise UsageError(f"--task {task} is scored by one process; start it without torchrun.")
    mine = _mine(asked, loader.every(here.rank, here.count))
    for _ in range(-(-len(loader) // here.count)):  # type: ignore[arg-type]
        found: list[Any] | None = [None] * here.count if here.leads else None
        dist.gather_object(next(mine, None), found)
        yield found or []


def _mine(asked: Asked, loader: Any) -> Iterator[Any]:
    """This process's batches: targets, what was skipped, and answers or the errors in their place; or one error."""
    plan = asked[0][0].plan
    try:
        for images, targets, skipped in _loading(loader.batches(), plan.task.items):
            images = images.to(plan.device, non_blocking=True)
            yield targets, skipped, [_tried(*one, images, targets) if len(targets) else None for one in asked]
    except DataError as error:
        yield error


def _tried(group: Group, candidate: Candidate, images: Tensor, targets: Any) -> Any:
    if candidate.model is None:
        return None
    try:
        return _answer(group, candidate, images, targets)
    except (Exception, SystemExit) as error:  # to be told by the process that leads
        return error.with_traceback(None)


def _given(answer: Any) -> Any:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _loading(batches: Iterator[Any], items: str) -> Iterator[Any]:
    """The batches of one pass; raises `DataError` where a worker died or could not start."""
    try:
        yield from batches
    except (RuntimeError, OSError) as error:
        raise DataError(f"{items.capitalize()} cannot be loaded ({first_line(error)}); try --workers 0.") from None


def _from(asked: Asked, start: int) -> Any:
    loader: Any = asked[0][0].loader
    return loader.after(start) if start else loader


def _tell(order: Any) -> Any:
    """What the leading process has to say, in all processes."""
    box = [order]
    dist.broadcast_object_list(box, src=0)
    return box[0]
