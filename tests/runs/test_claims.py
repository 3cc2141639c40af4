"""Processes that write one file share its jobs: each of them here is a table of claims with a lock of its own."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from femto import Watch, plan
from refusals import refused

from tokenbench.errors import ResultsError
from tokenbench.runs import candidates, claims, environment, jobs
from tokenbench.runs.claims import Claims
from tokenbench.runs.jobs import Jobs
from tokenbench.runs.results import Results, load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def test_each_takes_a_fair_share_of_what_is_free(path: Path) -> None:
    several = [["a1", "a2"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    with Claims(path) as one, Claims(path) as other:
        assert one.folder == path.with_name(".results.claims") and not one.wanted()
        assert one.take(several) == [0, 1, 2] and other.take(several) == [3, 4]
        assert one.take(several) == [0, 1], "what is its own is free to it, and shared as well"
        assert other.take([["a2"], ["b"]]) == [] and one.wanted() and not other.wanted()
        other.release(["a1", "b"])
        assert other.take([["a1"], ["b"]]) == [], "it lets go of its own only"
        one.release(["b", "nothing"])
        assert other.take([["a2"], ["b"]]) == [1] and not one.wanted(), "and waits no longer"
        assert other.take([["a1"]]) == [] and one.wanted() and other.take([]) == [] and not one.wanted()
        third = Claims(path).__enter__()
        assert third.take([["a2"]]) == [] and one.wanted()
        third.__exit__(None, None, None)
        assert not one.wanted(), "who left waits for nothing"
        table = json.loads((one.folder / "table.json").read_text())
        assert (
            len(table["owners"]) == 2
            and table["waiting"] == []
            and set(table["claims"]) == {"a1", "a2", "b", "c", "d", "e"}
        )
    assert list(path.parent.iterdir()) == [], "the last takes the folder along"
    assert not one.wanted()


def test_what_a_dead_process_claimed_is_free(path: Path) -> None:
    with Claims(path) as one:
        dead, living = Claims(path).__enter__(), Claims(path).__enter__()
        assert dead.take([["a"], ["b"], ["c"]]) == [0] and living.take([["b"]]) == [0]
        assert living.take([["a"]]) == [] and one.take([["a"]]) == []
        assert dead._lives is not None
        dead._lives.release()  # as the system does, however a process dies
        assert len(list(one.folder.glob("*.alive"))) == 3
        assert one.take([["a"], ["b"], ["c"]]) == [0], "one of two that are free, and there are two processes"
        assert len(list(one.folder.glob("*.alive"))) == 2
        living._file(living._name).unlink()
        assert one.take([["a"], ["b"], ["c"]]) == [0, 1, 2]
        (one.folder / "table.json").write_text("{")
        assert one.take([["c"]]) == [0], "a damaged table is begun anew"
        living.__exit__(None, None, None)


def test_files_that_cannot_be_locked_are_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: Any, timeout: float | None = None) -> None:
        raise NotImplementedError

    with Claims(path) as one:
        lock = one.lock("timing-here")
        assert Path(lock.lock_file) == one.folder / "timing-here.lock"
        monkeypatch.setattr(claims.FileLock, "acquire", acquire)
        advice = "write to a folder of a file system that has locks, and copy the results."
        why = f"Files in {one.folder} cannot be locked, so two runs could measure one job; {advice}"
        with refused(ResultsError, why), Claims(path):
            pass
        monkeypatch.undo()


def test_one_that_waits_gets_half_of_what_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of one plan, dense and four settings at two batch sizes, by hand."""
    asked, results = plan("evit[keep_rate=0.3,0.5,0.7],topk", batches=[1, 2]), Results(path)
    path.touch()
    slept: list[float] = []

    def begun(claims: Claims, watch: Watch) -> Jobs:
        made = Jobs(candidates.prepare(asked, environment.describe("cpu"), watch.say), results, claims, watch)
        made.know(load(path)[0], 0)
        return made

    def shown(made: Jobs) -> list[tuple[list[int], list[int]]]:
        return [(candidate.written, candidate.batches) for candidate in made._groups[0].candidates]

    def write(made: Jobs) -> None:
        (group,) = made._groups
        for candidate in group.candidates:
            made.write(group, candidate)

    both, only_beside, none = ([1, 2], [1, 2]), ([], [1, 2]), ([], [])
    with Claims(path) as one:
        first = begun(one, Watch())
        assert first.take() and shown(first) == [both] * 5
        with Claims(path) as other:
            waiting = Watch()
            first.share()
            assert shown(first) == [both] * 5, "nobody waits"
            second = begun(other, waiting)

            def sleep(seconds: float) -> None:
                slept.append(seconds)
                if len(slept) == 2:
                    first.share()

            monkeypatch.setattr(jobs.time, "sleep", sleep)
            assert second.take() and slept == [jobs.POLL] * 2
            assert waiting.said == [f"Another process measures what is left for {path}; waiting for it."]
            assert shown(first) == [both, both, both, none, none]
            assert shown(second) == [only_beside, none, none, both, none], "a fair share of what is free"
            write(first)
            write(second)
            assert second.take() and shown(second) == [only_beside, none, none, none, both]
            write(second)
            assert not first.take() and not second.take() and len(slept) == 2
            assert [row.id for row in first.rows()] == [row.id for row in second.rows()] and len(first.rows()) == 10
            again = begun(other, waiting)
            again.tell_done()
            assert waiting.said[1:] == ["deit_femto: 10 of 10 jobs are done already; --force runs them again."]


