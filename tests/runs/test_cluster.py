"""A sweep on a real Ray cluster: two nodes, one of which dies in the middle, and each job is measured once."""

from __future__ import annotations

import json
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from femto import Watch, plan, slowly

from tokenbench.cli import main
from tokenbench.errors import UsageError
from tokenbench.runs import cluster, nodes, remote
from tokenbench.runs.results import Results

METHODS = "evit[keep_rate=0.4,0.5,0.6,0.7],topk,tome[r=2]"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_survives_a_node_and_measures_each_job_once(two_nodes: Any, tmp_path: Path) -> None:
    second = two_nodes.add_node(num_cpus=1)
    two_nodes.wait_for_nodes()
    (tmp_path / "marks").mkdir()
    results = Results(tmp_path / "results.jsonl")

    def kill() -> None:
        while len(list((tmp_path / "marks").iterdir())) < 3:
            time.sleep(0.1)
        two_nodes.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    make = partial(slowly, METHODS, tmp_path / "marks")
    asked = plan(METHODS)
    rows = cluster.run(make, asked, results, Watch(), two_nodes.address, remote.Share(cpus=1))
    killer.join()
    lines = [json.loads(line) for line in results.path.read_text().splitlines()]
    assert len(lines) == len({line["id"] for line in lines}) == len(rows) == asked.settings == 7
    assert {row.status for row in rows} == {"ok"} and all(row.speedup is not None for row in rows)
    assert len(list((tmp_path / "marks").iterdir())) > 7, "a job of the dead node was begun again"
    again = cluster.run(make, asked, results, Watch(), two_nodes.address, remote.Share(cpus=1))
    assert {row.id for row in again} == {row.id for row in rows}
    assert len(results.path.read_text().splitlines()) == 7, "what is done is not measured again"
    shared = cluster.run(
        partial(plan, "topk", seed=5),
        plan("topk", seed=5),
        results,
        Watch(),
        two_nodes.address,
        remote.Share(cpus=0.5),
    )
    assert all(row.speedup is None and "had other jobs" in str(row.reason) for row in shared)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nodes_that_differ_are_named(two_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "results.jsonl")
    asked = plan("evit", data_dir=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"Node .* has no .*nowhere; put it at the same path on all nodes"):
        cluster.run(partial(plan, "evit"), asked, results, Watch(), two_nodes.address)
    monkeypatch.setattr(nodes.environment, "version", lambda package: "0.0")
    with pytest.raises(UsageError, match=r"Node .* has tokenbench .* and this machine 0.0; install the same on both"):
        cluster.run(partial(plan, "evit"), plan("evit"), results, Watch(), two_nodes.address)


def test_what_is_said_of_no_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def says(*flags: str) -> str:
        result = CliRunner().invoke(main, ["run", "-o", str(tmp_path / "r.jsonl"), *flags])
        assert result.exit_code == 2
        return result.stderr

    assert "--address says something of a cluster; add --engine ray" in says("--address", "auto")
    assert "both divide the settings; give one" in says("--engine", "ray", "--shard", "1/2")
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert "ray, which is not installed; pip install 'tokenbench[ray]'" in says("--engine", "ray")
