"""What commit c467894 wrote, before there were tasks, is read as it was: rows, ids, predictions, maps, weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tokenbench import backbones
from tokenbench.maps import files as mapfiles
from tokenbench.measure.accuracy import Predictions
from tokenbench.methods.sweep import parse
from tokenbench.reports.paper import tables
from tokenbench.runs.results import load, predictions_path
from tokenbench.runs.row import FIRST_METRICS, FIRST_TASK, Row, dumps
from tokenbench.weights import files, sources

BEFORE = Path(__file__).parent / "before"
RESULTS = BEFORE / "results.jsonl"
MEASURED = Path(__file__).parents[1] / "benchmarks" / "fashion_mnist" / "results.jsonl"
LINES = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def test_rows_are_what_they_were() -> None:
    rows, problems = load(RESULTS)
    assert not problems and {row.id for row in rows} == {line["id"] for line in LINES}
    newest = {line["id"]: line for line in LINES}
    for row in rows:
        line = newest[row.id]
        assert row.task == FIRST_TASK and row.conditions == {} and list(row.metrics) == list(FIRST_METRICS)
        kept = row.model_dump(mode="json") | row.metrics
        for name, value in line.items():
            if name not in ("schema", "id"):
                assert kept[name] == value, name


def test_a_row_written_now_has_the_id_it_had_then(tmp_path: Path) -> None:
    for row in load(RESULTS)[0]:
        again = Row.model_validate(row.model_dump())
        assert again.id == row.id and json.loads(dumps(again))["schema"] == 2
        (tmp_path / "now.jsonl").write_text(dumps(again) + "\n", encoding="utf-8")
        assert load(tmp_path / "now.jsonl")[0] == [row]


def test_predictions_give_the_accuracy_of_their_row() -> None:
    scored = [row for row in load(RESULTS)[0] if row.top1 is not None]
    assert len(scored) == 4
    for row in scored:
        kept = Predictions.load(predictions_path(RESULTS, row.id))
        assert len(kept) == row.images and kept.top1 == pytest.approx(row.top1)


def test_they_are_reported() -> None:
    made = tables.tables(load(RESULTS)[0])
    shown = {label for table in made for label in table.frame["method"]}
    assert {line["label"] for line in LINES} == shown


def test_maps_are_what_they_were() -> None:
    maps = mapfiles.load(BEFORE / "maps")
    assert [m.label for m in maps] == ["tome[r=13]", "evit[keep_rate=0.7]"]
    for m in maps:
        assert m.names == ("sandal 1000", "t-shirt top 0") and m.grid == (14, 14)
        assert np.allclose(m.weights[0].sum(axis=(1, 2)), 196)


@pytest.mark.parametrize("label", ["dynamicvit[keep_rate=0.7]", "evit", "stvit", "stvit_r", "tome", "topk"])
def test_weights_that_ship_go_to_their_setting(label: str) -> None:
    (method,) = parse(label)
    found = sources.find("auto", "deit_nano")
    own = found.trained(method, "deit_nano")
    assert own is not None and files.header(own)["method"] == method.name
    model, weights = sources.model(method, backbones.create("deit_nano", classes=10), own)
    assert weights is not None and weights.kind == "shipped" and model.method == method
    rows = [row for row in load(MEASURED)[0] if row.method == method.name]
    assert rows and all(row.trained and row.trained.hash == weights.hash for row in rows), (
        "the table is of these weights"
    )