def test_which_rows_are_gone_on_from_and_which_are_done(path: Path) -> None:
    """By one rule each, for every way in which a row may stand in the file."""
    env = environment.describe("cpu")
    (group,) = candidates.prepare(plan("evit", batches=[1]), env, lambda text: None)
    _, candidate = group.candidates

    def looked(job: Jobs, **changes: Any) -> tuple[bool, bool]:
        row = group.row(candidate, 1).model_copy(update={"time": job._began - timedelta(1), **changes})
        job._rows = {row.id: row}
        return job._earlier(row.id) is not None, job._done(candidate, row.id)

    def jobs_of(**how: Any) -> Jobs:
        group.plan = replace(plan("evit", batches=[1]), **how)
        return Jobs([group], Results(path), None, Watch())  # type: ignore[arg-type]

    went, left = ("failed", f"so; {jobs.UNFINISHED}: interrupted"), ("failed", "broke")
    for how in ({}, {"force": True}):
        made = jobs_of(**how)
        assert looked(made) == (not how, not how)
        assert looked(made, env={**env, "session": "another"}) == (not how, not how)
        assert looked(made, env={**env, "torch": "9.9"}) == (False, not how)
        assert looked(made, intervals=dict(group.plan.task.intervals)) == (not how, not how)
        assert looked(made, intervals={"top1": "bootstrap"}) == (False, not how)
        assert looked(made, status=left[0], reason=left[1]) == (False, False)
        assert looked(made, status=went[0], reason=went[1]) == (not how, False)
        assert looked(made, status="skipped", reason="so") == (False, False), "it is supported now"
        assert looked(made, time=made._began) == (True, True) and looked(made, time=made._began, **{"env": {}})[1]
        assert looked(made, time=made._began, status="oom", reason="so") == (False, True), "tried in this very run"
    made = jobs_of(energy=True)
    assert looked(made) == (True, False) and looked(made, joules=1.0) == (True, True)
    candidate.stop("skipped", "not here")
    assert looked(jobs_of(), status="skipped", reason="so") == (False, True)
    for reason, notes in (
        (None, []),
        (jobs.UNFINISHED, []),
        ("a; b", ["a; b"]),
        (f"a; b; {jobs.UNFINISHED}: c", ["a; b"]),
    ):
        assert jobs._notes(group.row(candidate, 1).model_copy(update={"reason": reason})) == notes
