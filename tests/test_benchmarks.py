"""The numbers that the repository shows are those of its rows, and these are what their stored predictions give."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenbench.core.settings import make
from tokenbench.reports.paper import tables
from tokenbench.runs.results import load, predictions_path
from tokenbench.tasks import get

ROOT = Path(__file__).parents[1]
FILES = sorted(ROOT.glob("benchmarks/*/*.jsonl"))
RESULTS = [file for file in FILES if file.with_suffix(".predictions").is_dir()]
TABLES = [file for file in RESULTS if (file.parent / "tables").is_dir()]
SHOWN = ("fashion_mnist", "imagenet")  # in docs/findings.md, in this order


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_accuracies_and_intervals_follow_from_the_predictions(file: Path) -> None:
    rows, problems = load(file)
    (name,) = {row.task for row in rows}
    assert not problems and len(rows) > 1, problems
    for row in rows:
        conditions = {key: value for key, value in row.conditions.items() if key in get(name).model_fields}
        task, (dense,) = make(get(name), conditions), [r for r in rows if r.method == "dense" and r.seed == row.seed]
        own, beside = (task.load(predictions_path(file, of.id)) for of in (row, dense))
        scores = task.score(own, None if row.method == "dense" else beside, row.seed)
        assert {name: value for name, value in row.metrics.items() if value is not None} == pytest.approx(scores)
        assert row.intervals == task.intervals and row.images == len(own)


@pytest.mark.parametrize("file", TABLES, ids=lambda file: file.parent.name)
def test_tables_are_as_reports_are_now(file: Path) -> None:
    made = "\n".join(map(tables.markdown, tables.tables(load(file)[0])))
    shown = (file.parent / "tables" / "results.md").read_text(encoding="utf-8")
    assert shown == made, f"run: tokenbench report {file}, and copy tables and figures beside it"


def test_findings_show_these_rows() -> None:
    lines = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8").splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("| method | top-1 %")]
    assert len(heads) == len(SHOWN)
    for name, start in zip(SHOWN, heads, strict=True):
        (table,) = tables.tables(load(ROOT / "benchmarks" / name / "results.jsonl")[0])
        rows = {values["method"]: values for values in table.frame.to_dict("records")}
        head, count = cells(lines[start]), 0
        for line in lines[start + 2 :]:
            if not line.startswith("|"):
                break
            shown = dict(zip(head, cells(line), strict=True))
            shown["method"] = shown["method"].removesuffix(" (dense weights)")
            assert shown == {column: rows[shown["method"]][column] for column in head}
            count += 1
        assert count > 5
