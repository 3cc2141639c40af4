"""Parts of a sweep, each in a file of its own, merge into the table that one process makes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from femto import Watch, plan

from tokenbench.cli import main
from tokenbench.runs import runner
from tokenbench.runs.jobs import part
from tokenbench.runs.results import Results, load, merge

METHODS = "evit[keep_rate=0.5,0.7],topk"
SPEED = {"time", "env", "images_per_s", "speedup", "speedup_low", "speedup_high", "spread", "noisy", "runs"}
SPEED |= {"latency_p10", "latency_p50", "latency_p90", "reduction_share", "machine"}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 30])
def test_parts_are_all_of_it_and_no_job_is_in_two(count: int) -> None:
    jobs = list(range(20))
    parts = [part(jobs, (which, count)) for which in range(1, count + 1)]
    assert [job for one in parts for job in one] == jobs
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shards_merge_into_the_table_of_one_process(tmp_path: Path) -> None:
    whole = runner.run(plan(METHODS), Results(tmp_path / "whole.jsonl"), Watch())
    files = []
    for which in (1, 2, 3):
        files.append(tmp_path / f"{which}.jsonl")
        rows = runner.run(replace(plan(METHODS), shard=(which, 3)), Results(files[-1]), Watch())
        assert [row.label for row in rows] == [row.label for row in part(whole, (which, 3))]
        assert all(row.speedup is not None for row in rows), "dense is timed beside those of every shard"
    merged, problems = merge(files, tmp_path / "merged.jsonl")
    assert not problems and [row.id for row in merged] == [row.id for row in whole]
    for one, other in zip(merged, whole, strict=True):
        assert one.model_dump(exclude=SPEED) == other.model_dump(exclude=SPEED)
    assert sum(len(load(file)[0]) for file in files) == len(whole), "dense has its row in one shard"


def test_an_empty_shard_ends_well_and_shards_are_numbers(tmp_path: Path) -> None:
    assert runner.run(replace(plan("dense"), shard=(1, 2)), Results(tmp_path / "r.jsonl"), Watch()) == []
    for text in ("5/4", "0/4", "3", "a/b", "1/0", "3/16/2", "-1/4"):
        result = CliRunner().invoke(main, ["run", "--shard", text, "-o", str(tmp_path / "s.jsonl")])
        assert result.exit_code == 2
        assert f"--shard {text} is not allowed; write which of how many, from 1/16 to 16/16." in result.stderr
