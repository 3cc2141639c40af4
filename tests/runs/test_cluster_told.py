"""What a sweep asks of Ray, and what it says of what goes wrong. Ray is played: `test_cluster` asks a real one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from femto import Watch, plan
from played import Played, TaskError, played
from refusals import refused
from rows import row

from tokenbench.errors import ResultsError, UsageError, WeightsError
from tokenbench.runs import cluster, nodes, remote
from tokenbench.runs.plan import Plan
from tokenbench.runs.remote import Share
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Played:
    """Two nodes that live, one that is dead and one without a CPU; shards are measured by saying which they are."""
    made = played(monkeypatch)

    def measured(plan: Plan, results: Results, watch: Any) -> list[Row]:
        assert plan.shard is not None
        watch.stretch("anything", 1)
        watch.step(1)
        watch.say(f"shard {plan.shard[0]} of {plan.shard[1]}, {'timed' if plan.timed else 'not timed'}")
        known = [row for row in results.rows() if row.seed == plan.shard[0]]
        found = known or [row("evit", seed=plan.shard[0])]
        results.predictions(found[0].id).write_bytes(b"%d" % plan.shard[0])
        return [*found, *([] if known else [row("dense", seed=plan.shard[0])])]

    monkeypatch.setattr(cluster.runner, "run", measured)
    return made


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results.jsonl")


def run(results: Results, watch: Watch | None = None, address: str | None = None, **how: Any) -> list[Row]:
    return cluster.run(partial(plan, "evit,topk"), plan("evit,topk"), results, watch or Watch(), address, **how)


def test_a_job_a_setting_is_sent_and_its_rows_and_predictions_come_back(ray: Played, results: Results) -> None:
    watch = Watch()
    rows = run(results, watch, "auto")
    assert ray.began == [
        {"address": "auto", "log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    ]
    assert ray.ended == 1
    assert ray.asked == [
        {"num_cpus": 0, "scheduling_strategy": ("id0", False)},
        {"num_cpus": 0, "scheduling_strategy": ("id1", False)},
        {"max_retries": 0, "num_cpus": 2.0, "num_gpus": 0.0},  # all CPUs of the smaller node
    ]
    assert watch.stretches == [("3 jobs on 2 nodes", 3, [1, 2, 3])]
    assert watch.said == [f"shard {i} of 3, not timed" for i in (3, 2, 1)], "another job could share the larger node"
    assert [(row.method, row.seed) for row in rows] == [(name, i) for i in (3, 2, 1) for name in ("evit", "dense")]
    assert results.rows() == rows
    kept = {row.seed: results.predictions(row.id) for row in rows if row.method == "evit"}
    assert {seed: path.read_bytes() for seed, path in kept.items()} == {1: b"1", 2: b"2", 3: b"3"}
    assert not results.predictions(rows[1].id).exists()
    whole = results.path.read_bytes()
    again = run(results, share=Share(cpus=3, settings=2))
    assert ray.asked[-1] == {"max_retries": 0, "num_cpus": 3, "num_gpus": 0.0} and ray.began[1]["address"] is None
    assert [row.seed for row in again] == [2, 2, 1, 1] and results.path.read_bytes() == whole, (
        "what is known stays as it is"
    )


def test_jobs_that_fail_and_jobs_that_are_lost_are_told(ray: Played, results: Results) -> None:
    ray.breaks = {"(3, 3)": OSError("The node died. Look at its log."), "(1, 3)": OSError("It too.")}
    told = "2 of 3 jobs were lost with their workers 4 times over, first 3/3 (The node died);"
    watch = Watch()
    with refused(ResultsError, f"{told} the rows of the others are kept, and the same command goes on from there."):
        run(results, watch)
    again = "is begun again: its worker died"
    assert watch.said[:3] == [f"Job 3 of 3 {again} (The node died)."] * 3, "Ray itself would begin some without end"
    assert watch.said[4:] == [f"Job 1 of 3 {again} (It too)."] * 3
    assert [row.seed for row in results.rows()] == [2, 2]
    ours, other, unknown = TaskError("of Ray"), TaskError("of Ray"), TaskError("of Ray. Ask them.")
    ours.cause, other.cause = WeightsError("The file is cut."), ValueError("no number. Or so.")
    for error, kind, says in (
        (ours, WeightsError, "The file is cut."),
        (other, ResultsError, "A job failed on its node: no number."),
        (unknown, ResultsError, "A job failed on its node: of Ray."),
    ):
        ray.breaks = {"(3, 3)": error}
        with refused(kind, says):
            run(results)
    assert ray.ended == len(ray.began) == 4


def test_what_a_cluster_cannot_give_is_refused(ray: Played, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    start = "start one with `ray start --head`, or give its --address."
    with refused(UsageError, f"No Ray cluster can be reached at nowhere (No answer); {start}"):
        run(results, address="nowhere")
    for share in (Share(cpus=4.5), Share(cpus=4, gpus=0.5)):
        asked = f"{share.cpus:g} CPUs and {share.gpus or 0:g} GPUs"
        with refused(UsageError, f"No node of the cluster has {asked} for a job; give it less of them."):
            run(results, share=share)
    assert remote.resources(ray, Share(cpus=4.0)) == {"num_cpus": 4.0, "num_gpus": 0.0}
    ray._nodes[1]["Resources"] = {"CPU": 2.0, "GPU": 1.0}
    assert remote.resources(ray, Share()) == {"num_cpus": 1.0, "num_gpus": 1.0}
    assert remote.resources(ray, Share(gpus=0)) == {"num_cpus": 2.0, "num_gpus": 0}
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused(UsageError, "--engine ray needs ray, which is not installed; pip install 'tokenbench[ray]'."):
        run(results)


def test_a_node_that_differs_is_named(ray: Played, results: Results, tmp_path: Path) -> None:
    def says(why: str, *files: Path, shared: Path | None = None) -> None:
        with refused(UsageError, f"Node 10.0.0.0 {why}."):
            nodes.check(ray, [tmp_path, *files], shared)

    here = dict.fromkeys(nodes.SAME, "1")
    gone, other = tmp_path / "gone", tmp_path / "other"
    nodes.check(ray, [tmp_path], shared=tmp_path)
    says(f"has no {gone}; put it at the same path on all nodes", gone, other)
    says(f"has no {other}; put it at the same path on all nodes", other, shared=gone)
    says(f"does not see what is in {tmp_path}; give an --output that all nodes share", shared=gone)
    for given, file in ((plan("evit", data_dir=gone), gone), (plan("evit", weights=f"{tmp_path}, {other}"), other)):
        with refused(UsageError, f"Node 10.0.0.0 has no {file}; put it at the same path on all nodes."):
            cluster.run(partial(plan, "evit"), given, results, Watch())
    answers: list[Any] = [({**here, "torch": "2"}, []), ModuleNotFoundError("No module. None."), TaskError("of Ray")]
    answers[-1].cause = ImportError("no tokenbench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nodes.environment, "version", lambda package: "1")
        patch.setattr(ray, "get", lambda job, timeout: answer(answers.pop(0)) if timeout == 120 else None)
        says("has torch 2 and this machine 1; install the same on both")
        says("cannot run tokenbench (No module); install it there, or stop that node")
        says("cannot run tokenbench (no tokenbench); install it there, or stop that node")


def answer(one: Any) -> Any:
    if isinstance(one, Exception):
        raise one
    return one


def test_a_job_is_timed_where_it_has_its_device_alone(ray: Played) -> None:
    assert [nodes.exclusive("cpu", {"num_cpus": n}) for n in (2.0, 2.5, 4.0)] == [False, True, True]  # of 4
    ray._nodes[0]["Resources"] = {}
    assert nodes.exclusive("cpu", {"num_cpus": 0.5})
    assert [nodes.exclusive("cuda:1", {"num_gpus": n}) for n in (0.5, 1.0)] == [False, True]
