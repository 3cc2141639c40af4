"""`tokenbench compare` as a gate: its table, its JSON, and an exit code that a team can rely on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rows import row

from tokenbench.cli import main
from tokenbench.measure.accuracy import Predictions
from tokenbench.runs.results import Results


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, right, speed in (("before.jsonl", 90, 9.94), ("after.jsonl", 80, 8.0)):
        results = Results(name)
        for method, fewer in (("dense", 0), ("evit", 1)):
            made = row(method, top1=float(right - fewer), images_per_s=speed, spread=0.01, runs=30)
            results.append(made)
            top = (np.arange(100) >= right - fewer).astype(np.int32)[:, None]
            Predictions(top, np.zeros(100, np.int32)).save(results.predictions(made.id))


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["compare", *args])
    assert not result.exception or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


def test_a_table_says_what_changed_and_how_sure(files: None) -> None:
    code, out, err = call("before.jsonl", "after.jsonl")
    assert (code, err) == (0, "") and out.count("vit_x, batch 8") == 2
    line = next(line for line in out.splitlines() if line.startswith("top-1"))
    assert line.split()[2:6] == ["90.0", "80.0", "-10.0", "[-17.4,"]
    assert "less accurate, more than 1.0 lost (p = 0.00195)" in line
    speed = next(line for line in out.splitlines() if line.startswith("img/s"))
    assert speed.split()[1:3] == ["9.9", "8.0"] and "×0.80" in speed and "slower" in speed
    assert "Holm's correction" in out and "McNemar's exact test" in out
    assert "less accurate, at most 30.0 lost" in call("before.jsonl", "after.jsonl", "--margin", "30")[1]


def test_pairs_of_several_seeds_are_told_apart(tmp_path: Path) -> None:
    results = Results(tmp_path / "seeds.jsonl")
    for seed in (0, 1):
        for method in ("dense", "evit"):
            results.append(row(method, seed=seed, top1=None, images=None))
    _, out, _ = call(str(results.path), "dense", "evit")
    assert [line for line in out.splitlines() if "→ evit:" in line] == [
        f"dense → evit: vit_x, batch 8, seed {seed}" for seed in (0, 1)
    ]
    _, out, _ = call(str(results.path), "dense", "evit", "--json")
    told = [json.loads(line) for line in out.splitlines()]
    assert [(pair["first"]["seed"], pair["second"]["seed"]) for pair in told] == [(0, 0), (1, 1)]


def test_a_gate(files: None) -> None:
    code, _, err = call(
        "before.jsonl", "after.jsonl", "dense", "--fail-if", "top1<-0.5", "--fail-if", "images_per_s<0.5"
    )
    assert code == 1 and err.splitlines() == [
        "Failed: top1<-0.5: -10 from dense of before.jsonl to dense of after.jsonl."
    ]
    assert call("after.jsonl", "before.jsonl", "--fail-if", "top1<-0.5")[0] == 0
    code, out, _ = call("before.jsonl", "after.jsonl", "--json", "--fail-if", "images_per_s<0.95")
    dense, evit = map(json.loads, out.splitlines())
    assert code == 1 and dense["failed"] == evit["failed"] == ["images_per_s<0.95"]
    assert dense["changes"]["top1"]["change"] == -10 and dense["changes"]["top1"]["verdict"].startswith("less accurate")
    assert (evit["first"]["label"], evit["second"]["file"], evit["batch"]) == ("evit", "after.jsonl", 8)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("before.jsonl",), "1 file and 0 settings"),
        (("nowhere.jsonl", "evit"), "nowhere.jsonl cannot be read"),
        (("before.jsonl", "evti"), "Unknown setting 'evti'. Did you mean evit?"),
        (("before.jsonl", "evit", "--fail-if", "top-1<0"), "write a field, a sign and a number"),
        (("before.jsonl", "evit", "--fail-if", "topp1<0"), "Unknown field 'topp1'. Did you mean top1?"),
        (("before.jsonl", "evit", "--margin", "-1"), "--margin"),
        (("evit", "dense"), "0 files and 2 settings"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(files: None, args: tuple[str, ...], why: str) -> None:
    code, out, err = call(*args)
    assert code == (1 if "nowhere" in args[0] else 2) and why in err and out == "" and len(err.splitlines()) == 1
