"""Rows survive a crash at any byte; the newest ok row of a job is the one that counts."""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from refusals import refused

from tokenbench.errors import ResultsError
from tokenbench.runs import results
from tokenbench.runs.results import Results
from tokenbench.runs.row import FIRST_METRICS, Identity, Row, frame

START = datetime(2026, 1, 1, tzinfo=UTC)


def make_row(seed: int = 0, minute: int = 0, **fields: Any) -> Row:
    identity = {
        "method": "tome",
        "setting": {"r": 13, "blocks": (3, 6, 9)},
        "label": "tome[r=13]",
        "backbone": "deit_s",
        "weights": {"kind": "random", "name": "random"},
        "dataset": "sample",
        "split": "test",
        "sample_hash": "0" * 16,
        "image_size": (224, 224),
        "device": "cpu",
        "hardware": "Intel Xeon, 2 cores",
        "precision": "float32",
        "batch": 32,
        "compile": False,
        "seed": seed,
        "version": "0.1.0",
    }
    return Row(**{**identity, "status": "ok", "time": START + timedelta(minutes=minute), **fields})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


def written(path: Path, *rows: Row) -> Path:
    for row in rows:
        Results(path).append(row)
    return path


def test_a_row_comes_back_as_it_was(file: Path) -> None:
    row = make_row(top1=79.5, tokens_mean=[197.0, 100.0], gmacs_by_part={"attention": 1.5}, env={"torch": "2.6"})
    assert results.load(written(file, row)) == ([row], [])
    line = json.loads(file.read_text())
    assert (line["schema"], line["id"], line["metrics"]["top5"]) == (2, row.id, None)


def test_the_id_is_of_the_identity_only() -> None:
    assert make_row(top1=1.0, minute=3, env={"a": 1}).id == make_row().id
    assert make_row(seed=1).id != make_row().id
    assert make_row(setting={"r": 8}).id != make_row().id
    only = {name: getattr(make_row(), name) for name in Identity.model_fields}
    assert Identity(**only).id == make_row().id
    # written down, since a changed id makes every finished job run again
    assert make_row().id == "577cec34b2a662da"


def test_nan_is_null_and_null_is_not_zero(file: Path) -> None:
    row = make_row(top1=float("nan"), speedup=np.float64("inf"), tokens_std=np.array([0.0, np.nan]), agreement=0.0)
    assert (row.top1, row.speedup, row.tokens_std, row.agreement, row.gmacs) == (None, None, [0.0, None], 0.0, None)
    assert "NaN" not in written(file, row).read_text()
    assert results.load(file) == ([row], [])


def test_a_failure_is_a_row_and_says_why() -> None:
    assert make_row(status="oom", reason="Out of memory at batch 32.").reason
    with pytest.raises(ValidationError, match="needs a reason"):
        make_row(status="failed")
    with pytest.raises(ValidationError, match="extra"):
        make_row(accuracy=1.0)


def test_the_newest_ok_row_wins(file: Path) -> None:
    failed = {"status": "failed", "reason": "It broke."}
    first, second = make_row(minute=1, top1=1.0), make_row(minute=2, top1=2.0)
    late = make_row(minute=3, **failed)
    only_failed = [make_row(seed=1, minute=m, **failed) for m in (4, 5)]
    written(file, late, second, first, *only_failed)
    assert results.load(file) == ([second, only_failed[1]], [])
    assert Results(file).rows() == results.load(file)[0]
    assert Results(file.with_name("none.jsonl")).rows() == []


def test_rows_are_a_sequence(file: Path) -> None:
    made = [make_row(seed=seed) for seed in range(3)]
    rows, _ = results.load(str(written(file, *made)))
    assert len(rows) == 3 and [rows[0], rows[-1]] == [made[0], made[2]] and rows[1:] == made[1:]
    assert rows == tuple(made) and rows == results.load([file, str(file)])[0]
    assert rows != made[:2] and rows != [*made[:2], make_row(seed=9)] and rows != len(made)  # type: ignore[comparison-overlap]
    assert list(rows.of([made[2].id, "nothing", made[0].id])) == [made[2], made[0]] and rows.place(made[1].id) == file
    whole = file.read_bytes()
    file.write_bytes(b"{" + whole[1:].replace(b"tome", b"evit"))
    with refused(ResultsError, f"{file} was changed while it was read; run the command again."):
        list(rows)
    file.unlink()
    with refused(ResultsError, f"{file} cannot be read (No such file or directory); give the path of a results file."):
        list(rows)


def test_a_row_is_on_disk_before_the_call_is_over(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(file.read_bytes()))
    written(file, make_row(), make_row(seed=1))
    assert seen == [results.dumps(make_row()).encode() + b"\n", file.read_bytes()]


