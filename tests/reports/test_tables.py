"""Tables never mix conditions, and what they print stays what it was in every format."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rows import ENV, row

from tokenbench import methods
from tokenbench.cli import screen
from tokenbench.errors import UsageError
from tokenbench.methods.base import Method, Reported
from tokenbench.reports import groups
from tokenbench.reports.paper import latex, tables
from tokenbench.runs.row import Row


def cells(table: tables.Table) -> list[dict[str, str]]:
    return table.frame.to_dict("records")  # type: ignore[return-value]


def test_rows_of_the_same_conditions_share_a_table_dense_first() -> None:
    (table,) = tables.tables([row("evit", top1=69.0, diff_dense=-1.0), row()])
    assert [line["method"] for line in cells(table)] == ["dense", "evit"]
    assert cells(table)[1] == {
        "method": "evit",
        "top-1 %": "69.0",
        "Δ dense": "-1.0",
        "GMAC": "1.000",
        "Δ GMAC": "-50 %",
        "img/s": "50",
        "speed-up": "1.00",
    }
    for part in ("224×224", "w.safetensors (aa)", "100 images of photos", "Some CPU, 2 cores", "fp32", "batch 8"):
        assert part in table.conditions


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": "Another CPU"},
        {"device": "cuda"},
        {"precision": "bf16"},
        {"batch": 16},
        {"image_size": (384, 384)},
        {"dataset": "other"},
        {"split": "test"},
        {"sample_hash": "cc"},
        {"weights": {"kind": "file", "name": "w.safetensors", "hash": "dd"}},
        {"weights": {"kind": "random", "name": "random"}},
        {"backbone": "vit_y"},
        {"compile": True},
        {"seed": 1},
        {"version": "0.2.0"},
        {"env": {**ENV, "torch": "2.10"}},
        {"env": {**ENV, "timm": "1.1"}},
    ],
    ids=str,
)
def test_conditions_never_share_a_table(change: dict[str, Any]) -> None:
    made = [
        t
        for t in tables.tables([row(), row("evit"), row(**change), row("evit", **change)])
        if "batch size" not in t.title
    ]
    assert len(made) == 2 and [len(table.frame) for table in made] == [2, 2]
    assert made[0].conditions != made[1].conditions or made[0].title != made[1].title or "device" in change
    alone = tables.tables([row(), row("evit", **change)])[1]
    assert "Δ GMAC" not in alone.frame, "saved only against the dense model of the same conditions"


def test_weights_that_all_came_of_trainings_are_not_called_random() -> None:
    random, mine = {"kind": "random", "name": "random"}, {"kind": "file", "name": "model.safetensors", "hash": "ab"}
    trained = [row(name, weights=random, trained=mine) for name in ("dense", "evit")]
    assert "; own weights; " in tables.tables(trained)[0].conditions
    assert groups.grouped(trained)[0].conditions["weights"] == "of their own"
    mixed = [trained[0], row("evit", weights=random)]
    assert "; random weights; " in tables.tables(mixed)[0].conditions
    assert groups.grouped(mixed)[0].conditions["weights"] == "random"


def test_a_value_that_was_not_measured_is_no_zero() -> None:
    (table,) = tables.tables([row(top1=0.0), row("evit", top1=None, status="failed", reason="it broke", gmacs=None)])
    assert [line["top-1 %"] for line in cells(table)] == ["0.0", tables.MISSING]
    assert cells(table)[1]["GMAC"] == tables.MISSING
    assert "top-5 %" not in table.frame, "a column that nobody filled is left out"


def test_notes_say_why_and_for_which() -> None:
    made = [
        row(skipped=3),
        row("stvit", reason="needs its own training, so no accuracy"),
        row("dynamicvit", reason="needs its own training, so no accuracy"),
        row("evit", status="oom", reason="ran out of memory"),
        row("topk", status="skipped", reason="this backbone has no class token"),
        row("tome", status="failed", reason="RuntimeError: broken"),
    ]
    (table,) = tables.tables(made)
    assert table.notes == (
        "dense: unreadable images left out: 3.",
        "stvit, dynamicvit: needs its own training, so no accuracy.",
        "evit: oom: ran out of memory.",
        "topk: skipped: this backbone has no class token.",
        "tome: failed: RuntimeError: broken.",
    )


def evit(**knobs: Any) -> dict[str, Any]:
    from tokenbench.methods import get
    from tokenbench.methods.base import make

    setting = make(get("evit"), knobs)
    return {"method": "evit", "label": setting.label, "setting": setting.model_dump(mode="json"), "backbone": "deit_s"}


@pytest.mark.parametrize(
    ("change", "published"),
    [
        ({}, "79.5 %, 3 G"),
        (evit(keep_rate=0.5), "78.5 %, 2.3 G"),
        (evit(keep_rate=0.75), None),
        (evit(keep_rate=0.7, fuse=False), None),
        (evit(keep_rate=0.7, blocks=(3, 6, 9)), None),
        ({"backbone": "deit_b"}, None),
        ({"image_size": (384, 384)}, None),
        ({"method": "unloaded_plugin"}, None),
    ],
    ids=str,
)
def test_published_stands_only_beside_exactly_the_same_setting(change: dict[str, Any], published: str | None) -> None:
    (table,) = tables.tables([row(**{**evit(keep_rate=0.7), **change})])
    (line,) = cells(table)
    assert line.get("published, trained") == published
    assert "published" not in line, "numbers after training never stand with those off the shelf"
    assert any("published for 300 epochs" in note for note in table.notes) == (published is not None)


def test_several_published_numbers_stand_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(Method):
        """Reported twice."""

        name = "twice"
        reported = (Reported("deit_s", {}, 70.0), Reported("deit_s", {}, gmacs=1.5), Reported("deit_t", {}, 1.0))

    methods.all_methods()  # once they are imported, what they say counts
    monkeypatch.setitem(methods._registry, "twice", Twice)
    (table,) = tables.tables([row("twice", backbone="deit_s")])
    assert cells(table)[0]["published"] == "70 %; –, 1.5 G"


def test_speed_up_by_batch_with_the_break_even() -> None:
    speedups = {1: 0.8, 8: 1.1, 32: 1.5}
    made = [row("evit", batch=b, speedup=s) for b, s in speedups.items()]
    made += [row("tome", batch=1, speedup=0.7), row("tome", batch=8, speedup=0.9)]
    made += [row("topk", batch=32, speedup=2.0, status="oom", reason="no memory")]
    made += [row(batch=b) for b in speedups]
    *_, sweep = tables.tables(made)
    assert sweep.title == "vit_x: speed-up over dense by batch size"
    assert cells(sweep) == [
        {"method": "evit", "batch 1": "0.80×", "batch 8": "1.10×", "batch 32": "1.50×", "no slower from batch": "8"},
        {"method": "tome", "batch 1": "0.70×", "batch 8": "0.90×", "batch 32": "–", "no slower from batch": "–"},
    ]


def test_a_sweep_never_joins_batch_sizes_of_two_machines() -> None:
    made = tables.tables([row("evit", batch=1), row("evit", batch=32, hardware="Another CPU")])
    assert not [table for table in made if "batch size" in table.title]


UGLY = r"a|b_c 50% & #1 $x$ {y} ~^\z [0,1] <b>Δ×"


def test_files_are_well_formed_whatever_the_labels_hold(tmp_path: Path) -> None:
    made = [row(), row("evit", UGLY, status="failed", reason="line\nbreak | and <script>")]
    paths = tables.write(made, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        f"tables/results.{kind}" for kind in ("md", "csv", "tex")
    ]
    markdown, text, latex = (path.read_text(encoding="utf-8") for path in paths)

    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1, "as many cells in every line"
    assert "<script>" not in markdown and "<b>" not in markdown and "- evit" not in markdown
    assert any(line.startswith("- ") and "line break" in line for line in markdown.splitlines())

    first, second = csv.DictReader(io.StringIO(text))
    assert (first["label"], second["label"]) == ("dense", UGLY)
    assert first["weights.hash"] == "aa" and second["reason"] == "line\nbreak | and <script>" and second["top5"] == ""

    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == 1
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == 2
    columns = latex.split(r"\begin{tabular}{")[1].split("}")[0]
    for line in body:
        assert line.endswith(r"\\") and line.replace(r"\&", "").count("&") == len(columns) - 1
    assert r"a\textbar{}b\_c 50\% \& \#1 \$x\$ \{y\} \textasciitilde{}\textasciicircum{}\textbackslash{}z" in body[1]
    assert body[1].count("{[}") == 1 and r"\textless{}b\textgreater{}$\Delta$$\times$" in body[1]
    assert latex.startswith("% needs \\usepackage{booktabs}")


def test_no_rows_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There are no rows to report"):
        tables.write([], tmp_path)


def test_labels_are_no_markup_and_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_results([row("evit", "[red]bad[/] [link=x]\x1b[31m\x07", reason="see [bold]this[/bold]\x1b]0;t\x07")])
    out = capsys.readouterr().out
    assert "[red]bad[/] [link=x] [31m" in out and "see [bold]this[/bold]" in out
    assert "\x1b" not in out and "\x07" not in out


def test_a_narrow_terminal_loses_columns_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    full = row(
        "evit", "evit[keep_rate=0.7]", top1_low=60.0, top1_high=80.0, top5=90.0, params_m=5.0, peak_memory_mb=9.0
    )
    monkeypatch.setattr(screen, "console", lambda: Console(width=58, highlight=False))
    screen.print_results([full])
    narrow = capsys.readouterr().out
    head, line = next(pair for pair in pairwise(narrow.splitlines()) if pair[0].startswith("method"))
    assert line.split()[:2] == ["evit[keep_rate=0.7]", "70.0"] and "[60.0" not in line
    assert "params M" not in head and "…" not in head + line
    assert "too wide here: intervals, params M" in narrow
    monkeypatch.setattr(screen, "console", lambda: Console(width=200, highlight=False))
    screen.print_results([full])
    wide = capsys.readouterr().out
    assert "70.0 [60.0, 80.0]" in wide and "params M" in wide and "too wide" not in wide


def test_verdicts_stand_in_the_table_with_the_test_they_are_by(capsys: pytest.CaptureFixture[str]) -> None:
    won = {"diff_dense": 0.9, "diff_dense_low": 0.0, "diff_dense_high": 1.8, "p_value": 0.0503}
    lost = {"diff_dense": -4.0, "diff_dense_low": -6.0, "diff_dense_high": -2.0, "p_value": 0.0001}
    made = [row(), row("evit", **won), row("tome", **lost), row("topk")]
    (table,) = tables.tables(made)
    assert list(table.frame["verdict"]) == ["–", "at most 1.0 lost", "less accurate, more than 1.0 lost", "–"]
    (rule,) = [note for note in table.notes if note.startswith("verdict")]
    assert "McNemar's exact test at 5 %, after Holm's correction for 2 settings" in rule
    (wide,) = tables.tables(made, margin=7.5)
    assert list(wide.frame["verdict"])[2] == "less accurate, at most 7.5 lost"
    screen.print_results(made, margin=7.5)
    assert "less accurate, at most 7.5 lost" in capsys.readouterr().out


def test_three_kinds_of_brackets_are_told_apart() -> None:
    made = row(
        **{"top1_low": 60.0, "top1_high": 80.0, "speedup_low": 0.9, "speedup_high": 1.1},
        **{"latency_p50": 5.0, "latency_p10": 4.0, "latency_p90": 6.0},
    )
    (table,) = tables.tables([made])
    assert table.notes == (
        "in brackets, top-1 %: 95 % interval (bootstrap); speed-up: 10th and 90th percentile over rounds; "
        "ms a batch: 10th and 90th percentile.",
    )


def test_each_row_says_by_which_formula_its_intervals_are() -> None:
    ends = {"top1_low": 60.0, "top1_high": 80.0, "diff_dense": -1.0, "diff_dense_low": -2.0, "diff_dense_high": 1.0}
    sure = ends | {"speedup_low": 0.9, "speedup_high": 1.1, "p_value": 0.5}
    first, second = row("evit", **sure), row("tome", **sure)
    later = row("topk", **sure, noisy=False, env={**ENV, "session": "a"})
    assert first.intervals == {"top1": "bootstrap", "diff_dense": "bootstrap"}
    assert later.intervals == {"top1": "Wilson", "diff_dense": "Tango"}
    (told, *_), (alike, *_) = (tables.tables(rows)[0].notes for rows in ([first, second, later], [first, second]))
    assert told == (
        "in brackets, top-1 %: 95 % interval (bootstrap), but of topk 95 % interval (Wilson); "
        "Δ dense: paired 95 % interval (bootstrap), but of topk paired 95 % interval (Tango); "
        "speed-up: 10th and 90th percentile over rounds, but of topk 95 % interval of the median over rounds."
    )
    assert alike == (
        "in brackets, top-1 %: 95 % interval (bootstrap); Δ dense: paired 95 % interval (bootstrap); "
        "speed-up: 10th and 90th percentile over rounds."
    )


def test_speeds_say_how_sure_they_are_and_keep_a_decimal_where_they_are_small() -> None:
    made = [row(images_per_s=9.94), row("evit", images_per_s=0.349, spread=0.0449), row("tome", images_per_s=10.4)]
    noisy = made[1].model_copy(update={"label": "noisy", "noisy": True})
    (table,) = tables.tables([*made, noisy])
    assert list(table.frame["img/s"]) == ["9.9", "0.3", "10", "0.3"]
    assert list(table.frame["spread"]) == ["–", "4 %", "–", "4 %, noisy"]
    assert any(note.startswith("spread: interquartile range") for note in table.notes)


@pytest.mark.parametrize("known", [True, False])
def test_speeds_of_another_session_than_dense_are_marked(known: bool) -> None:
    first, later = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))

    def of(method: str, session: str, time: datetime, **changes: Any) -> Row:
        return row(method, time=time, env={**ENV, "session": session} if known else ENV, **changes)

    made = [of("dense", "b", later), of("evit", "a", first, speedup=1.5), of("tome", "b", later + timedelta(seconds=1))]
    (table,) = tables.tables(made)
    assert list(table.frame["img/s"]) == ["50", "50†", "50"]
    assert list(table.frame["speed-up"]) == ["1.00", "1.50", "1.00"], "each beside the dense model of its own rounds"
    assert next(note for note in table.notes if note.startswith("†")).startswith("† evit: timed in another session")
    assert not any("†" in note for note in tables.tables(made[1:])[0].notes)


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", " =1"])
def test_no_cell_is_a_formula(text: str, tmp_path: Path) -> None:
    made = row("evit", text, reason=text, setting={"knob": text}, env={**ENV, "cpu": text}, skipped=1, top1=1.0)
    markdown, text_csv, _ = (path.read_text(encoding="utf-8") for path in tables.write([made], tmp_path))
    (line,) = csv.DictReader(io.StringIO(text_csv))
    for field in ("label", "reason", "setting.knob", "env.cpu"):
        assert line[field] == f"'{text}"
    cells = [cell.strip() for line in markdown.splitlines() if line.startswith("|") for cell in line.split(" | ")]
    assert not [cell for cell in cells if cell.lstrip("| ").startswith(tuple("=+@")) or cell.startswith("-2+3")]


def test_numbers_stay_numbers_and_nothing_is_a_python_object(tmp_path: Path) -> None:
    env = {**ENV, "gpu": {"name": "H100", "memory_gib": 80.0}}
    made = [
        row(env={**ENV, "gpu": None}),
        row("evit", diff_dense=-1.25, gmacs_by_part={"mlp": 0.5}, env=env, tokens_mean=[9.0, None]),
    ]
    text = tables.write(made, tmp_path)[1].read_text(encoding="utf-8")
    dense, evit = csv.DictReader(io.StringIO(text))
    assert float(evit["diff_dense"]) == -1.25 and evit["tokens_mean"] == "[9.0, null]"
    assert (evit["gmacs_by_part.mlp"], evit["env.gpu.name"], dense["env.gpu.name"]) == ("0.5", "H100", "")
    assert not [name for name, value in evit.items() if value.startswith("{") or name in ("env", "env.gpu")]
    markdown = tables.markdown(tables.tables(made)[0])
    assert "| -1.2 |" in markdown and "| --- | ---: |" in markdown


def test_a_sweep_has_a_line_for_each_setting_with_weights_of_its_own() -> None:
    trained = {"trained": {"kind": "file", "name": "t.safetensors", "hash": "t"}}
    timed = [row("tome", batch=batch, speedup=1.5) for batch in (1, 8)]
    own = [row("tome", batch=batch, speedup=1.1, **trained) for batch in (1, 8)]
    *_, sweep = tables.tables([*timed, *own])
    assert [[*line.values()][:2] for line in cells(sweep)] == [["tome", "1.50×"], ["tome (trained)", "1.10×"]]


def test_latex_says_what_each_block_of_lines_was_measured_under() -> None:
    slow, tuned = row(images_per_s=0.4), row(weights={"kind": "file", "name": "tuned.pth", "hash": "cc"}, top1=71.0)
    made = latex.table([slow, tuned], "method,top1,images_per_s")
    assert r"\multicolumn{3}{l}{\textit{weights w.safetensors}}" in made and r"\textit{weights tuned.pth}" in made
    assert r"dense & 70.0 & 0.4 \\" in made
    twins = [row(), row(weights={"kind": "file", "name": "w.safetensors", "hash": "cc"})]
    assert r"\textit{weights cc, sample bb}" in latex.table(twins, "method,top1")
    (one,) = tables.tables([row(images=1)])
    assert "; 1 image of photos (val, sample bb);" in one.conditions and "{1 image of" in latex.table(
        [row(images=1)], "top1"
    )
    few = latex.table([row(images=50, sample_hash="x"), row(images=100)], "method")
    assert r"\textit{50 images of photos (val)}" in few and r"\caption{vit\_x; 224" in few
