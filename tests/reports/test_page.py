"""What the page and the figures are made of: fronts, groups, comparisons, and a file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import ENV, row

from tokenbench.errors import ResultsError, UsageError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.reports import files, groups, pareto, published, style
from tokenbench.reports.page import html
from tokenbench.reports.paper import figures
from tokenbench.runs.row import Row, WeightsId

SHIPPED = Path(__file__).parents[2] / "benchmarks/imagenet/results.jsonl"
numbers = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12)


@given(numbers)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[int, int]]) -> None:
    costs, values = [p[0] for p in points], [p[1] for p in points]

    def beaten(c: float, v: float) -> bool:
        return any(a <= c and b >= v and (a, b) != (c, v) for a, b in points)

    assert pareto.front(costs, values) == [not beaten(*point) for point in points]


@given(numbers)
def test_a_saving_within_the_slack_is_none(points: list[tuple[int, int]]) -> None:
    costs, values = [float(p[0]) for p in points], [float(p[1]) for p in points]
    exact, loose = pareto.front(costs, values), pareto.front(costs, values, slack=0.3)
    for i, (cost, value) in enumerate(zip(costs, values, strict=True)):
        near = any(c <= 1.3 * cost and v > value for c, v in zip(costs, values, strict=True))
        assert loose[i] == (exact[i] and not near)


def test_a_front_never_leaves_its_conditions() -> None:
    better = row("evit", top1=99.0, gmacs=0.1, images_per_s=999.0, latency_p50=1.0)
    assert [p.fronts for p in groups.grouped([row(), better])[0].points] == [
        frozenset(),
        {a.field for a in pareto.AXES},
    ]
    for change in ({"batch": 1}, {"hardware": "B"}, {"precision": "bf16"}, {"image_size": (1, 1)}, {"dataset": "d"}):
        made = groups.grouped([row(), better.model_copy(update=change)])
        assert [[bool(p.fronts) for p in group.points] for group in made] == [[True], [True]], change
        assert len(set(groups.names(made))) == 2


def test_what_failed_or_was_not_measured_is_on_no_front() -> None:
    made = [row(), row("evit", top1=None, gmacs=0.1), row("tome", top1=99.0, status="failed", reason="it broke")]
    (group,) = groups.grouped(made)
    assert [bool(p.fronts) for p in group.points] == [True, False, False]


def settings(**knobs: Any) -> Row:
    setting = make(get("evit"), knobs)
    return row("evit", setting.label, setting=setting.model_dump(mode="json"), gmacs=2.0 * setting.keep_rate)


def test_a_line_joins_settings_that_differ_in_one_knob() -> None:
    made = [settings(keep_rate=r) for r in (0.5, 0.9, 0.7)] + [settings(keep_rate=r, fuse=False) for r in (0.5, 0.7)]
    alone = row("plugin", setting={"kind": "a"})
    (group,) = groups.grouped([row(), *made, alone])
    lines = [[p.row.label for p in line] for line in group.joined()]
    assert lines == [
        ["evit[keep_rate=0.5]", "evit[keep_rate=0.7]", "evit[keep_rate=0.9]"],
        ["evit[keep_rate=0.5,fuse=false]", "evit[keep_rate=0.7,fuse=false]"],
    ]


def test_trained_and_training_free_rows_are_told_apart() -> None:
    def own(made: Row, hash: str) -> Row:
        return made.model_copy(update={"trained": WeightsId(kind="file", name="own.safetensors", hash=hash)})

    free = [settings(keep_rate=rate) for rate in (0.5, 0.7)]
    made = [*free, own(free[0], "aa"), own(free[1], "bb"), own(free[1], "cc")]
    (group,) = groups.grouped([row(), *made])
    assert [[bool(p.row.trained) for p in line] for line in group.joined()] == [[False, False], [True, True, True]]
    assert data(html.page(made))["columns"]["name"]["values"] == [
        "evit[keep_rate=0.5]",
        "evit[keep_rate=0.7]",
        "evit[keep_rate=0.5] (trained)",
        "evit[keep_rate=0.7] (trained, bb)",
        "evit[keep_rate=0.7] (trained, cc)",
    ]


def test_savings_and_noise() -> None:
    evit = row("evit", gmacs=1.5, speedup=2.0, diff_dense=-1.0, diff_dense_low=-2.0, diff_dense_high=0.0)
    sure = row("tome", speedup=0.5, diff_dense_low=-2.0, diff_dense_high=-0.1)
    dense, near, far = groups.grouped([evit, sure, row()])[0].points
    assert (dense.saved, dense.time_saved, dense.inside_noise) == (None, None, None)
    assert (near.saved, near.time_saved, near.inside_noise) == (0.25, 0.5, True)
    assert (far.time_saved, far.inside_noise) == (-1.0, False)
    assert [p.saved for p in groups.grouped([evit])[0].points] == [None], "only against the dense model beside it"


def test_a_subset_is_said_and_unreadable_images_make_none() -> None:
    def subset(**counts: int) -> str | None:
        return groups.grouped([row(**counts)])[0].subset

    assert subset(images=100, images_total=2000) == "a subset: 100 of 2,000 images"
    assert subset(images=98, skipped=2, images_total=100) is None and subset(images=100) is None


def reasons(made: Row) -> list[str]:
    return published.Comparison(made, published.of(made)[0]).reasons


def test_a_difference_from_the_paper_has_its_reasons() -> None:
    setting = make(get("tome"), {"r": 13})
    identity = {"setting": setting.model_dump(mode="json"), "backbone": "deit_s", "images": 50_000}
    made = row("tome", setting.label, top1=78.0, top1_low=77.6, top1_high=78.4, gmacs=2.7, **identity)
    free, trained = [published.Comparison(made, reported) for reported in published.of(made)]
    assert free.reasons == ["nothing known differs"] and free.inside is False and free.top1 == pytest.approx(-0.83)
    assert trained.reasons == ["published after training with the method, measured with weights that were not"]
    assert trained.gmacs == pytest.approx(0) and free.gmacs is None
    few = made.model_copy(update={"images": 100, "precision": "bf16", "top1_high": 79.0})
    assert reasons(few) == [
        "measured on 100 images of photos, published on ImageNet validation",
        "measured in bf16",
    ]
    assert published.Comparison(few, published.of(few)[0]).inside is True
    none = made.model_copy(update={"top1": None, "reason": "no --data-dir, so no accuracy"})
    assert reasons(none)[0] == "accuracy was not measured (no --data-dir, so no accuracy)"


def data(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_is_one_small_file_that_asks_for_nothing(tmp_path: Path) -> None:
    from tokenbench.runs.results import load

    path = html.write(load(SHIPPED)[0], tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path.stat().st_size < 3_000_000 and [p.name for p in tmp_path.iterdir()] == ["index.html"]
    head = page.split("<script>")[0]
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)", head) and "@import" not in head and "url(" not in head
    policy = unescape(head.split("Content-Security-Policy")[1].split(">")[0])
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy and "connect-src" not in policy
    for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL):
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy


def test_numbers_come_through_and_null_is_not_zero() -> None:
    found = data(html.page([row(top1=12.3456789, top5=0.0), row("evit", top1=None, top5=None)]))
    columns = {name: [c["values"][i] for i in c.get("at", range(2))] for name, c in found["columns"].items()}
    assert columns["score"] == [12.3457, None] and columns["top5"] == [0.0, None]
    assert columns["method"] == ["dense", "evit"] and columns["group"] == [0, 0]


def test_nothing_of_a_row_is_markup() -> None:
    evil = "</script><script>alert(1)</script><!--"
    page = html.page([row(evil, evil, backbone=evil, hardware=evil, reason=evil, env={**ENV, "cpu": evil})])
    assert "alert(1)</script>" not in page.replace(evil.replace("<", r"\u003c").replace(">", r"\u003e"), "")
    assert "<!--" not in page.split("<script>")[0] and data(page)["methods"][0]["name"] == evil


def test_a_fragment_of_maps_is_taken_in_and_its_script_allowed() -> None:
    script = "console.log('maps')"
    page = html.page([row()], f"<div id='x'></div><script>{script}</script>")
    assert "<div id='x'></div>" in page and base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in page
    assert 'id="maps"' not in html.page([row()])


def test_no_rows_and_no_folder_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There are no rows to report"):
        html.page([])
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        files.write([row()], tmp_path / "file")


def test_figures_are_written_for_what_was_measured(tmp_path: Path) -> None:
    from tokenbench.runs.results import load

    drawn = figures.write(load(SHIPPED)[0], tmp_path, ("svg",))
    names = ["accuracy_gmac", "accuracy_images_per_s", "differences", "gmac_time", "tokens"]
    assert [p.stem for p in drawn.files] == names and drawn.left_out is None
    svg = drawn.files[0].read_text()
    assert style.colour("tome") in svg and "GMAC an image" in svg and "published" in svg
    bare = row("evit", top1=None, images_per_s=None, speedup=None)
    assert figures.write([bare], tmp_path, ("pdf",)).files == []
    many = figures.write([row(hardware=f"CPU {i}", batch=b) for i in range(5) for b in (1, 2)], tmp_path, ("svg",))
    assert many.left_out == "figures of 3 more sets of conditions were left out"
    assert [p.name for p in many.files][:3] == ["accuracy_gmac.svg", "accuracy_images_per_s.svg", "accuracy_gmac-2.svg"]


def test_speed_by_batch_is_drawn_where_batches_were_timed(tmp_path: Path) -> None:
    made = [row(name, batch=b, speedup=0.5 + b / 8) for name in ("dense", "evit") for b in (1, 8)]
    (figure,) = [f for f in figures.sweeps(made)]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["1", "8"]
    assert [list(line.get_ydata()) for line in figure.axes[0].lines][1:] == [[0.625, 1.5]]
    assert "speedup_batch.svg" in [p.name for p in figures.write(made, tmp_path, ("svg",)).files]
    assert list(figures.sweeps([*made[:1], row("evit", batch=1, hardware="B")])) == []


def test_the_same_rows_give_the_same_files(tmp_path: Path) -> None:
    made = [row(), row("evit", speedup=2.0, gmacs=1.0)]
    for kind in figures.KINDS:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            figures.write(made, tmp_path / folder, (kind,))
        name = f"figures/accuracy_gmac.{kind}"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert html.page(made) == html.page(made)


def test_every_method_looks_different() -> None:
    from tokenbench.methods import all_methods

    looks = {(style.colour(name), style.marker(name)) for name in all_methods()}
    assert len(looks) == len(all_methods()) and set(style.METHODS) >= set(all_methods())
    assert {style.colour(name) for name in style.METHODS} | set(style.OTHERS) == set(style.ON_DARK)
    assert style.marker("a_plugin") == style.marker("a_plugin") in style.SHAPES


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are enforced on Linux")
def test_the_page_comes_where_its_engine_cannot_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V8 reserves 16 GiB of addresses and ends the process that does not get them."""
    code = "ulimit -v 12582912; exec \"$0\" -c 'from tokenbench.reports.page import html; print(html.runtime())'"
    done = subprocess.run(["bash", "-c", code, sys.executable], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "None\n")
    monkeypatch.setattr(html, "BUNDLE", "raise SystemExit(1)")
    html.runtime.cache_clear()
    try:
        written = files.write([row()], tmp_path)
        text = written.page.read_text()
        assert len(text) < 200_000 and json.loads(text.split('id="data">')[1].split("</script>")[0])["columns"]
        assert written.figures and "The page has no charts" in written.left_out[0]
    finally:
        html.runtime.cache_clear()
