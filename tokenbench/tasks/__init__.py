"""The registry of tasks: every module here that holds a Task with a name, and those of plug-in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenbench.core import registry
from tokenbench.core.settings import make, written
from tokenbench.errors import UnknownName, UsageError
from tokenbench.tasks.base import PAIRED, Metric, Task

_registry: dict[str, type[Task]] = {}


def all_tasks() -> dict[str, type[Task]]:
    """Every task by name: classification first, then in order of name."""
    if "classification" not in _registry:
        registry.walk(_registry, __name__, __path__, Task)
        for module in registry.installed(__name__):
            for name in registry.register(_registry, module, Task):
                _check_metrics(_registry[name], str(module.__file__))
    return registry.in_order(_registry, "classification")


def get(name: str) -> type[Task]:
    """The task of that name; raises `UnknownName` with the nearest one."""
    tasks = all_tasks()
    if name not in tasks:
        raise UnknownName("task", name, tasks, "`tokenbench list --tasks`")
    return tasks[name]


def parse(text: str) -> Task:
    """A task as it is written: `classification`, or with knobs in brackets, as a method's."""
    chosen = list(written(text, "Tasks"))
    if len(chosen) != 1:
        raise UsageError(f"--task {text} gives {len(chosen)} settings; run one task at a time.")
    name, knobs = chosen[0]
    return make(get(name), knobs)


def metrics_of(name: str, keys: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of a task, the main one first; of a plug-in's that is not loaded now, as its rows name them."""
    found = all_tasks().get(name)
    if found is not None:
        return found.metrics
    mine = [key for key in keys if key not in PAIRED and not key.endswith(("_low", "_high"))]
    return tuple(Metric(key, key, interval=f"{key}_low" in keys) for key in mine)


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a task's models that are measured apart; none of a task that is not loaded now."""
    found = all_tasks().get(name)
    return () if found is None else found.parts


def known(name: str) -> type[Task]:
    """The task of that name, for what tables call things; the base of all where a plug-in's is not loaded now."""
    return all_tasks().get(name, Task)


def load_plugin(path: str | Path) -> list[str]:
    """Register the methods, tasks and backbone families of a file, which is run, and return their names.

    Raises:
        UsageError: it is no Python file, does not import, has none of these, or a name that is taken.
    """
    from tokenbench import methods
    from tokenbench.backbones import Backbone
    from tokenbench.methods.base import Method

    methods.all_methods()
    all_tasks()
    before = list(Backbone.families)
    module = registry.run_file(path, "Method, Task or Backbone")
    names = registry.register(methods._registry, module, Method)
    tasks = registry.register(_registry, module, Task)
    for name in tasks:
        _check_metrics(_registry[name], path)
    taken = [family.family for family in before if family.__module__ != module.__name__]
    families = [family.family for family in Backbone.families if family not in before]
    for name in families:
        registry.check_name(name, f"Backbone family {name!r} of {path}", taken)
    names += tasks + families
    if not names:
        raise UsageError(
            f"Plug-in '{path}' holds no Method, Task or Backbone with a name; `tokenbench new NAME` writes one."
        )
    return names


def _check_metrics(task: type[Task], path: str | Path) -> None:
    """Raise `UsageError` unless a task says what it measures."""
    found = getattr(task, "metrics", ())
    if not isinstance(found, tuple | list) or not found or not all(isinstance(metric, Metric) for metric in found):
        raise UsageError(f"Task '{task.name}' of {path} has no metrics; give a tuple of Metric, the main one first.")
