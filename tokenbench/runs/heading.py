"""Heads of a task's own on the models of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from torch import nn

from tokenbench.core.words import counted
from tokenbench.errors import WeightsError
from tokenbench.tasks.base import Task
from tokenbench.weights import sources

CLASSES = 80  # of a head that nothing says the classes of: COCO's


def making(
    task: Task, given: sources.Sources, name: str, data: Sequence[str] | None
) -> Callable[[nn.Module], nn.Module]:
    """What puts the task's head on a model, for the classes of its weights, or of the data where they say nothing.

    Raises:
        WeightsError: weights and data have other classes.
    """
    trained, count = (given.class_names(name), given.classes(name)) if given.own else (None, None)
    if task.has_head and count and data and not trained and count != len(data):
        has = counted(count, "class", "classes")
        raise WeightsError(f"The weights are of {has}, and the data has {len(data)}; give others.")
    if task.has_head and trained and data and tuple(trained) != tuple(data):
        pairs = enumerate(zip_longest(trained, data, fillvalue="missing"))
        place, (there, here) = next((at, pair) for at, pair in pairs if pair[0] != pair[1])
        raise WeightsError(
            f"The weights are of {counted(len(trained), 'class', 'classes')} and the data of {len(data)}: "
            f"class {place} is {there} there and {here} here; give weights that were trained on these, in their order."
        )
    classes = len(trained or ()) or count or len(data or ()) or CLASSES
    return lambda model: task.model(model, classes)
