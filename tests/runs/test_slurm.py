"""The array script of docs/ on a real Slurm of one node: four shards merge into the table that one process makes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from femto import FEWEST

from tokenbench.runs.results import load, merge

SCRIPT = Path(__file__).parents[2] / "docs" / "sweep.slurm"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "sinfo")
SWEEP = ("--methods", "evit,topk,tome", "--weights", "random", "-b", "2", *FEWEST)
CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    absent = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if absent:
        return f"{absent[0]} is not installed (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons are started by root"


pytestmark = [pytest.mark.slow, pytest.mark.slurm, pytest.mark.skipif(missing() is not None, reason=str(missing()))]


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Munge and Slurm's two daemons, with all of their files in the test's folder; the environment to call it in."""
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    tmp_path.chmod(0o755)
    key = tmp_path / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = tmp_path / "slurm.conf"
    cpus = len(os.sched_getaffinity(0))
    config.write_text(CONFIG.format(host=host, folder=tmp_path, ports=free_ports(2), cpus=cpus))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    env = {**os.environ, "SLURM_CONF": str(config), "PATH": path}
    files = [f"--{name}-file={tmp_path}/munge.{name}" for name in ("key", "log", "pid", "seed")]
    daemons = [
        ("munged", "--foreground", "--force", f"--socket={tmp_path}/munge.socket", *files),
        ("slurmctld", "-D", "-c", "-f", str(config)),
        ("slurmd", "-D", "-c", "-f", str(config), "-N", host),
    ]
    started = []
    try:
        for command in daemons:
            with (tmp_path / f"{command[0]}.out").open("wb") as out:
                started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out))
            time.sleep(1.0)
        until(lambda: "idle" in said(["sinfo", "--noheader", "--format=%T"], env), 60, "no node is idle", tmp_path)
        yield env
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(timeout=30)


def said(command: list[str], env: dict[str, str]) -> str:
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False).stdout


def until(holds: object, seconds: float, what: str, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not holds():  # type: ignore[operator]
        logs = {path.name: path.read_text()[-2000:] for path in folder.glob("*.out")}
        assert time.monotonic() < end, f"{what}: {logs}"
        time.sleep(1.0)


def test_an_array_of_four_merges_into_the_table_of_one_process(
    cluster: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(__file__).parents[2]
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    env = {**cluster, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    asked = ("--array=1-4", "--gres=none", "--cpus-per-task=1", "--mem=0", f"--chdir={work}", "--output=%a.log")
    subprocess.run(["sbatch", *asked, str(SCRIPT), *SWEEP], env=env, check=True, capture_output=True)
    until(lambda: not said(["squeue", "--noheader"], env).strip(), 1200, "jobs do not end", tmp_path)
    logs = {path.name: path.read_text() for path in work.glob("*.log")}
    files = sorted((work / "sweep").glob("*.jsonl"))
    assert len(files) == 4, logs
    merged, problems = merge(files, work / "merged.jsonl")
    command = [str(Path(sys.executable).parent / "tokenbench"), "run", *SWEEP, "-o", "whole.jsonl", "-q"]
    subprocess.run(command, env=env, check=True, capture_output=True)
    whole, _ = load(work / "whole.jsonl")
    assert not problems and all(row.status == "ok" for row in merged)
    assert {row.id for row in merged} == {row.id for row in whole} and len(merged) == 4
    assert sum(len(load(file)[0]) for file in files) == 4, "each job was measured once"
