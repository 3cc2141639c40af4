"""The nodes of a Ray cluster: whether each can do what this machine asks, and whether a job has its device alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenbench.data import packs
from tokenbench.errors import UsageError, first_sentence
from tokenbench.runs import environment

SAME = ("tokenbench", "torch", "timm")  # versions that decide numbers
SECONDS = 120.0  # that a node may take to say what it has


def alive(ray: Any) -> list[dict[str, Any]]:
    """Those that jobs can run on."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def data(path: Path | None) -> list[Path]:
    """What of `--data-dir` each node needs."""
    needed = None if path is None else packs.needed(path)
    return [] if needed is None else [needed]


def check(ray: Any, files: Sequence[Path], shared: Path | None = None) -> None:
    """Raise `UsageError` that names the first node with other versions, or without a file or folder that jobs need.

    Args:
        ray: a cluster.
        files: at the same paths on all nodes.
        shared: one that this machine has just made in a folder that all nodes have to share.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    files = [*files, *([] if shared is None else [shared])]
    here = {name: environment.version(name) for name in SAME}
    asked = {}
    for node in alive(ray):
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeManagerAddress"], node["NodeID"]] = (
            ray.remote(has).options(num_cpus=0, scheduling_strategy=there).remote([str(path) for path in files])
        )
    for (name, _), answer in asked.items():
        try:
            versions, absent = ray.get(answer, timeout=SECONDS)
        except Exception as error:  # an import that fails there, or a node that is gone
            why = first_sentence(getattr(error, "cause", None) or error)
            raise UsageError(
                f"Node {name} cannot run tokenbench ({why}); install it there, or stop that node."
            ) from None
        other = next((package for package in SAME if versions[package] != here[package]), None)
        if other:
            raise UsageError(
                f"Node {name} has {other} {versions[other]} and this machine {here[other]}; install the same on both."
            )
        if shared is not None and absent == [str(shared)]:
            raise UsageError(
                f"Node {name} does not see what is in {shared.parent}; give an --output that all nodes share."
            )
        if absent:
            raise UsageError(f"Node {name} has no {absent[0]}; put it at the same path on all nodes.")


def has(files: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """Versions on a node, and which of these files and folders it lacks."""
    versions = {name: environment.version(name) for name in SAME}
    return versions, [path for path in files if not Path(path).exists()]


def exclusive(device: str, resources: dict[str, float]) -> bool:
    """Whether no other job can have this one's device: a whole GPU, or more than half of a node's CPUs."""
    if device.startswith("cuda"):
        return resources["num_gpus"] >= 1
    import ray

    here = ray.get_runtime_context().get_node_id()
    cpus = next(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
    return bool(resources["num_cpus"] > cpus / 2)