def test_what_is_written_in_part_is_a_full_disk(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(io.BytesIO):
        def write(self, line: Any) -> int:
            return len(line) - 1

    monkeypatch.setattr(results, "_is_cut", lambda path: False)
    monkeypatch.setattr(Path, "open", lambda *_, **__: Short())
    why = os.strerror(errno.ENOSPC)
    with refused(ResultsError, f"{file} cannot be written ({why}); free some space or give another path."):
        Results(file).append(make_row())


def test_a_line_of_one_byte_is_cut_too(file: Path) -> None:
    for start, problems in ((b"{", 1), (b"\n", 0)):
        file.write_bytes(start)
        found = results.load(written(file, make_row()))
        assert found[0] == [make_row()] and len(found[1]) == problems and file.read_bytes().count(b"\n") == 2


def test_of_two_at_one_time_the_later_line_wins(file: Path) -> None:
    assert results.load(written(file, make_row(top1=1.0), make_row(top1=2.0)))[0][0].top1 == 2.0


def test_a_cut_at_any_byte_loses_only_the_last_row(file: Path) -> None:
    before = [make_row(seed=s) for s in range(2)]
    start = len(written(file, *before).read_bytes())
    last = make_row(seed=9, label="π")
    whole = written(file, last).read_bytes()
    ends = range(start, len(whole) + 1)
    for end in (*ends[:20], *ends[20:-20:7], *ends[-20:]):
        file.write_bytes(whole[:end])
        rows, problems = results.load(file)
        complete = end >= len(whole) - 1  # only the newline is gone
        assert rows == before + [last] * complete
        assert [p.line for p in problems] == ([3] if start < end < len(whole) - 1 else [])


USUAL = st.floats().filter(lambda v: not math.isfinite(v) or v == 0 or 1e-100 <= abs(v) <= 1e100)  # others are damage
NUMBERS = st.none() | USUAL | st.integers(-(2**53), 2**53)
VALUES = st.recursive(NUMBERS | st.text() | st.booleans(), lambda v: st.lists(v, max_size=3), max_leaves=5)


@settings(max_examples=25, deadline=None)
@given(
    setting=st.dictionaries(st.text(max_size=8), VALUES, max_size=3),
    numbers=st.lists(NUMBERS, max_size=4),
    reason=st.text(),
    cut=st.floats(0, 1),
)
def test_append_goes_on_after_a_cut(
    setting: dict[str, Any], numbers: list[Any], reason: str, cut: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("cut") / "results.jsonl"
    first = make_row(seed=1, setting=setting, tokens_mean=numbers, reason=reason)
    start = len(written(file, first).read_bytes())
    whole = written(file, make_row(seed=2)).read_bytes()
    end = start + round(cut * (len(whole) - 1 - start))
    file.write_bytes(whole[:end])
    after = make_row(seed=3, setting=setting)
    rows, problems = results.load(written(file, after))
    survived = end == len(whole) - 1
    assert rows == [first, *[make_row(seed=2)] * survived, after]
    assert len(problems) == (start < end and not survived)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "the line is cut or damaged"),
        ("\udcff\udc80", "the line is cut or damaged"),
        ("[" * 100_000, "the line is cut or damaged"),
        ("[]", "the line is not a row of results"),
        ("[1e-200]", "the row is damaged: row: no such number is measured"),
        ('{"a":' * 70 + "1" + "}" * 70, "the row is damaged: it is nested too deeply"),
        ('{"a": 1}', "the line is not a row of results"),
        ('{"schema": 0}', "the line is not a row of results"),
        ('{"schema": 3, "novelty": 1}', "the row has schema 3 and this version reads 2, so update tokenbench"),
        ('{"schema": 1}', "the row is damaged: method: Field required"),
    ],
)
def test_a_line_that_is_no_row_is_named(file: Path, line: str, why: str) -> None:
    written(file, make_row())
    with file.open("ab") as out:
        out.write(line.encode("utf-8", "surrogateescape") + b"\n\n")
    rows, problems = results.load(written(file, make_row(seed=1)))
    assert (len(rows), len(problems)) == (2, 1)
    assert problems[0].line == 2 and str(problems[0]) == f"{file}:2: {why}"


def test_an_altered_identity_is_noticed(file: Path) -> None:
    file.write_text(results.dumps(make_row()).replace("tome", "evit") + "\n")
    rows, problems = results.load(file)
    assert not rows and "altered" in problems[0].why


