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
from tokenbench.reports.paper import figures, tables
from tokenbench.runs.axes import AXES
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
    better = row("evit", top1=99.0, gmacs=0.1, images_per_s=999.0, latency_p50=1.0, peak_memory_mb=1.0)
    assert [p.fronts for p in groups.grouped([row(), better])[0].points] == [
        frozenset(),
        {a.field for a in AXES if getattr(better, a.field) is not None},
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


def test_savings_and_verdicts() -> None:
    evit = row("evit", gmacs=1.5, speedup=2.0, **change(-1.0, -2.0, 0.0, 0.06))
    sure = row("tome", speedup=0.5, **change(-1.05, -2.0, -0.1, 0.024))
    dense, near, far = groups.grouped([evit, sure, row()])[0].points
    assert (dense.saved, dense.time_saved, dense.verdict) == (None, None, None)
    assert (near.saved, near.time_saved) == (0.25, 0.5) and near.verdict.words == "too few images to say"
    assert far.time_saved == -1.0 and far.verdict.words == "less accurate" and far.verdict.judged == 2
    assert [p.saved for p in groups.grouped([evit])[0].points] == [None], "only against the dense model beside it"
    (_, kind), *_ = [(p, p.verdict) for p in groups.grouped([evit], margin=2.0)[0].points]
    assert kind.words == "at most 2.0 lost"
    failed = row("topk", status="failed", reason="it broke", **change(-9.0, -10.0, -8.0, 0.0))
    assert groups.grouped([failed])[0].points[0].verdict is None


def change(value: float, low: float, high: float, p: float) -> dict[str, float]:
    return {"diff_dense": value, "diff_dense_low": low, "diff_dense_high": high, "p_value": p}


def test_a_subset_is_said_and_unreadable_images_make_none() -> None:
    def subset(**counts: int) -> str | None:
        return groups.grouped([row(**counts)])[0].subset

    assert subset(images=100, images_total=2000) == "a subset: 100 of 2,000 images"
    assert subset(images=98, skipped=2, images_total=100) is None and subset(images=100) is None


def tome(backbone: str = "deit_s", **changes: Any) -> Row:
    """As published, on all of ImageNet's validation set and with the weights that the paper began from."""
    setting = make(get("tome"), {"r": 13})
    values = {"setting": setting.model_dump(mode="json"), "backbone": backbone, "images": 50_000, "dataset": "imagenet"}
    values |= {"weights": {"kind": "hub", "name": "timm/deit_small_patch16_224.fb_in1k@0123456789ab", "hash": "ab"}}
    values |= {"top1": 78.0, "top1_low": 77.6, "top1_high": 78.4, "gmacs": 2.7, "images_total": 50_000}
    return row("tome", setting.label, **values | changes)


def test_a_difference_from_the_paper_has_its_reasons() -> None:
    free, trained = published.compared(tome())
    assert free.reasons == ["nothing known differs"] and free.inside is False and free.top1 == pytest.approx(-0.83)
    assert trained.reasons == ["published after training with the method, measured with weights that were not"]
    assert trained.gmacs == pytest.approx(0) and free.gmacs is None
    few = published.compared(tome(images=100, precision="bf16", top1_high=79.0))[0]
    assert few.reasons == ["measured on 100 of 50,000 images", "measured in bf16"] and few.inside is True
    cropped = published.compared(tome(conditions={"crop_pct": 1.0, "method_source": "ab"}))[0]
    assert cropped.reasons == ["measured with crop pct 1.0"]
    none = published.compared(tome(top1=None, reason="no --data-dir, so no accuracy"))[0]
    assert none.reasons == ["accuracy was not measured (no --data-dir, so no accuracy)"] and none.top1 is None
    own = published.compared(tome(weights={"kind": "file", "name": "mine.pth", "hash": "ab"}))[0]
    assert own.reasons == ["measured with the weights in mine.pth"] and own.top1 is not None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"dataset": "photos"}, "measured on photos (val), published on ImageNet-1k's validation set"),
        ({"dataset": "imagenet-v2", "images": 10_000, "images_total": 10_000}, "imagenet-v2 (val)"),
        ({"dataset": "imagenet", "split": "train"}, "imagenet (train)"),
        ({"dataset": "imagenet", "images": 2000, "images_total": 2000}, "measured on imagenet (val)"),
        ({"dataset": "cifar10"}, "cifar10"),
        ({"dataset": "5"}, "measured on 5 (val)"),
        (
            {"weights": {"kind": "hub", "name": "timm/deit_small_patch16_224.other@01", "hash": "ab"}},
            "measured with timm/deit_small_patch16_224.other, published for timm/deit_small_patch16_224.fb_in1k",
        ),
    ],
    ids=str,
)
def test_no_difference_from_the_paper_on_other_images_or_weights(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    made = tome(**changes)
    (free, _), found = published.compared(made), data(html.page([made]))["published"]
    assert free.top1 is None and free.inside is None and why in free.reasons[0]
    assert [(c["published_top1"], c["t_difference"], c["t_inside"]) for c in found] == [(None, "–", "")] * 2
    assert [c["t_published"] for c in found] == ["78.83", "79.36"], "it still stands there"
    (drawn, *_) = figures.write([made], tmp_path, ("svg",)).files
    assert ">published<" not in drawn.read_text(), "no star"
    (table,) = tables.tables([made])
    assert any(why in note for note in table.notes)


def test_published_numbers_are_found_by_timms_names_too() -> None:
    for name in (
        "deit_s",
        "deit_small_patch16_224",
        "deit_small_patch16_224.fb_in1k",
        "hf-hub:timm/deit_small_patch16_224.fb_in1k",
    ):
        assert [c.reported.top1 for c in published.compared(tome(name))] == [78.83, 79.36], name
        assert published.compared(tome(name))[0].top1 is not None
    for name in ("deit_base_patch16_224", "deit_small_patch16_224.nope", "deit_small_distilled_patch16_224"):
        assert published.compared(tome(name)) == [], name


def test_folders_that_are_imagenets_validation_set() -> None:
    for name in ("imagenet", "ImageNet-1k", "ILSVRC2012", "imagenet_1k", "in1k", "CLS-LOC", "imagenet2012"):
        assert published.is_imagenet(tome(dataset=name)), name
    for name in ("imagenet-c", "imagenet-a", "imagenetv2", "imagenette", "imagenet-100", "in", "photos", None):
        assert not published.is_imagenet(tome(dataset=name)), name
    assert published.is_imagenet(tome(images=49_998, skipped=2, images_total=None)), "rows that do not say the total"
    assert not published.is_imagenet(tome(dataset="imagenet", imagenet_val=False)), "rows that say it are believed"
    assert published.is_imagenet(tome(dataset="photos", images=1000, images_total=50_000, imagenet_val=True))


def test_a_front_across_backbones_is_of_one_machine_and_the_same_images() -> None:
    big, small = row(backbone="vit_s", top1=80.0, gmacs=4.0), row(backbone="vit_ti", top1=75.0, gmacs=1.0)
    pruned = row("evit", backbone="vit_s", top1=74.0, gmacs=2.0)
    found = groups.grouped([big, pruned, small])
    (together,) = groups.combined(found)
    fronts = {(p.row.method, p.row.backbone): p.fronts for p in together.points}
    assert "gmacs" in fronts["dense", "vit_s"] and "gmacs" in fronts["dense", "vit_ti"]
    assert "gmacs" not in fronts["evit", "vit_s"], "the small dense model is more accurate and cheaper"
    assert together.members == (0, 1) and together.conditions["backbone"] == "vit_s, vit_ti"
    for change in ({"hardware": "B"}, {"sample_hash": "other"}, {"batch": 1}, {"top1": None}):
        assert groups.combined(groups.grouped([big, small.model_copy(update=change)])) == [] or "top1" in change
    page = data(html.page([big, pruned, small]))
    assert [group["name"] for group in page["groups"]] == ["vit_s", "vit_ti", "vit_s, vit_ti · together"]


def test_any_two_rows_are_told_beside_each_other(tmp_path: Path) -> None:
    import numpy as np

    from tokenbench.measure.predictions import Predictions
    from tokenbench.runs.results import predictions_path

    made, file = [row(), row("evit", gmacs=1.0), row("tome", gmacs=1.5)], tmp_path / "results.jsonl"
    for wrong, one in zip((0, 3, 30), made, strict=True):
        top = np.arange(100, dtype=np.int32)[:, None] < wrong
        Predictions(top.astype(np.int32), np.zeros(100, np.int32)).save(predictions_path(file, one.id))
    told = data(html.page(made, file=lambda _: file))
    lines = [told["lines"][i] for i in told["pairs"]["0 2"]]
    assert (
        lines[0][0] == "top-1 %" and lines[0][1].startswith("-30.0 [") and lines[0][2].startswith("less accurate, more")
    )
    assert ["GMAC", "×0.75", ""] in lines and len(told["pairs"]) == 3
    lines = [told["lines"][i] for i in told["pairs"]["1 2"]]
    assert lines[0][1].startswith("-27.0 ["), "not only beside dense"
    bare = data(html.page(made))
    assert bare["lines"][bare["pairs"]["0 1"][0]][2].startswith("not paired"), "without predictions it is said"


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
    assert style.colour("tome") in svg and "GMAC an image" in svg and ">published<" not in svg, "of other images"
    (drawn,) = [p for p in figures.write([tome()], tmp_path, ("svg",)).files if p.stem == "accuracy_gmac"]
    assert ">published<" in drawn.read_text()
    bare = row("evit", top1=None, images_per_s=None, speedup=None)
    assert figures.write([bare], tmp_path, ("pdf",)).files == []
    many = figures.write([row(hardware=f"CPU {i}", batch=b) for i in range(5) for b in (1, 2)], tmp_path, ("svg",))
    assert many.left_out == "figures of 4 more sets of conditions were left out"
    names = ["accuracy_gmac.svg", "accuracy_images_per_s.svg", "accuracy_gmac-2.svg"]
    assert [p.name for p in many.files][:2] == names[:2] and names[2] not in [p.name for p in many.files]
    two = figures.write([row(hardware=f"CPU {i}") for i in range(2)], tmp_path, ("svg",))
    assert [p.name for p in two.files][:3] == names and two.left_out is None


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
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # where nothing is kept of other times
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
        assert not (tmp_path / "cache").exists()
        monkeypatch.setattr(html, "BUNDLE", "print('</script>')")
        html.runtime.cache_clear()
        assert html.runtime() == "<\\/script>\n"
        monkeypatch.setattr(html, "BUNDLE", "raise SystemExit(1)")
        html.runtime.cache_clear()
        assert html.runtime() == "<\\/script>\n", "it is kept, and not made again"
    finally:
        html.runtime.cache_clear()
