"""`tokenbench choose`, a LaTeX table, and the same from Python; and what is imported for that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from rows import row

import tokenbench
from tokenbench.cli import main, options
from tokenbench.errors import UnknownName, UsageError
from tokenbench.reports.paper import latex
from tokenbench.runs.row import dumps


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    lost = {"diff_dense": -0.4, "diff_dense_low": -0.8, "diff_dense_high": 0.1, "p_value": 0.2, "gmacs": 1.5}
    made = [row(latency_p50=40.0), row("tome", "tome[r=8]", top1=69.6, latency_p50=30.0, setting={"r": 8}, **lost)]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(dumps, made)))
    return path


def test_choose_says_which_and_exits_by_whether_there_is_one(results: Path) -> None:
    done = call("choose", results, "--max-drop", 1, "--by", "gmacs")
    assert done.exit_code == 0, done.output
    assert "Use tome[r=8]: -25 % GMAC, at most 0.8 points lost, 95 % sure on 100 images.\n" in done.stdout
    told = json.loads(call("choose", results, "--max-latency", "0.035s", "--json").stdout)
    assert told["use"] == "tome[r=8]" and told["limits"] == {"latency_p50": 35.0} and told["max_drop"] is None
    assert [(o["label"], o["keeps"]) for o in told["offers"]] == [("tome[r=8]", True), ("dense", False)]
    done = call("choose", results, "--max-gmacs", 0.1)
    told = "Nothing here keeps within 0.1 GMAC: the nearest is tome[r=8] with 1.50 GMAC"
    assert done.exit_code == 1 and told in done.stdout
    for text in ("20 parsecs", "fast", "0ms", "-5ms"):
        done = call("choose", results, "--max-latency", text)
        assert done.exit_code == 2 and "is not allowed; write it like 20ms, 0.02s" in done.stderr, text


def test_a_latex_table_has_minus_signs_and_knobs_and_no_hashes(results: Path) -> None:
    done = call("report", results, "--table", "method,top1,diff_dense,saved", "--caption", "Ours.", "--label", "tab:a")
    assert done.exit_code == 0, done.output
    assert r"\caption{Ours.}" in done.stdout and r"\label{tab:a}" in done.stdout and r"\toprule" in done.stdout
    assert r"tome ($r = 8$) & 69.6 & $-0.4$ & $-25$ \\" in done.stdout and "dense & 70.0 & -- & -- " in done.stdout
    plain = call("report", results, "--table", "method,gmacs").stdout
    assert r"\caption{100 images of photos (val); vit\_x; 224$\times$224; Some CPU, 2 cores; fp32;" in plain
    assert "aa" not in plain.replace("tabular", "") and "bb" not in plain
    assert latex.setting("evit[keep_rate=0.7,fuse=false]") == "evit (keep rate 0.7, no fuse)"
    assert latex.setting("a_b") == r"a\_b" and latex.escaped("-0.5 a-b 1e-5") == "$-0.5$ a-b 1e-5"
    with pytest.raises(UnknownName, match=r"Unknown column 'gmac'\. Did you mean gmacs"):
        latex.table([row()], "method,gmac")
    assert call("report", results, "--caption", "x").exit_code == 2


def test_the_commands_are_functions_that_give_tables(results: Path) -> None:
    table = tokenbench.choose(results, max_drop=1.0, by="gmacs")
    assert table.attrs["answer"].startswith("Use tome[r=8]: -25 % GMAC") and list(table["label"]) == [
        "tome[r=8]",
        "dense",
    ]
    with pytest.raises(UsageError, match="takes no 'max_speed'"):
        tokenbench.choose(results, max_speed=1)
    with pytest.raises(UsageError, match="does not say which file"):
        tokenbench.choose(table.drop(columns="id").assign())
    table.attrs["results"] = str(results)
    assert len(tokenbench.choose(table)) == 2


def test_what_runs_no_model_imports_no_torch(results: Path) -> None:
    """Each command in one process, the first that imports more being named."""
    kept = Path(__file__).parents[2] / "benchmarks" / "photographs" / "seed0.jsonl"
    commands = [
        *(["--help"], ["list"], ["list", "--backbones"], ["list", "--tasks"], ["show", "tome"], ["show", "detection"]),
        *(
            ["choose", results],
            ["compare", kept, "dense", "tome[r=13]"],
            ["compare", kept, "dense", "tome"],
        ),
        *(["merge", results, "-o", results.with_name("merged.jsonl")], ["report", results, "--table", "method,top1"]),
        ["report", results, "-o", results.with_name("report")],
    ]
    code = f"""
import sys
from tokenbench.cli import main, options
for words in {[[str(word) for word in words] for words in commands]}:
    try:
        main(words)
    except SystemExit as end:
        print(words, end.code, sorted({{"torch", "timm", "torchvision"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert len(said) == len(commands), done.stderr[-2000:]
    assert [line for line in said if not line.endswith(" 0 []")] == [], done.stderr[-2000:]


def test_what_would_be_ignored_or_means_nothing_is_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag, value in (("--max-gmacs", "inf"), ("--min-throughput", "inf"), ("--max-latency", "9" * 400)):
        done = call("choose", results, flag, value, "--json")
        assert done.exit_code == 2 and "is not allowed; give a finite number above 0." in done.stderr, flag
    for flag, value in (("-o", "t.tex"), ("--margin", 2), ("--maps", tmp_path)):
        done = call("report", results, "--table", "method", flag, value)
        assert done.exit_code == 2 and "--table prints one table, which --" in done.stderr, flag
    monkeypatch.chdir(tmp_path)
    Path("evit").mkdir()  # where its training was written to
    assert "Unknown setting 'evit'." in call("compare", results, "evit").stderr
    assert "Unknown setting 'aaa" in call("compare", results, "a" * 300).stderr
    Path("empty.jsonl").touch()
    assert "There are no rows to choose from;" in call("choose", "empty.jsonl").stderr
    done = call("choose", results, "--by", "energy")
    assert done.exit_code == 1 and "Nothing to rank by: energy was not measured here.\n" in done.stdout


def test_what_was_tuned_is_exported_with_the_same_flags() -> None:
    flags = {"ema": True, "weights_key": None, "mean": "0.5", "std": None, "crop_pct": 0.9, "interpolation": None}
    with click.Context(main, info_name="tune") as context:
        context.meta[options.PLUGINS] = (Path("mine.py"),)
        assert options.repeated(flags) == ["--ema", "--mean", "0.5", "--crop-pct", "0.9", "--plugin", "mine.py"]
