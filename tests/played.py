"""Ray, played: what a test asks of a cluster is done here. `test_cluster` asks a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tokenbench.runs import remote


class TaskError(Exception):
    """Of the job itself; `cause` is what it raised."""

    cause: BaseException | None = None


class Played(ModuleType):
    """Ray, whose jobs run here once they are waited for, the last first; `breaks` is raised in place of some."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        super().__init__("ray")
        self.began: list[dict[str, Any]] = []
        self.ended = 0
        self.asked: list[dict[str, Any]] = []
        self.breaks: dict[str, Exception] = {}  # by an argument of the job, as text
        self.exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=OSError)
        self._nodes = [
            {"Alive": True, "NodeID": f"id{i}", "NodeManagerAddress": f"10.0.0.{i}", "Resources": {"CPU": 1.0}, **node}
            for i, node in enumerate(nodes)
        ]

    def init(self, **how: Any) -> None:
        self.began.append(how)
        if how["address"] == "nowhere":
            raise ConnectionError("No answer. Read our guide.")

    def shutdown(self) -> None:
        self.ended += 1

    def nodes(self) -> list[dict[str, Any]]:
        return self._nodes

    def put(self, value: Any) -> Any:
        return value

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(**asked: Any) -> Any:
            self.asked.append(asked)
            return SimpleNamespace(remote=lambda *args: partial(function, *args))

        return SimpleNamespace(options=options)

    def wait(self, jobs: Sequence[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert (num_returns, timeout) == (1, remote.POLL)
        return list(jobs[-1:]), list(jobs[:-1])

    def get(self, job: Any, timeout: float | None = None) -> Any:
        which = next((part for part in job.args if str(part) in self.breaks), None)
        if which is not None:
            raise self.breaks[str(which)]
        return job()

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "id0")


def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Two nodes that live, one that is dead and one without a CPU."""
    made = Played(
        {"Resources": {"CPU": 4.0}}, {"Resources": {"CPU": 2.0}}, {"Alive": False}, {"Resources": {"memory": 1.0}}
    )
    strategies: Any = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda id, soft: (id, soft)
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setitem(sys.modules, "ray.util", ModuleType("ray.util"))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return made
