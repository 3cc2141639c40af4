"""What is kept between two rows: when it is written, what of it is taken up again, and what is not."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from refusals import refused

from tokenbench.errors import ResultsError
from tokenbench.runs import unfinished
from tokenbench.runs.unfinished import Answers, Pace, Rounds
from tokenbench.tasks.base import Task
from tokenbench.tasks.classification import Classification

JOB, ENV = "0123456789abcdef", "01234567"
TASK = Classification()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    return now


def test_environments_are_told_apart_by_all_but_the_session() -> None:
    env = {"torch": "2.9", "cpu": "Abacus", "path": Path("x")}
    text = json.dumps({"cpu": "Abacus", "path": "x", "torch": "2.9"})
    assert unfinished.same(env) == hashlib.sha256(text.encode()).hexdigest()[:8]
    assert unfinished.same({"path": Path("x"), "session": "a", "cpu": "Abacus", "torch": "2.9"}) == unfinished.same(env)
    assert unfinished.same({**env, "torch": "3.0"}) != unfinished.same(env)
    assert unfinished.folder(Path("a/b.jsonl")) == Path("a/b.unfinished")


def test_writing_takes_a_twentieth_of_the_time(clock: list[float]) -> None:
    pace = Pace()
    assert pace.due(), "nothing is known of what it costs"
    with pace.writing():
        clock[0] += 0.5
    clock[0] += 9.99
    assert not pace.due()
    clock[0] = 110.5
    assert pace.due(), "ten seconds after half a second of writing"


def answers(where: Path | None, job: str = JOB, env: str = ENV, task: Task = TASK) -> Answers:
    return Answers(task, where, job, env)


def add(to: Answers, until: int, *right: int, skipped: tuple[tuple[str, str], ...] = ()) -> None:
    to.add(torch.tensor([[c] for c in right]).int(), torch.tensor(right), until, skipped)


def names(where: Path) -> list[str]:
    return sorted(path.name for path in where.iterdir())


def test_answers_are_taken_up_where_they_were_kept(tmp_path: Path) -> None:
    where, first = tmp_path / "folder", answers(tmp_path / "folder")
    assert (first.until, first.skipped) == (0, [])
    first.keep()
    assert not where.exists(), "nothing was added"
    add(first, 3, 5, 6, skipped=(("a.png", "cut"),))
    add(first, 4, 7)
    first.keep()
    first.keep()
    add(first, 6, 8, 9)
    first.keep()
    add(first, 7, 1)
    kept = [f"{JOB}-{ENV}-0-4.json", f"{JOB}-{ENV}-0-4.part", f"{JOB}-{ENV}-4-6.part"]
    assert names(where) == kept, "what was skipped is beside where any was"
    assert first.all().target.tolist() == [5, 6, 7, 8, 9, 1]  # type: ignore[attr-defined]
    again = answers(where)
    assert (again.until, again.skipped) == (6, [("a.png", "cut")])
    add(again, 8, 2, 3)
    again.keep()
    assert names(where)[-1] == f"{JOB}-{ENV}-6-8.part"
    assert again.all().target.tolist() == [5, 6, 7, 8, 9, 2, 3]  # type: ignore[attr-defined]
    for other in (answers(where, job="f" * 16), answers(where, env="f" * 8)):
        assert (other.until, other.skipped) == (0, [])


def test_of_parts_the_longest_is_taken_and_nothing_after_a_gap_or_a_damaged_one(tmp_path: Path) -> None:
    whole = answers(tmp_path)
    for until, count in ((2, 2), (4, 2), (6, 2)):
        add(whole, until, *range(count))
        whole.keep()
    long = answers(tmp_path / "other")
    add(long, 3, 7, 8, 9)
    long.keep()
    (tmp_path / "other" / f"{JOB}-{ENV}-0-3.part").rename(tmp_path / f"{JOB}-{ENV}-0-3.part")
    (tmp_path / f"{JOB}-{ENV}-x-y.part").write_text("")
    assert answers(tmp_path).until == 3, "nothing goes on from there"
    (tmp_path / f"{JOB}-{ENV}-0-3.part").unlink()
    assert answers(tmp_path).until == 6
    second = tmp_path / f"{JOB}-{ENV}-2-4.part"
    good = second.read_bytes()
    for bad in (good[:50], b""):
        second.write_bytes(bad)
        assert answers(tmp_path).until == 2
    second.write_bytes(good)
    second.with_suffix(".json").write_text("[")
    assert (answers(tmp_path).until, answers(tmp_path).all().target.tolist()) == (2, [0, 1])  # type: ignore[attr-defined]
    second.unlink()
    assert answers(tmp_path).until == 2


def test_where_there_is_no_folder_or_nothing_can_be_read_back_nothing_is_kept(tmp_path: Path) -> None:
    class Unread(Classification):
        name = "unread"

        @property
        def keeps_parts(self) -> bool:
            return False

    for one in (answers(None), answers(tmp_path, task=Unread())):
        add(one, 2, 5, 6)
        one.keep()
        assert one.all().target.tolist() == [5, 6] and not names(tmp_path)  # type: ignore[attr-defined]
    (tmp_path / "file").write_text("")
    full = answers(tmp_path / "file")
    add(full, 1, 5)
    with refused(ResultsError, f"{tmp_path / 'file'} cannot be written (…); free some space or give another path."):
        full.keep()


def test_times_are_written_when_it_is_time_and_read_by_the_same_job_on_the_same(
    tmp_path: Path, clock: list[float]
) -> None:
    where, pairs = tmp_path / "folder", [(0.5, None), (0.25, 1.0)]
    rounds = Rounds(where, ENV, "s1")
    rounds.write()
    assert not where.exists() and rounds.before(JOB) == [] and rounds.session(JOB) == "s1"
    rounds.keep(JOB, pairs)
    assert names(where) == [f"{JOB}-{ENV}.rounds"]
    with rounds._pace.writing():
        clock[0] += 1.0
    rounds.keep("other", [(9.0, 9.0)])
    assert names(where) == [f"{JOB}-{ENV}.rounds"], "it is not time"
    rounds.write()
    assert names(where) == [f"{JOB}-{ENV}.rounds", f"other-{ENV}.rounds"]
    later = Rounds(where, ENV, "s2")
    assert later.before(JOB) == pairs and later.session(JOB) == "s1" and later.session("other") == "s2"
    later.keep(JOB, [*pairs, (0.75, 2.0)])
    third = Rounds(where, ENV, "s3")
    assert third.before(JOB) == [*pairs, (0.75, 2.0)] and third.session(JOB) == "s1", "of which it goes on"
    assert Rounds(where, "f" * 8, "s3").before(JOB) == []
    for damaged in ("{", "[]", "{}", '{"pairs": [[1.0]], "session": "a"}', '{"pairs": [["x", 1.0]], "session": "a"}'):
        (where / f"{JOB}-{ENV}.rounds").write_text(damaged)
        fresh = Rounds(where, ENV, "s4")
        assert fresh.before(JOB) == [] and fresh.session(JOB) == "s4"
    (tmp_path / "file").write_text("")
    with refused(ResultsError, f"{tmp_path / 'file'} cannot be written (…); free some space or give another path."):
        Rounds(tmp_path / "file", ENV, None).keep(JOB, pairs)


def test_what_has_its_row_is_tidied_up(tmp_path: Path) -> None:
    results = tmp_path / "r.jsonl"
    where = unfinished.folder(results)
    unfinished.tidy(results, JOB)
    where.mkdir()
    for name in (f"{JOB}-{ENV}.rounds", f"{JOB}-{ENV}-0-4.part", f"other-{ENV}.rounds"):
        (where / name).write_text("")
    unfinished.tidy(results, JOB)
    assert names(where) == [f"other-{ENV}.rounds"]
    unfinished.tidy(results, "other")
    assert not where.exists()
