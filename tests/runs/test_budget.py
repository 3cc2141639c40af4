"""Training budgets: read from what training wrote, told in rows, and marked where they are not equal."""

from __future__ import annotations

from typing import Any

import pytest
from rows import row

from tokenbench.reports import groups
from tokenbench.reports.paper import tables
from tokenbench.runs import budget
from tokenbench.runs.budget import Budget
from tokenbench.runs.row import Row

START = {"kind": "file", "name": "start.safetensors", "hash": "0123456789abcdef"}
HEADER = {"updates": 310, "recipe": {"batch": 128, "epochs": 10}, "data": {"name": "photos", "images": 4000}}
HEADER |= {"weights": START, "teacher": None}


def told(**changes: Any) -> Budget:
    found = budget.of({**HEADER, **changes})
    assert found is not None
    return found


def test_of_a_header() -> None:
    """What was seen is counted, and not what the recipe asked for."""
    found = told()
    assert (found.images, found.epochs, found.updates) == (39680, 9.92, 310)
    assert found.start == "start.safetensors (0123456789abcdef)" and found.teacher is None
    assert found.words == "9.92 epochs, 39,680 images"
    taught = told(teacher={"kind": "file", "name": "dense.safetensors", "hash": None})
    assert taught.words.endswith("with a teacher") and taught.teacher == "dense.safetensors"
    scratch = told(weights={"kind": "random", "name": "random", "hash": None})
    assert scratch.start is None and scratch.words.endswith("from scratch")


@pytest.mark.parametrize("lost", ["updates", "recipe", "data", "weights"])
def test_a_header_that_says_less_has_none(lost: str) -> None:
    assert budget.of({key: value for key, value in HEADER.items() if key != lost}) is None


@pytest.mark.parametrize(
    ("change", "equal"),
    [
        ({"updates": 311}, False),
        ({"data": {"name": "photos", "images": 2000}}, False),
        ({"data": {"name": "others", "images": 4000}}, False),
        ({"weights": {**START, "hash": "1" * 16}}, False),
        ({"weights": {"kind": "random", "name": "random"}}, False),
        ({"teacher": START}, True),
    ],
)
def test_what_is_marked(change: dict[str, Any], equal: bool) -> None:
    """In tables and on the page, against the dense row beside it."""
    rows = [row(budget=told()), row("evit", budget=told(**change)), row("tome", budget=told()), row("topk")]
    rows = [Row.model_validate_json(one.model_dump_json()) for one in rows]
    (table,) = tables.tables(rows)
    cells = list(table.frame["trained with"])
    assert cells[0] == cells[2] == "9.92 epochs, 39,680 images" and cells[3] == "–"
    assert cells[1].endswith("‡") is not equal
    notes = [note for note in table.notes if note.startswith("‡")]
    assert len(notes) == (not equal) and all("‡ evit: trained with another budget" in note for note in notes)
    assert [note for note in groups.grouped(rows)[0].notes if note.startswith("‡")] == [n[:-1] for n in notes]


def test_a_trained_row_beside_dense_of_the_shelf_is_marked() -> None:
    (table,) = tables.tables([row(), row("evit", budget=told())])
    assert list(table.frame["trained with"]) == ["–", "9.92 epochs, 39,680 images‡"]
    assert "trained with" not in tables.tables([row(), row("evit")])[0].frame
