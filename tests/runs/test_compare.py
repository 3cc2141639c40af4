"""Any two rows are compared on what both have, image by image, and only with the one that was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refusals import refused
from rows import row

from tokenbench.errors import UnknownName, UsageError
from tokenbench.measure.accuracy import Predictions
from tokenbench.measure.verdicts import Paired, median_ends, quotient
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.runs.compare import Change, Pair, compare
from tokenbench.runs.gates import failing, gate
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row

RIGHT = {"dense": range(0, 90), "tome": range(0, 86), "evit": range(4, 93)}  # of 100 images


def setting(name: str, knobs: dict[str, Any] | None = None, **changes: Any) -> Row:
    made = make(get(name), knobs or {})
    values = {"label": made.label, "setting": made.model_dump(mode="json"), "spread": 0.02, "runs": 25, "noisy": False}
    values = {name: value for name, value in values.items() if name in Row.model_fields}
    return row(name, **values | {"skipped": 0, "params_m": 2.0, "top5": changes.get("top1")} | changes)


def write(path: Path, *rows: Row, right: dict[str, range] = RIGHT) -> Path:
    for made in rows:
        Results(path).append(made)
        if made.metrics.get("top1") is not None and made.status == "ok":
            top = np.ones((100, 5), np.int32)
            top[list(right[made.method]), 0] = 0
            top[:, 1:] = [2, 3, 4, 5]
            Predictions(top, np.zeros(100, np.int32)).save(Results(path).predictions(made.id))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    dense = setting("dense", top1=90.0, images_per_s=100.0)
    tome = setting("tome", top1=86.0, images_per_s=150.0, speedup=1.5, peak_memory_mb=50.0)
    evit = setting("evit", top1=89.0, images_per_s=120.0, speedup=1.2, gmacs=1.5, peak_memory_mb=40.0)
    return write(tmp_path / "a.jsonl", dense, tome, evit)


def test_two_settings_of_one_file(file: Path) -> None:
    (pair,) = compare([file], ["tome[r=13]", "evit[keep_rate=0.7]"])
    assert (pair.first.row.method, pair.second.row.method) == ("tome", "evit")
    top1, wanted = pair.changes["top1"], Paired(7, 4, 100)
    assert (top1.first, top1.second, top1.value) == (86.0, 89.0, 3.0)
    assert (top1.low, top1.high) == wanted.interval() and top1.p == wanted.p
    assert top1.words == "too few images to say" and pair.changes["agreement"].value == 89.0
    assert pair.changes["top5"] == Change(86.0, 89.0, 3.0) and pair.changes["gmacs"].words == ""
    values = {name: change.value for name, change in pair.changes.items()}
    assert values["gmacs"] == 1.5 and values["images_per_s"] == 0.8 and values["speedup"] == pytest.approx(0.8)
    assert values["peak_memory_mb"] == 0.8 and values["params_m"] == 1.0 and "latency_p50" not in values
    speed = pair.changes["images_per_s"]
    assert speed.words == "slower" and speed.low < 0.8 < speed.high < 1  # type: ignore[operator]
    half = 1.96 * 1.25 * 0.02 / (1.35 * 5)  # of each median; both together, on their logarithms
    assert speed.high == pytest.approx(0.8 * np.exp(np.hypot(np.log1p(half), np.log1p(half))))
    (back,) = compare([file], ["evit", "tome[r=13,inflect=0]"])  # however the label is written
    assert back.changes["top1"].value == -3.0 and back.changes["gmacs"].value == pytest.approx(1 / 1.5)
    assert back.changes["top1"].low == -top1.high and back.changes["top1"].p == top1.p  # type: ignore[operator]


def test_points_have_no_tail_and_top5_is_of_both(tmp_path: Path) -> None:
    rows = setting("dense", top1=0.0), setting("tome", top1=29.0)
    file = write(tmp_path / "a.jsonl", *rows, right={"dense": range(0), "tome": range(29)})
    (pair,) = compare([file], ["tome"])
    assert pair.changes["top5"].value == pair.changes["top1"].value == 29.0
    for i in range(2):
        some = [setting(one.method, top1=one.top1, top5=one.top5 if i == j else None) for j, one in enumerate(rows)]
        few = write(tmp_path / f"{i}.jsonl", *some, right={"dense": range(0), "tome": range(29)})
        (pair,) = compare([few], ["tome"])
        assert "top5" not in pair.changes and pair.changes["top1"].value == 29.0


def test_one_setting_of_one_file_is_compared_with_dense(file: Path) -> None:
    (pair,) = compare([file], ["tome"])
    assert pair.first.row.method == "dense" and pair.changes["top1"].value == -4.0
    assert pair.changes["images_per_s"].value == 1.5 and pair.changes["images_per_s"].words == "faster"
    (pair,) = compare([file], [pair.second.row.id])
    assert pair.second.row.method == "tome"


def test_two_files_are_compared_setting_by_setting(file: Path, tmp_path: Path) -> None:
    later = {"version": "0.2.0", "env": {"torch": "3.0", "timm": "1.0"}}
    better = write(
        tmp_path / "b.jsonl",
        setting("tome", top1=95.0, images_per_s=75.0, **later),
        setting("dense", top1=90.0, images_per_s=100.0, **later),
        setting("topk", top1=None, **later),
        right=RIGHT | {"tome": range(0, 95)},
    )
    dense, tome = compare([file, better])
    assert [p.first.row.method for p in (dense, tome)] == ["dense", "tome"] and tome.second.file == better
    assert dense.changes["top1"].value == 0 and dense.changes["top1"].words == "too few images to say"
    assert tome.changes["top1"].value == 9.0 and tome.changes["top1"].words == "more accurate"
    assert tome.changes["images_per_s"].value == 0.5
    assert tome.differ == {"version": ("0.1.0", "0.2.0"), "torch": ("2.9", "3.0")}
    (only,) = compare([file, better], ["tome"])
    assert only.changes["top1"].value == 9.0
    (across,) = compare([file, better], ["evit", "tome"])
    assert (across.first.row.method, across.second.row.method) == ("evit", "tome")


def test_a_ratio_of_speeds_has_an_interval_where_both_rows_have_one(tmp_path: Path) -> None:
    """Of throughput from spread and runs; of the speed-up from its own ends, which rows without `noisy` do not have."""
    sure = {"top1": None, "speedup": 1.2, "speedup_low": 1.1, "speedup_high": 1.4}
    asked = ("images_per_s", "speedup")

    def ends(number: int, first: dict[str, Any], second: dict[str, Any]) -> list[tuple[float | None, float | None]]:
        file = write(tmp_path / f"{number}.jsonl", setting("dense", **sure | first), setting("evit", **sure | second))
        (pair,) = compare([file], ["evit"])
        assert all(pair.changes[name].value == 1.0 for name in asked)
        return [(pair.changes[name].low, pair.changes[name].high) for name in asked]

    none = (None, None)
    of_speed, of_speedup = ends(0, {}, {})
    own = median_ends(50.0, 0.02, 25)
    assert of_speed == quotient(50.0, own, 50.0, own) and of_speedup == quotient(1.2, (1.1, 1.4), 1.2, (1.1, 1.4))
    for number, (changes, want) in enumerate(
        [
            ({"spread": None}, [none, of_speedup]),
            ({"runs": None}, [none, of_speedup]),
            ({"noisy": None}, [of_speed, none]),
            ({"speedup_low": None}, [of_speed, none]),
            ({"speedup_high": None}, [of_speed, none]),
        ]
    ):
        assert ends(2 * number + 1, changes, {}) == want, changes
        assert ends(2 * number + 2, {}, changes) == want, changes
    exact = ends(99, {"spread": 0.0}, {"noisy": True})
    assert exact[0] == quotient(50.0, own, 50.0, (50.0, 50.0)) and exact[1] == of_speedup


def test_every_batch_size_is_a_pair_and_judged_once(file: Path) -> None:
    write(file, setting("dense", batch=1), setting("tome", batch=1), setting("tome", batch=64))
    pairs = compare([file], ["tome"])
    assert [(p.first.row.batch, p.second.row.batch) for p in pairs] == [(8, 8), (1, 1)]
    alone = compare([file], [pairs[0].second.row.id])[0].changes["top1"].words
    assert {p.changes["top1"].words for p in pairs} == {alone}


def test_what_could_mean_several_rows_is_refused_with_their_ids(file: Path, tmp_path: Path) -> None:
    other = setting("tome", seed=7)
    write(file, other)
    (pair,) = compare([file], ["evit", "tome"])
    assert pair.second.row.seed == 42, "the one under the same conditions"
    (pair,) = compare([file], ["evit", other.id])
    assert pair.second.row.seed == 7 and pair.differ["seed"] == ("42", "7")
    write(file, setting("evit", seed=7))
    assert [p.first.row.seed for p in compare([file], ["evit", "tome"])] == [42, 7], "each under its own conditions"
    several = write(tmp_path / "b.jsonl", setting("tome", seed=8), other)
    with pytest.raises(UsageError, match=r"tome\[r=13\] of .* is 2 rows.*name one by its id.*seed 8.*seed 7"):
        compare([write(tmp_path / "c.jsonl", setting("evit")), several], ["evit", "tome"])
    own = [{"kind": "file", "name": f"{i}.safetensors", "hash": str(i)} for i in (1, 2)]
    twice = write(tmp_path / "d.jsonl", setting("evit"), *(setting("tome", trained=weights) for weights in own))
    with pytest.raises(UsageError, match=r"is 2 rows.*weights 1.safetensors.*weights 2.safetensors"):
        compare([twice], ["evit", "tome"])


def test_what_cannot_be_compared_is_one_sentence(file: Path, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "b.jsonl", setting("tome", batch=1), setting("topk", status="failed", reason="broke"))
    missing = tmp_path / "missing.jsonl"
    missing.touch()
    for files, settings, why in (
        ([file, elsewhere], [], "have nothing in common"),
        ([file, elsewhere], ["topk"], "Unknown setting 'topk'"),
        ([elsewhere], ["tome", "topk"], r"topk.*was not measured \(failed: broke\)"),
        ([file], ["tome[r=14]"], r"Unknown setting 'tome\[r=14\]'. Did you mean tome\[r=13\]"),
        ([file], ["tome[r=4,13]"], r"names 2 settings; name one, as tome\[r=4\]"),
        (
            [file],
            [],
            "^1 file and 0 settings cannot be compared; give two results files, or one and a setting or two, as: "
            r'tokenbench compare results.jsonl "tome\[r=13\]" evit\.$',
        ),
        ([file] * 3, ["tome"], "3 files and 1 setting"),
        ([missing, file], [], "^.*missing.jsonl has no rows to compare"),
        ([], ["tome", "evit"], "0 files and 2 settings"),
        ([file], ["tome", "evit", "dense"], "3 settings cannot be compared"),
        (
            [write(tmp_path / "empty.jsonl", setting("dense", status="oom", reason="big")), file],
            [],
            "no rows to compare|was not measured",
        ),
    ):
        with pytest.raises(UsageError, match=why) as error:
            compare(files, settings)
        assert error.value.exit_code == 2 and "\n" not in str(error.value)


def test_predictions_must_be_there_and_of_the_same_images(file: Path, tmp_path: Path) -> None:
    moved = write(tmp_path / "moved.jsonl", setting("tome", sample_hash="cc"))
    sides = "(photos, sample bb; photos, sample cc); run both with the same --data-dir and --limit."
    with refused(UsageError, f"tome[r=13] of {file} and tome[r=13] of {moved} are of other images {sides}"):
        compare([file, moved], ["tome"])
    less = write(tmp_path / "less.jsonl", setting("tome"))
    Predictions(np.ones((99, 5), np.int32), np.zeros(99, np.int32)).save(Results(less).predictions(setting("tome").id))
    why = "are of other images (some could be read in one run only); run both again with --force."
    with refused(UsageError, f"The predictions of tome[r=13] of {file} and tome[r=13] of {less} {why}"):
        compare([file, less], ["tome"])
    path = Results(file).predictions(setting("tome").id)
    path.write_bytes(b"broken")
    with refused(UsageError, f"tome[r=13] of {file} cannot be paired image by image: {path} holds no predictions …"):
        compare([file], ["tome"])
    path.unlink()
    with pytest.raises(UsageError, match="cannot be paired image by image: There are no predictions"):
        compare([file], ["tome"])


def test_without_accuracy_the_rest_is_compared(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", setting("dense", top1=None), setting("tome", top1=None))
    (pair,) = compare([file], ["tome"])
    assert "top1" not in pair.changes and pair.changes["gmacs"].value == 0.5


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("top1<-0.5", True),
        ("top1<-4", False),
        ("top1<=-4", True),
        ("top1 > -4.5", True),
        ("top1_high<0", False),
        ("p_value<0.05", False),
        ("images_per_s<0.95", False),
        ("images_per_s>1.4", True),
        ("images_per_s_low>1.4", True),
        ("gmacs>=0.5", True),
        ("agreement<97", True),
        ("top5>0", False),
    ],
)
def test_conditions(file: Path, text: str, holds: bool) -> None:
    pairs = compare([file], ["tome"])
    assert [(p.second.row.method, g.text) for p, g in failing(pairs, [gate(text)])] == [("tome", text)] * holds


def test_conditions_that_mean_nothing() -> None:
    for text in ("top1", "top1<", "<5", "top1<half", "top1=5", "top1<nan", "top1<inf", "top1<-0.5%", ""):
        example = "write a field, a sign and a number, like top1<-0.5."
        with refused(UsageError, f"--fail-if '{text}' is not allowed; {example}"):
            gate(text)
    with pytest.raises(
        UnknownName, match=r"Unknown field 'img_per_s'. Did you mean images_per_s.*`tokenbench compare --help`\.$"
    ):
        gate("img_per_s<1")


def test_a_condition_on_what_was_not_measured_is_no_pass(file: Path, tmp_path: Path) -> None:
    def decided(text: str, *pairs: Pair) -> list[str]:
        return [p.second.row.label for p, _ in failing(pairs, [gate(text)])]

    (pair,) = compare([file], ["tome"])
    with pytest.raises(UsageError, match="'latency_p50>1' cannot be decided"):
        decided("latency_p50>1", pair)
    (both,) = compare([file], ["tome", "evit"])
    (back,) = compare([file], ["tome", "dense"])
    for lacking, names in ((pair, ("dense", "tome[r=13]")), (back, ("tome[r=13]", "dense"))):  # dense has none
        for pairs in ((lacking,), (both, lacking), (lacking, both)):
            with pytest.raises(UsageError) as error:
                decided("peak_memory_mb>1", *pairs)
            assert str(error.value) == (
                f"--fail-if 'peak_memory_mb>1' cannot be decided, for {names[0]} of {file} and {names[1]} of {file} do "
                "not both have peak_memory_mb; measure it, or leave the condition out."
            )
    half = write(tmp_path / "half.jsonl", setting("dense", images_per_s=9.0), setting("evit", images_per_s=None))
    (timed,) = compare([half], ["evit"])
    with pytest.raises(UsageError, match=r"'images_per_s_low<9' cannot be decided, for dense of .*half.jsonl and evit"):
        decided("images_per_s_low<9", both, timed)
    assert decided("peak_memory_mb>0.5", both) == ["evit[keep_rate=0.7]"]
    bare = write(tmp_path / "bare.jsonl", setting("dense", top1=None), setting("evit", top1=None))
    (untrained,) = compare([bare], ["evit"])
    assert decided("top1<-0.5", untrained, pair) == ["tome[r=13]"], "what neither has decides nothing"
    with pytest.raises(UsageError, match="cannot be decided"):
        decided("top1<-0.5", untrained)
    other = write(tmp_path / "other.jsonl", *(setting(n, task="other", metrics={}) for n in ("dense", "evit")))
    (unscored,) = compare([other], ["evit"])
    assert decided("top1<-0.5", unscored, pair) == ["tome[r=13]"], "of a task that has no such metric"
