"""Rows written by hand, and beside them every value that a table, the page and a figure make of them.

Nothing is taken from the code: what stands right of an equals sign was worked out on paper from `ROWS`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from rows import row

from tokenbench.reports import curves, groups, style
from tokenbench.reports.page import html
from tokenbench.reports.paper import figures, tables
from tokenbench.runs.axes import AXES, Axis
from tokenbench.runs.row import Row
from tokenbench.tasks.classification import Classification

SAME: dict[str, Any] = {
    "backbone": "deit_s",
    "images": 1900,
    "images_total": 50_000,
    "dataset": "imagenet",
    "skipped": 3,
    "runs": 10,
    "intervals": {"top1": "Wilson", "diff_dense": "Tango"},
    "env": {
        "torch": "2.9",
        "timm": "1.0",
        "cpu": "Some CPU",
        "threads": 2,
        "os": "Linux",
        "commit": "0123456789abcdef",
    },
    "time": datetime(2026, 3, 4, tzinfo=UTC),
}
OWN = {"kind": "file", "name": "own.safetensors", "hash": "cc"}
EVIT = {"tokens": None, "fuse": True, "blocks": None, "shrink_start": 0.0, "shrink_epochs": 0.0}


def parts(*gmacs: float) -> dict[str, float]:
    return dict(zip(("embed", "attention", "mlp", "selection", "head"), gmacs, strict=True))


DENSE = row(
    **SAME,
    label="dense",
    **{"top1": 80.04, "top1_low": 78.16, "top1_high": 81.83, "top5": 95.26, "gmacs": 4.6, "gmacs_fvcore": 4.7},
    **{"gmacs_by_part": parts(0.1, 1.7, 2.75, 0.0, 0.05), "gmacs_by_block": [2.2, 2.25], "params_m": 22.051},
    **{"images_per_s": 51.6, "speedup": 1.0, "speedup_low": 1.0, "speedup_high": 1.0, "spread": 0.01, "noisy": False},
    **{"latency_p50": 155.04, "latency_p10": 150.16, "latency_p90": 161.27, "peak_memory_mb": 41.4},
    **{"tokens_mean": [197.0, 197.0], "tokens_std": [0.0, 0.0]},
)
LOSES = row(
    "evit",
    "evit[keep_rate=0.7]",
    **SAME | {"skipped": None},
    **{"setting": {"keep_rate": 0.7, **EVIT}, "trained": OWN},
    **{"top1": 78.92, "top1_low": 77.02, "top1_high": 79.44, "top5": 94.53, "agreement": 91.37},
    **{"diff_dense": -1.12, "diff_dense_low": -2.04, "diff_dense_high": -0.21, "p_value": 0.0171},
    **{"gmacs": 2.99, "gmacs_fvcore": 3.1, "gmacs_by_part": parts(0.1, 1.1, 1.69, 0.06, 0.04)},
    **{"gmacs_by_block": [1.9, 0.95], "params_m": 23.5, "images_per_s": 64.5},
    **{"speedup": 1.25, "speedup_low": 0.8, "speedup_high": 1.6, "spread": 0.02, "noisy": True, "speed_goal": 0.01},
    **{"latency_p50": 124.03, "latency_p10": 119.94, "latency_p90": 131.55, "peak_memory_mb": 33.6},
    **{"reduction_share": 0.0249, "tokens_mean": [139.0, 72.3], "tokens_std": [0.0, 4.5]},
)
CLOSE = row(
    "tome",
    "tome[r=13]",
    **SAME,
    **{"setting": {"r": 13, "inflect": 0.0, "prop_attn": True}, "reason": "a remark"},
    **{"top1": 80.36, "top1_low": 79.02, "top1_high": 82.13, "top5": 95.01, "agreement": 94.11},
    **{"diff_dense": 0.32, "diff_dense_low": -0.63, "diff_dense_high": 1.26, "p_value": 0.5529},
    **{"gmacs": 3.22, "gmacs_fvcore": 3.3, "gmacs_by_part": parts(0.1, 0.9, 2.06, 0.13, 0.03)},
    **{"gmacs_by_block": [1.5, 1.62], "params_m": 22.051, "images_per_s": 103.2},
    **{
        "speedup": 2.0,
        "speedup_low": 1.9,
        "speedup_high": 2.5,
        "spread": 0.03,
        "noisy": False,
        "machine": {"others": 0.04, "steal": 0.06, "load": 9.0},
    },
    **{"latency_p50": 77.52, "latency_p10": 75.08, "latency_p90": 80.61, "peak_memory_mb": 28.5},
    **{"reduction_share": 0.145, "tokens_mean": [184.0, 41.0], "tokens_std": [0.0, 0.0]},
)
SLOW = row(
    "evit",
    "evit[keep_rate=0.9]",
    **SAME,
    **{"setting": {"keep_rate": 0.9, **EVIT}, "trained": OWN},
    **{"top1": 79.5, "top1_low": None, "top1_high": None, "top5": None, "gmacs": 4.14, "params_m": 23.5},
    **{"images_per_s": 8.04, "speedup": 0.8, "latency_p50": 995.02},
)
BROKEN = row(
    "topk",
    "topk[keep_rate=0.5]",
    **SAME | {"skipped": None, "runs": None},
    **{"setting": {"keep_rate": 0.5, "blocks": None}, "status": "oom", "reason": "ran out of memory"},
    **{"top1": 88.0, "gmacs": 2.3, "images_per_s": None, "speedup": None},
)
ROWS = [LOSES, CLOSE, DENSE, SLOW, BROKEN]  # dense comes first in every answer


# tables

CELLS = [
    {
        **{
            "method": "dense",
            "weights": "dense",
            "top-1 %": "80.0 [78.2, 81.8]",
            "Δ dense": "–",
            "verdict": "–",
            "top-5 %": "95.3",
        },
        **{"GMAC": "4.600", "Δ GMAC": "–", "params M": "22.05", "img/s": "52", "speed-up": "1.00 [1.00, 1.00]"},
        **{"spread": "1 %", "ms a batch": "155.0 [150.2, 161.3]", "selecting": "–", "peak MiB": "41"},
        **{"last tokens": "197", "published": "79.86 %, 4.6 G", "published, trained": "–"},
    },
    {
        **{"method": "evit[keep_rate=0.7]", "weights": "own", "top-1 %": "78.9 [77.0, 79.4]"},
        **{"Δ dense": "-1.1 [-2.0, -0.2]", "verdict": "less accurate", "top-5 %": "94.5", "GMAC": "2.990"},
        **{"Δ GMAC": "-35 %", "params M": "23.50", "img/s": "64", "speed-up": "1.25 [0.80, 1.60]"},
        **{"spread": "2 %, noisy", "ms a batch": "124.0 [119.9, 131.6]", "selecting": "2 %"},
        **{"peak MiB": "34", "last tokens": "72", "published": "–", "published, trained": "79.5 %, 3 G"},
    },
    {
        **{"method": "tome[r=13]", "weights": "dense", "top-1 %": "80.4 [79.0, 82.1]"},
        **{"Δ dense": "+0.3 [-0.6, +1.3]", "verdict": "at most 1.0 lost", "top-5 %": "95.0", "GMAC": "3.220"},
        **{"Δ GMAC": "-30 %", "params M": "22.05", "img/s": "103", "speed-up": "2.00 [1.90, 2.50]"},
        **{"spread": "3 %, busy", "ms a batch": "77.5 [75.1, 80.6]", "selecting": "14 %"},
        **{"peak MiB": "28", "last tokens": "41", "published": "78.83 %", "published, trained": "79.36 %, 2.7 G"},
    },
    {
        **{"method": "evit[keep_rate=0.9]", "weights": "own", "top-1 %": "79.5", "Δ dense": "–", "verdict": "–"},
        **{"top-5 %": "–", "GMAC": "4.140", "Δ GMAC": "-10 %", "params M": "23.50", "img/s": "8.0", "speed-up": "0.80"},
        **{
            "spread": "–",
            "ms a batch": "995.0",
            "selecting": "–",
            "peak MiB": "–",
            "last tokens": "–",
            "published": "–",
        },
        "published, trained": "79.8 %, 4 G",
    },
    {
        **{"method": "topk[keep_rate=0.5]", "weights": "dense", "top-1 %": "88.0", "Δ dense": "–", "verdict": "–"},
        **{"top-5 %": "–", "GMAC": "2.300", "Δ GMAC": "-50 %", "params M": "–", "img/s": "–", "speed-up": "–"},
        **{
            "spread": "–",
            "ms a batch": "–",
            "selecting": "–",
            "peak MiB": "–",
            "last tokens": "–",
            "published": "–",
            "published, trained": "–",
        },
    },
]
LEGEND = (
    "in brackets, top-1 %: 95 % interval (Wilson); Δ dense: paired 95 % interval (Tango); speed-up: 95 % interval "
    "of the median over rounds; ms a batch: 10th and 90th percentile",
    "verdict: more or less accurate by McNemar's exact test at 5 %, after Holm's correction for 2 settings; at most "
    "1.0 points lost where the 95 % interval ends above -1.0; else there are too few images to say",
    "spread: interquartile range of the timed passes over their median",
    "noisy: too few rounds, or too busy a machine, for the speed to be known to 1 %",
    "busy: other work, or a limit, kept more than 5 % of the machine; times are longer than they would be, and of "
    "speeds only the speed-up holds, whose rounds are interleaved",
)
NOTES = (
    "dense: published for timm weights.",
    "dense, tome[r=13], evit[keep_rate=0.9]: unreadable images left out: 3.",
    "evit[keep_rate=0.7], evit[keep_rate=0.9]: published for 300 epochs.",
    "evit[keep_rate=0.7], evit[keep_rate=0.9]: weights of its own, trained with the method: own.safetensors (cc).",
    "tome[r=13]: a remark.",
    "topk[keep_rate=0.5]: oom: ran out of memory.",
    *(f"{note}." for note in LEGEND),
)


def test_every_cell_of_the_table() -> None:
    (table,) = tables.tables(ROWS)
    assert table.frame.to_dict("records") == CELLS
    assert table.title == "deit_s" and table.notes == NOTES
    assert table.conditions == (
        "224×224; file weights w.safetensors (aa); 1900 of 50000 images of imagenet (val, sample bb); Some CPU, 2 "
        "cores, fp32, batch 8, eager; seed 42, tokenbench 0.1.0, torch 2.9, timm 1.0"
    )


def test_images_that_cannot_be_read_make_no_subset() -> None:
    for counts, told in (
        ({"images": 98, "skipped": 2, "images_total": 100}, "98 images of photos"),
        ({"images": 97, "skipped": 2, "images_total": 100}, "97 of 100 images of photos"),
        ({"images": 98}, "98 images of photos"),
    ):
        (table,) = tables.tables([row(**counts)])
        assert f"; {told} (val" in table.conditions


def test_the_files_hold_the_same(tmp_path: Path) -> None:
    markdown, text, latex = (path.read_text(encoding="utf-8") for path in tables.write(ROWS, tmp_path))
    lines = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    shown = [[cell.strip() for cell in line] for line in lines]
    assert shown[0] == list(CELLS[0]) and shown[2:] == [list(cells.values()) for cells in CELLS]
    body = latex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    names = []
    for cells, line in zip(CELLS, body, strict=True):
        plain = re.sub(r"[{}\\$]", "", line).replace("--", "–").split("&")
        assert [cell.strip() for cell in plain][1:] == list(cells.values())[1:]
        names.append(plain[0].strip())
    assert names == ["dense", "evit (keep rate 0.7)", "tome (r = 13)", "evit (keep rate 0.9)", "topk (keep rate 0.5)"]
    assert_csv(list(csv.DictReader(text.splitlines())))


def assert_csv(lines: list[dict[str, str]]) -> None:
    """Every field of every row, as it is in the row."""
    assert [line["id"] for line in lines] == [made.id for made in ROWS]
    for line, made in zip(lines, ROWS, strict=True):
        values = {**made.metrics, **{name: getattr(made, name) for name in Row.model_fields}}
        inside = {
            "setting",
            "weights",
            "trained",
            "conditions",
            "metrics",
            "intervals",
            "env",
            "machine",
            "gmacs_by_part",
        }
        for field in set(values) - inside:
            value, told = values[field], line[field]
            if value is None:
                assert told == "", field
            elif isinstance(value, list | tuple):
                assert tuple(json.loads(told)) == tuple(value), field
            elif isinstance(value, datetime):
                assert datetime.fromisoformat(told) == value
            elif isinstance(value, bool) or not isinstance(value, int | float):
                assert told == str(value), field
            else:
                assert float(told) == value, field
        assert line["weights.hash"] == "aa" and line["trained.name"] == (made.trained.name if made.trained else "")
        knob = made.setting.get("keep_rate")
        assert line["setting.keep_rate"] == ("" if knob is None else str(knob))
        assert (line["intervals.top1"], line["intervals.diff_dense"]) == ("Wilson", "Tango")
        assert line["env.commit"] == "0123456789abcdef" and "env" not in line
        mlp = (made.gmacs_by_part or {}).get("mlp")
        assert line["gmacs_by_part.mlp"] == ("" if mlp is None else str(mlp))


def test_every_cell_of_speed_by_batch() -> None:
    speedups = {"evit": {1: 0.504, 8: 1.006, 32: 0.994, 64: 1.0}, "tome": {1: 1.2, 64: 1.7}, "topk": {8: 0.9}}
    made = [row(name, batch=b, speedup=s) for name, by_batch in speedups.items() for b, s in by_batch.items()]
    made += [row(batch=b) for b in (1, 8)] + [row("evit", batch=128, speedup=9.0, status="oom", reason="no memory")]
    *_, table = tables.tables(made)
    assert table.frame.to_dict("split")["columns"] == [
        *("method", "batch 1", "batch 8", "batch 32", "batch 64", "no slower from batch")
    ]
    assert table.frame.to_numpy().tolist() == [
        ["evit", "0.50×", "1.01×", "0.99×", "1.00×", "64"],
        ["tome", "1.20×", "–", "–", "1.70×", "1"],
        ["topk", "–", "0.90×", "–", "–", "–"],
    ]


# the page

COLUMNS: dict[str, list[Any]] = {  # dense, evit 0.7, tome, evit 0.9, topk
    "id": [DENSE.id, LOSES.id, CLOSE.id, SLOW.id, BROKEN.id],
    "group": [0] * 5,
    "sweep": [0] * 5,
    "backbone": ["deit_s"] * 5,
    "name": [
        *("dense", "evit[keep_rate=0.7] (trained)", "tome[r=13]"),
        *("evit[keep_rate=0.9] (trained)", "topk[keep_rate=0.5]"),
    ],
    "method": ["dense", "evit", "tome", "evit", "topk"],
    "label": ["dense", "evit[keep_rate=0.7]", "tome[r=13]", "evit[keep_rate=0.9]", "topk[keep_rate=0.5]"],
    "trained": [None, "own.safetensors (cc)", None, "own.safetensors (cc)", None],
    "budget_images": [None] * 5,
    "status": ["ok"] * 4 + ["oom"],
    "reason": [None, None, "a remark", None, "ran out of memory"],
    "batch": [8] * 5,
    "series": [0, 1, 2, 1, 3],
    "knob": [None, 0.7, 13, 0.9, 0.5],
    "saved": [None, 0.35, 0.3, 0.1, 0.5],  # 1 - 2.99 / 4.6 ...
    "time_saved": [None, 0.2, 0.5, -0.25, None],  # 1 - 1 / 1.25 ...
    "time_saved_low": [None, -0.25, 0.473684, None, None],
    "time_saved_high": [None, 0.375, 0.6, None, None],
    "differs": [None, True, False, None, None],
    "last_tokens": [197.0, 72.3, 41.0, None, None],
    "break_even": [8, 8, 8, None, None],
    "fronts": [[], ["gmacs"], ["gmacs", "latency_p50", "images_per_s", "peak_memory_mb"], [], []],
    "fronts_across": [[]] * 5,
    "score": [80.04, 78.92, 80.36, 79.5, 88.0],
    "score_low": [78.16, 77.02, 79.02, None, None],
    "score_high": [81.83, 79.44, 82.13, None, None],
    "top5": [95.26, 94.53, 95.01, None, None],
    "agreement": [None, 91.37, 94.11, None, None],
    "diff_dense": [None, -1.12, 0.32, None, None],
    "diff_dense_low": [None, -2.04, -0.63, None, None],
    "diff_dense_high": [None, -0.21, 1.26, None, None],
    "p_value": [None, 0.0171, 0.5529, None, None],
    "images": [1900] * 5,
    "gmacs": [4.6, 2.99, 3.22, 4.14, 2.3],
    "params_m": [22.051, 23.5, 22.051, 23.5, None],
    "images_per_s": [51.6, 64.5, 103.2, 8.04, None],
    "speedup": [1.0, 1.25, 2.0, 0.8, None],
    "speedup_low": [1.0, 0.8, 1.9, None, None],
    "speedup_high": [1.0, 1.6, 2.5, None, None],
    "latency_p10": [150.16, 119.94, 75.08, None, None],
    "latency_p50": [155.04, 124.03, 77.52, 995.02, None],
    "latency_p90": [161.27, 131.55, 80.61, None, None],
    "reduction_share": [None, 0.0249, 0.145, None, None],
    "runs": [10, 10, 10, 10, None],
    "spread": [0.01, 0.02, 0.03, None, None],
    "peak_memory_mb": [41.4, 33.6, 28.5, None, None],
    "tokens_mean": [[197.0, 197.0], [139.0, 72.3], [184.0, 41.0], None, None],
    "tokens_std": [[0.0, 0.0], [0.0, 4.5], [0.0, 0.0], None, None],
    "parts": [["attention", "mlp", "embed", "head", "selection"]] * 3 + [None] * 2,
    "parts_of": [[1.7, 2.75, 0.1, 0.05, 0.0], [1.1, 1.69, 0.1, 0.04, 0.06], [0.9, 2.06, 0.1, 0.03, 0.13], None, None],
    "times": [["rest", "selecting"]] * 3 + [None] * 2,
    "times_of": [[155.04, 0.0], [120.942, 3.08835], [66.2796, 11.2404], None, None],
    "t_times": ["rest 155.0, selecting 0.0", "rest 120.9, selecting 3.1", "rest 66.3, selecting 11.2", "", ""],
    "t_score": ["80.0 [78.2, 81.8]", "78.9 [77.0, 79.4]", "80.4 [79.0, 82.1]", "79.5", "88.0"],
    "t_diff": ["–", "-1.1 [-2.0, -0.2]", "+0.3 [-0.6, +1.3]", "–", "–"],
    "t_verdict": ["–", "less accurate", "at most 1.0 lost", "–", "–"],
    "t_p": ["–", "0.017", "0.553", "–", "–"],
    "t_top5": ["95.3", "94.5", "95.0", "–", "–"],
    "t_agreement": ["–", "91.4", "94.1", "–", "–"],
    "t_budget": ["–"] * 5,
    "t_gmacs": ["4.600", "2.990", "3.220", "4.140", "2.300"],
    "t_change": ["–", "-35 %", "-30 %", "-10 %", "-50 %"],
    "t_params": ["22.05", "23.50", "22.05", "23.50", "–"],
    "t_speed": ["52", "64", "103", "8.0", "–"],
    "t_speedup": ["1.00 [1.00, 1.00]", "1.25 [0.80, 1.60]", "2.00 [1.90, 2.50]", "0.80", "–"],
    "t_spread": ["1 %", "2 %, noisy", "3 %, busy", "–", "–"],
    "t_latency": ["155.0 [150.2, 161.3]", "124.0 [119.9, 131.6]", "77.5 [75.1, 80.6]", "995.0", "–"],
    "t_share": ["–", "2 %", "14 %", "–", "–"],
    "t_peak": ["41", "34", "28", "–", "–"],
    "t_last": ["197", "72", "41", "–", "–"],
    "t_setting": ["dense", "0.7", "r=13", "0.9", "0.5"],
    "t_images": ["1,900"] * 5,
    "t_timed": ["10", "10", "10", "10", "–"],
    "t_saved": ["–", "35 %", "30 %", "10 %", "50 %"],
    "t_time_saved": ["–", "20 % [-25 %, 38 %]", "50 % [47 %, 60 %]", "-25 %", "–"],
    "t_came_true": ["–", "57 %", "167 %", "-250 %", "–"],  # 20 of 35 ...
    **{f"t_{name}": ["–"] * 5 for name in ("part_gmacs", "part_change", "parts_gmacs", "parts_ms")},  # of detectors
    "t_tokens": ["197 197", "139 72", "184 41", "", ""],
    "t_parts": [
        "attention 1.700, mlp 2.750, embed 0.100, head 0.050, selection 0.000",
        "attention 1.100, mlp 1.690, embed 0.100, head 0.040, selection 0.060",
        "attention 0.900, mlp 2.060, embed 0.100, head 0.030, selection 0.130",
        "",
        "",
    ],
}


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html.page(ROWS), re.DOTALL)
    assert found is not None
    return dict(json.loads(found.group(1)))


def test_every_value_of_the_page(page: dict[str, Any]) -> None:
    found = {name: unpacked(column, page["count"]) for name, column in page["columns"].items()}
    assert page["count"] == 5 and set(found) == set(COLUMNS)
    for name, values in COLUMNS.items():
        assert found[name] == values, name


def unpacked(column: dict[str, Any], count: int) -> list[Any]:
    return [column["values"][i] for i in column.get("at", range(count))]


def test_the_conditions_of_the_page(page: dict[str, Any]) -> None:
    (group,) = page["groups"]
    answers = group.pop("answers")
    assert answers["axis"] == "latency_p50"
    slider = answers["sliders"]["drop gmacs"]
    assert (slider["values"][slider["start"]], slider["texts"][slider["start"]]) == (1.0, "at most 1.0 point lost")
    tome = "+0.3 [-0.6, +1.3] points, -30 % GMAC, 77.5 [75.1, 80.6] ms a batch"
    evit = "-1.1 [-2.0, -0.2] points, -35 % GMAC, 124.0 [119.9, 131.6] ms a batch"
    # of two: 2.241 standard errors of 0.95 / 1.96 below 0.32 is -0.766
    assert answers["said"][slider["at"][slider["start"]]] == {
        "headline": "Use tome[r=13]: -30 % GMAC, at most 0.8 points lost, 95 % sure on 1,900 images",
        "lead": [
            *("In full: ", ["tome[r=13]"], f", {tome}. "),
            *(["evit[keep_rate=0.7] (trained)"], f" cannot be judged yet ({evit})", ". "),
        ],
        "use": 2,
    }
    slider = answers["sliders"]["latency_p50"]  # steps of 50: from the least, 77.5, to the most, 995
    assert slider["values"] == [50.0 * i for i in range(1, 22)] and slider["texts"][1] == "within 100 ms a batch"
    said = [answers["said"][at] for at in slider["at"]]
    assert said[0]["headline"] == "Nothing here keeps {limit}: the nearest is tome[r=13] with 77.5 ms a batch"
    assert said[0]["lead"] == ["3 settings do not keep to it."] and said[0]["use"] is None
    assert said[1]["headline"].startswith("{Limit}, use tome[r=13], the most accurate: 80.4 %, at most 0.7 points lost")
    assert group.pop("members") == [0]
    keys = group.pop("keys")
    assert keys["time"] == {"rest": 0, "selecting": 4}
    assert keys["parts"] == {"attention": 0, "mlp": 1, "embed": 2, "head": 3, "selection": 4}
    assert group == {
        "notes": list(LEGEND),
        "name": "deit_s",
        "subset": "a subset: 1,900 of 50,000 images",
        "images": 1900,
        "metric": {
            **{"name": "top1", "heading": "top-1 %", "axis": "top-1 accuracy, %", "digits": 1, "noun": "accuracy"},
            **{"short": "top-1", "points": "points", "sign": 1, "shown": True},
        },
        "conditions": {
            "task": "classification",
            "backbone": "deit_s",
            "weights": "w.safetensors (file)",
            "weights hash": "aa",
            "image size": "224×224",
            "data": "1,900 images of imagenet (val)",
            "sample": "bb",
            "hardware": "Some CPU, 2 cores",
            "device": "cpu",
            "precision": "fp32",
            "batch": "8",
            "mode": "eager",
            "seed": "42",
            "versions": "tokenbench 0.1.0, torch 2.9, timm 1.0",
        },
        "environment": {
            "processor": "Some CPU",
            "threads": "2",
            "system": "Linux",
            "commit": "0123456789ab",
            "timed rounds": "10",
            "unreadable images": "3",
            "measured": "2026-03-04",
        },
    }
    assert [(m["name"], m["light"]) for m in page["methods"]] == [
        (name, style.colour(name)) for name in ("dense", "evit", "tome", "topk")
    ]


def test_published_values_beside_measured_ones(page: dict[str, Any]) -> None:
    few, file = "measured on 1,900 of 50,000 images", "measured with the weights in w.safetensors"
    training = "published after training with the method, measured with weights that were not"
    fields = ("row", "published_top1", "inside", "t_published", "t_how", "t_difference", "t_inside")
    fields += ("t_published_gmacs", "t_ratio", "t_why")
    shelf, inside = "off the shelf", "inside the interval"
    wanted = [
        (0, 79.86, True, "79.86", shelf, "+0.2", inside, "4.6", "+0.0 %", f"{few}; {file}; published for timm weights"),
        (1, 79.5, False, "79.50", "trained", "-0.6", "", "3", "-0.3 %", f"{few}; published for 300 epochs"),
        (2, 78.83, False, "78.83", shelf, "+1.5", "", "–", "", f"{few}; {file}"),
        (2, 79.36, True, "79.36", "trained", "+1.0", inside, "2.7", "+19.3 %", f"{few}; {training}; {file}"),
        (3, 79.8, None, "79.80", "trained", "-0.3", "", "4", "+3.5 %", f"{few}; published for 300 epochs"),
    ]
    assert page["published"] == [dict(zip(fields, line, strict=True)) for line in wanted]


# figures: what is drawn where


def drawn(figure: Figure | None) -> Axes:
    assert figure is not None
    (axes,) = figure.axes
    return axes


def points(axes: Axes, method: str, hollow: bool = False) -> list[tuple[float, float]]:
    """Where marks in the colour of a method stand."""
    found = []
    for line in axes.lines:
        marks = line.get_marker() not in ("None", "") and (line.get_fillstyle() == "none") == hollow
        if marks and line.get_color() == style.colour(method):
            found += list(zip(line.get_xdata(), line.get_ydata(), strict=True))  # type: ignore[arg-type]
    return rounded(found)


def bars(axes: Axes) -> list[tuple[float, float, float, float]]:
    """The ends of intervals: x, y and x, y."""
    segments = [s for c in axes.collections if isinstance(c, LineCollection) for s in c.get_segments()]
    return rounded([tuple(s.flatten()) for s in segments])  # type: ignore[misc]


def lines(axes: Axes) -> list[list[tuple[float, float]]]:
    """Lines without marks."""
    plain = [line for line in axes.lines if line.get_marker() in ("None", "")]
    return [rounded(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in plain]  # type: ignore[arg-type]


def rounded(places: Any) -> Any:
    return [tuple(round(float(value), 6) for value in place) for place in places]


@pytest.fixture(scope="module")
def group() -> groups.Group:
    (made,) = groups.grouped(ROWS)
    return made


@pytest.mark.parametrize(
    ("axis", "places"),
    [
        (AXES[0], (4.6, 2.99, 3.22, 4.14)),
        (AXES[1], (155.04, 124.03, 77.52, 995.02)),
        (AXES[2], (51.6, 64.5, 103.2, 8.04)),
    ],
    ids=lambda given: getattr(given, "field", ""),
)
def test_figure_of_accuracy(group: groups.Group, axis: Axis, places: tuple[float, ...]) -> None:
    dense, loses, close, slow = places
    axes = drawn(figures.accuracy(group, axis))
    assert points(axes, "dense") == [(dense, 80.04)]
    assert points(axes, "evit") == [(loses, 78.92), (slow, 79.5)] and points(axes, "tome") == [(close, 80.36)]
    assert points(axes, "topk") == []
    assert points(axes, "evit", hollow=True) == [(loses, 79.5), (slow, 79.8)]
    assert points(axes, "tome", hollow=True) == [(close, 78.83), (close, 79.36)]
    assert points(axes, "dense", hollow=True) == [(dense, 79.86)]
    ahead = {(close, 79.02, 82.13): 80.36}  # which nothing beats
    if axis.field == "gmacs":
        ahead[loses, 77.02, 79.44] = 78.92
    assert sorted(bars(axes)) == sorted((x, low, x, high) for x, low, high in ahead)
    front = sorted((place[0], top1) for place, top1 in ahead.items())
    assert lines(axes) == [front, [(loses, 78.92), (slow, 79.5)]], "the front, and settings of a method"
    assert axes.get_ylabel() == "top-1 accuracy, %" and axes.get_xlabel() == axis.title


def test_figure_of_differences(group: groups.Group) -> None:
    axes = drawn(figures.differences(group))
    assert bars(axes) == [(-2.04, 0, -0.21, 0), (-0.63, 1, 1.26, 1)]
    assert points(axes, "evit") == [(-1.12, 0)]
    (noise,) = (line for line in axes.lines if line.get_markerfacecolor() == "white")
    assert (noise.get_xdata(), noise.get_ydata(), noise.get_color()) == ([0.32], [1], figures.GREY)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["evit[keep_rate=0.7]", "tome[r=13]"]
    assert list(axes.lines[0].get_xdata()) == [0, 0]  # type: ignore[arg-type]


def test_figure_of_savings(group: groups.Group) -> None:
    axes = drawn(figures.saved(group))
    assert points(axes, "evit") == [(35, 20), (10, -25)] and points(axes, "tome") == [(30, 50)]
    assert points(axes, "dense") == points(axes, "topk") == []
    assert bars(axes) == [(35, -25, 35, 37.5), (30, 47.368421, 30, 60)]
    assert lines(axes) == [[(0, 0), (35, 35)], [(35, 20), (10, -25)]]


def test_figure_of_tokens(group: groups.Group) -> None:
    axes = drawn(figures.tokens(group))
    assert lines(axes) == [[(0, 197), (1, 197)], [(0, 139), (1, 72.3)], [(0, 184), (1, 41)]]
    assert [points(axes, name) for name in ("dense", "evit", "tome")] == [[(1, 197)], [(1, 72.3)], [(1, 41)]]


def test_figure_of_speed_by_batch() -> None:
    speedups = {"evit": {32: 1.5, 1: 0.5, 8: 1.1}, "tome": {8: 0.9}}
    made = [row(name, batch=b, speedup=s) for name, by_batch in speedups.items() for b, s in by_batch.items()]
    made += [row("topk", batch=1, speedup=3.0, status="oom", reason="no memory"), row(batch=1)]
    (figure,) = figures.sweeps(made)
    axes = drawn(figure)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8", "32"]
    assert points(axes, "evit") == [(0, 0.5), (1, 1.1), (2, 1.5)] and points(axes, "tome") == [(1, 0.9)]
    assert points(axes, "topk") == points(axes, "dense") == []
    assert list(axes.lines[0].get_ydata()) == [1, 1]  # type: ignore[arg-type]


def test_training_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = [
        {"update": 1, "epoch": 0.5, "loss": 2.5, "lr": 0.1},
        {"update": 2, "epoch": 1.0, "loss": 1.5, "lr": 0.3},
        {"update": 2, "epoch": 1.0, "top1": 41.237},
    ]
    kept: list[Figure] = []
    save: Callable[..., None] = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (kept.append(self), save(self, *a, **k)))
    curves.draw(log, "a run", tmp_path / "curve.svg", Classification.metrics[0])
    loss, rate, top1 = kept[0].axes
    told = [[list(a.lines[0].get_xdata()), list(a.lines[0].get_ydata())] for a in (loss, rate, top1)]  # type: ignore[arg-type]
    assert told == [[[0.5, 1.0], [2.5, 1.5]], [[0.5, 1.0], [0.1, 0.3]], [[1.0], [41.237]]]
    assert [a.get_ylabel() for a in (loss, rate, top1)] == ["loss", "learning rate", "top-1 %"]
    assert [text.get_text() for text in top1.texts] == ["41.24"] and rate.get_xlabel() == "epoch"