def test_merge_takes_rows_and_predictions_from_where_the_row_is(tmp_path: Path) -> None:
    old, new, both = tmp_path / "old.jsonl", tmp_path / "new.jsonl", tmp_path / "out" / "both.jsonl"
    row = make_row(minute=1, top1=2.0)
    written(old, make_row(top1=1.0), make_row(seed=1))
    written(new, row)
    Results(old).predictions(row.id).write_text("old")
    Results(new).predictions(row.id).write_text("new")
    merged = results.merge([old, new], both)
    assert merged == results.load(both) == results.load([old, new]) == ([row, make_row(seed=1)], [])
    assert results.predictions_path(both, row.id).read_text() == "new"
    assert not results.predictions_path(both, make_row(seed=1).id).exists()
    assert sorted(p.name for p in both.parent.iterdir()) == ["both.jsonl", "both.predictions"]
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "both.jsonl"
    with refused(ResultsError, f"{inside} cannot be written (…); free some space or give another path."):
        results.merge([old], inside)
    (tmp_path / "next.predictions").write_text("")
    kept = tmp_path / "next.predictions" / f"{row.id}.npz"
    with refused(ResultsError, f"{kept} cannot be written (…); free some space or give another path."):
        results.merge([old, new], tmp_path / "next.jsonl")
    assert not (tmp_path / "next.jsonl").exists()
    with refused(ResultsError, f"{both} exists already; give the merged file a new name."):
        results.merge([old], both)
    old.write_text("{}\n")
    with refused(ResultsError, f"There is no row in {old}, {old}; give files that `tokenbench run` wrote."):
        results.merge([old, str(old)], tmp_path / "none.jsonl")


def test_a_frame_has_numbers_and_knobs_in_columns() -> None:
    table = frame([make_row(top1=80.0), make_row(seed=1, setting={"keep": 0.5}, images=10)])
    assert table["top1"].dtype == table["images"].dtype == table["gmacs"].dtype == np.float64
    assert table["setting.r"][0] == 13 and table["setting.keep"][1] == 0.5 and table["weights.kind"][0] == "random"
    assert np.isnan(table["top1"][1]) and table["id"][0] == make_row().id
    budget = {"updates": 3, "images": 6, "epochs": 0.5, "data": "photos", "start": None}
    other = {"metrics": {"recall1": None, "misses": 2}, "conditions": {"near": 2}, "budget": budget, "task": "mine"}
    trained = {"kind": "file", "name": "own.pth", "hash": "aa"}
    mixed = frame([make_row(**other, trained=trained), make_row(top5=90.0)])
    inside = {"trained": "kind name hash", "budget": "updates images epochs data start teacher", "weights": "kind name"}
    for name, keys in {**inside, "conditions": "near", "setting": "r blocks"}.items():
        assert [f"{name}.{key}" in mixed for key in keys.split()] == [True] * len(keys.split()) and name not in mixed
    assert (mixed["conditions.near"][0], mixed["budget.images"][0], mixed["trained.name"][0]) == (2, 6, "own.pth")
    assert "metrics" not in mixed and list(mixed["intervals"]) == [{}, make_row().intervals]
    for name in ("recall1", "misses", "top5", "top1", "images", "spread", "joules_readings"):
        assert mixed[name].dtype == np.float64, name
    assert mixed["misses"][0] == 2.0 and mixed["top5"][1] == 90.0 and mixed["batch"].dtype != np.float64
    empty = frame([])
    assert empty.empty and list(empty) == ["id", *(n for n in Row.model_fields if n != "metrics"), *FIRST_METRICS]


def test_a_metric_that_a_row_has_not_is_an_attribute_it_has_not() -> None:
    assert make_row(top1=3.0).top1 == 3.0 and copy.copy(make_row()) == make_row() == copy.deepcopy(make_row())
    with refused(AttributeError, "A row of task 'classification' has no field or metric 'top7'."):
        make_row().top7  # noqa: B018
    with refused(AttributeError, "A row of task 'None' has no field or metric 'top1'."):
        Row.__new__(Row).top1  # noqa: B018  as it is while a copy is made


def test_a_full_disk_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full is not here")
    with pytest.raises(ResultsError, match=r"^/dev/full cannot be written \(No space left.*\.$") as caught:
        Results("/dev/full").append(make_row())
    assert caught.value.__suppress_context__


def test_paths_that_are_no_file_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"cannot be written \(Is a directory"):
        Results(tmp_path).append(make_row())
    with pytest.raises(ResultsError, match="cannot be written"):
        Results(tmp_path / "file" / "results.jsonl").append(make_row())
    with pytest.raises(ResultsError, match="cannot be written"):
        Results(tmp_path / "file" / "results.jsonl").predictions("a")
    check = Results(tmp_path / "mine.jsonl").check
    check()
    (tmp_path / "mine.predictions").write_text("")
    with refused(ResultsError, f"{tmp_path / 'mine.predictions' / 'any.npz'} cannot be written (…); …"):
        check()
    for path, why in ((tmp_path, "Is a directory"), (tmp_path / "none.jsonl", "No such file or directory")):
        with refused(ResultsError, f"{path} cannot be read ({why}); give the path of a results file."):
            results.load(path)


def test_listing_results_loads_no_torch_and_no_pandas() -> None:
    code = "import sys, tokenbench.runs.results; print([m for m in ('torch', 'pandas', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
