"""A damaged row is left out and told, whatever is in it, and what is taken can be reported."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import row

from tokenbench.cli import screen
from tokenbench.reports.page import html
from tokenbench.reports.paper import tables
from tokenbench.runs import glance as glancing
from tokenbench.runs import reading, results
from tokenbench.runs.glance import Glance
from tokenbench.runs.row import SCHEMA, Row, dumps

GOOD = row("evit", gmacs_by_block=[1.0, 0.5], gmacs_by_part={"mlp": 1.0}, tokens_mean=[197.0], diff_dense=-1.0)
DEEP: Any = json.loads("[" * 500 + "]" * 500)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 10**400, -(10**400), 1e308, 5e-324, -1e308, float("nan"), float("inf"), 1e99, 1e-99),
    *("", "x", "\x00", "\x1b[31m", "\ud800", "caf\udce9", "\ufeff", "x" * 200_000, "<script>", "=1+1", "9" * 5000),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2024-01-01T00:00:00", "now", "1e999"),
    *(
        [],
        {},
        [[]],
        [1, "a", None],
        {"a": {"b": []}},
        {"": 1},
        {"\ud800": 1},
        DEEP,
        {"top1": "x"},
        [10**400],
        {"a": 1e308},
    ),
)


def line(data: Any) -> bytes:
    return json.dumps(data).encode() + b"\n"


def changed(data: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return data


PATHS = [(name,) for name in json.loads(dumps(GOOD))] + [
    *(("weights", "name"), ("setting", "r"), ("metrics", "top1"), ("metrics", "p_value"), ("metrics", "diff_dense")),
    *(("env", "torch"), ("gmacs_by_part", "mlp"), ("conditions", "x"), ("unknown",)),
]


def test_any_field_of_any_kind(tmp_path: Path) -> None:
    """Each value by itself is a row or a problem; all that are rows are reported together."""
    file, good = tmp_path / "rows.jsonl", json.loads(dumps(GOOD))
    kept = [row()]
    for path, value in itertools.product(PATHS, ODD):
        file.write_bytes(line(changed(good, path, value)))
        rows, problems = results.load(file)
        assert len(rows) + len(problems) == 1, path
        assert all(found.id == GOOD.id for found in rows), "never taken for another row"
        assert all(len(str(problem)) < 1000 for problem in problems)
        kept += rows
    assert len(kept) > len(PATHS)
    tables.tables(kept)
    screen.print_results(kept)
    assert html.page(kept).encode()


def test_a_quick_look_takes_nothing_that_a_careful_one_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    look = msgspec.json.Decoder(glancing._struct(Row, schema=Literal[SCHEMA], id=str))  # as on import
    monkeypatch.setattr(glancing, "LINE", look)
    glance, good = Glance(), json.loads(dumps(GOOD))
    assert glance.told(line(good)) == reading.told(line(good)) == glance.told(line({**good, "env": good["env"]}))
    taken = 0
    for path, value in itertools.product(PATHS, ODD):
        odd = line(changed(good, path, value))
        found = glance.told(odd)
        assert found is None or found == reading.told(odd), (path, value)
        taken += found is not None
    assert taken > 50


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_byte(data: st.DataObject, tmp_path: Path) -> None:
    """Bytes changed, cut out or put in: the rows before and after stay."""
    whole = bytearray(line(json.loads(dumps(GOOD)))[:-1])
    for _ in range(data.draw(st.integers(1, 3))):
        start, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 9))
        odd = st.sampled_from(
            (b"[" * 5000, b"{" * 60, b"9" * 500, b"1e308", b"\xef\xbb\xbf", b"\\ud800", b"\xff", b"null")
        )
        whole[start : start + length] = data.draw(odd | st.binary(max_size=5).map(lambda b: b.replace(b"\n", b" ")))
    file = tmp_path / "rows.jsonl"
    file.write_bytes(line(json.loads(dumps(row()))) + whole + b"\n" + line(json.loads(dumps(row("tome")))))
    rows, problems = results.load(file)
    assert {"dense", "tome"} <= {r.method for r in rows}
    assert len(rows) + len(problems) == 3


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("time",), "0001-01-01T00:00:00+14:00", "the row is damaged: time: there is no such year"),
        (("gmacs",), 10**400, "the row is damaged: gmacs: no such number is measured"),
        (("gmacs",), 5e-324, "the row is damaged: gmacs: no such number is measured"),
        (("metrics", "top1"), 1e308, "the row is damaged: top1: no such number is measured"),
        (("reason",), "x" * 10_000_000, "the row is damaged: a text of it has 10000000 characters"),
        (("env", "x"), DEEP, "the row is damaged: it is nested too deeply"),
        (("label",), "\ud800", "the row was altered: its id is not that of its identity"),
    ],
)
def test_what_is_wrong_is_said(path: tuple[str, ...], value: Any, why: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(line(changed(json.loads(dumps(GOOD)), path, value)))
    rows, (problem,) = results.load(file)
    assert not rows and problem.why == why


def test_a_byte_order_mark_and_the_smallest_probability_are_no_damage(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + line(changed(json.loads(dumps(GOOD)), ("metrics", "p_value"), 5e-324)))
    assert len(results.load(file)[0]) == 1


def test_names_that_are_not_utf8_come_back() -> None:
    made = row(dataset="caf\udce9", conditions={"\ud800": "\ud800"})
    assert made.dataset == "caf\\udce9" and made.conditions == {"\\ud800": "\\ud800"}
    assert Row.model_validate(json.loads(made.model_dump_json())).id == made.id
