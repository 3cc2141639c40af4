"""Which row is compared with which, and every word of why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rows import ENV, row

from tokenbench.errors import UnknownName, UsageError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.runs import matching
from tokenbench.runs.differing import CONDITIONS, differ
from tokenbench.runs.matching import Found, matched, named
from tokenbench.runs.row import Row

FILE, OTHER = Path("a.jsonl"), Path("b.jsonl")
OWN = {"kind": "file", "name": "own.safetensors", "hash": "f00d"}


def found(name: str, knobs: dict[str, Any] | None = None, file: Path = FILE, **changes: Any) -> Found:
    made = make(get(name), knobs or {})
    values = {"label": made.label, "setting": made.model_dump(mode="json"), "time": "2026-01-01T00:00:00Z"}
    return Found(row(name, **values | changes), file)


def refused(call: Any, *args: Any) -> str:
    with pytest.raises(UsageError) as error:
        call(*args)
    return str(error.value)


def test_rows_are_named_by_label_id_or_in_other_words() -> None:
    tome, evit = found("tome"), found("evit")
    broken = found("tome", seed=7, status="failed", reason="broke")
    for name in ("tome[r=13]", tome.row.id, "tome", "tome[inflect=0,r=13]"):
        assert named([evit, tome, broken], name, FILE) == [tome]
    assert named([evit, tome, broken], None, FILE) == [evit, tome]
    placed = found("evit", {"keep_rate": 0.5, "blocks": (2, 5)})
    assert named([evit, placed], "evit[blocks=2/5,keep_rate=0.5]", FILE) == [placed]
    assert str(tome) == "tome[r=13] of a.jsonl"


@pytest.mark.parametrize(
    ("text", "value", "written"),
    [
        *(("2/5", [2, 5], True), ("2", [2], True), ("2/5", [2], False), ("2", [2, 5], False), ("2/6", [2, 5], False)),
        *(("2.0/5", [2, 5], True), ("true", True, True), ("false", False, True), ("True", True, False)),
        *(("1", True, False), ("13", 13, True), ("13.0", 13, True), ("14", 13, False), ("0.50", 0.5, True)),
        *(("max", "max", True), ("max", "mean", False), ("max", 3, False), ("3", "3", True), ("none", None, False)),
    ],
)
def test_a_value_in_other_words(text: str, value: Any, written: bool) -> None:
    assert matching._is_written(text, value) is written


def test_a_text_plainly_is_a_setting_without_its_method_being_asked() -> None:
    """A wrong no would only cost the import of torch, and no row."""
    tome, placed = found("tome").row, found("evit", {"keep_rate": 0.5, "blocks": (2, 5)}).row
    for text in ("tome", "tome[r=13]", "tome[inflect=0,r=13.0]"):
        assert matching._says(text, tome), text
    assert matching._says("evit[blocks=2/5,keep_rate=0.5]", placed)
    for text in ("evit", "tome[r=8]", "tome[r=13,none=1]", "tome,tome", "tome[", "evit[keep_rate=0.5]", ""):
        assert not matching._says(text, tome) and not matching._says(text, placed), text
    other = tome.model_copy(update={"setting": {**tome.setting, "r": 8}})
    assert not matching._says("tome", other) and matching._says("tome[r=8]", other)
    unknown = tome.model_copy(update={"method": "mine", "setting": {}})
    assert not matching._says("mine", unknown), "whose defaults nobody knows"


def test_what_is_not_there_is_told_in_one_sentence() -> None:
    broken = found("tome", status="failed", reason="broke")
    for name in ("tome", None):
        assert refused(named, [broken], name, FILE) == (
            "tome[r=13] of a.jsonl was not measured (failed: broke); compare another."
        )
    for name in ("tome", None):
        assert refused(named, [], name, FILE) == (
            "a.jsonl has no rows to compare; give a results file that `tokenbench run` wrote."
        )
    with pytest.raises(UnknownName) as error:
        named([found("evit")], "tome[r=13]", FILE)
    assert str(error.value) == str(
        UnknownName("setting", "tome[r=13]", {"evit[keep_rate=0.7]": None}, "`tokenbench report a.jsonl`")
    )
    assert refused(named, [found("evit")], "tome[r=4,13]", FILE) == (
        "'tome[r=4,13]' names 2 settings; name one, as tome[r=4]."
    )
    with pytest.raises(UnknownName, match=r"Unknown setting 'nobody\[r=1\]'"):  # of a plug-in that is not loaded
        named([found("evit")], "nobody[r=1]", FILE)


def test_rows_match_by_backbone_batch_size_and_setting() -> None:
    first = found("tome")
    assert matched([first], [found("tome", file=OTHER)], True) == [(first, found("tome", file=OTHER))]
    assert matched([first], [found("evit")], False) == [(first, found("evit"))]
    for other in (
        found("tome", backbone="vit_y"),
        found("tome", batch=9),
        found("tome", image_size=(224, 96)),
        found("tome", metrics={}, task="other"),
    ):
        assert refused(matched, [first], [Found(other.row, OTHER)], False) == (
            "a.jsonl and b.jsonl have nothing in common: no two rows with the same backbone, batch and image size; "
            "run both alike."
        )
    for other in (found("evit", file=OTHER), found("tome", {"r": 5}, OTHER), found("tome", file=OTHER, trained=OWN)):
        assert refused(matched, [first], [other], True) == (
            "a.jsonl and b.jsonl have nothing in common: no two rows of one setting with the same backbone, batch and "
            "image size; run both alike."
        )
    pairs = matched([first, found("evit")], [found("evit"), found("topk"), first], True)
    assert pairs == [(first, first), (found("evit"), found("evit"))]


def test_of_several_the_one_under_the_same_conditions() -> None:
    """Weights of a setting's own and the session may differ; the same weights come before others."""
    first = found("dense", env=ENV | {"session": "1"})
    near, far = found("tome", env=ENV | {"session": "2"}), found("tome", seed=7)
    assert matched([first], [far, near], False) == [(first, near)]
    own = found("tome", trained=OWN)
    assert matched([first], [own, far], False) == [(first, own)]
    assert matched([first], [own, near], False) == [(first, near)]
    assert matched([own], [near, own], False) == [(own, own)]


def test_a_choice_is_refused_with_what_tells_the_rows_apart() -> None:
    """At most four are told."""
    seeds = [found("tome", seed=seed) for seed in range(5)]
    told = "; ".join(f"{f.row.id} (batch 8, fp32, Some CPU, 2 cores, seed {f.row.seed})" for f in seeds[:4])
    words = f"tome[r=13] of a.jsonl is 5 rows, and any could be meant; name one by its id: {told}."
    assert refused(matched, [found("dense")], seeds, False) == words
    assert refused(matched, seeds, [found("dense", seed=9)], False) == words
    own = [found("tome", trained=OWN | {"name": name}) for name in ("a.pth", "b.pth")]
    assert refused(matched, [found("dense")], own, False).endswith(
        f"{own[0].row.id} (batch 8, fp32, Some CPU, 2 cores, seed 42, weights a.pth); "
        f"{own[1].row.id} (batch 8, fp32, Some CPU, 2 cores, seed 42, weights b.pth)."
    )
    one = found("dense")
    both = [found("tome"), found("tome", trained=OWN)]
    assert refused(matched, both, [one], False).startswith("tome[r=13] of a.jsonl is 2 rows, and any could be meant")


def test_what_differs_is_told_with_both_values() -> None:
    first = found("tome", env={"torch": "2.9", "timm": "1.0", "session": "1"}).row
    assert differ(first, first) == {}
    plain, mine = found("tome").row, found("tome", conditions={"method_source": "1", "threads": 2}).row
    assert differ(plain, mine)["conditions"] == ("{}", "{'method_source': '1', 'threads': 2}")
    other = found("evit", conditions={"method_source": "2"}).row
    assert "conditions" not in differ(plain, other), "of two methods each has a source of its own"
    assert differ(mine, other)["conditions"] == ("{'threads': 2}", "{}")
    changes: dict[str, Any] = {
        "weights": {"kind": "random", "name": "vit_x"},
        "trained": OWN,
        "dataset": "drawings",
        "split": "test",
        "sample_hash": "cc",
        "device": "cuda",
        "hardware": "Abacus",
        "precision": "bf16",
        "compile": True,
        "seed": 7,
        "version": "0.2.0",
        "conditions": {"mean": 0.5},
    }
    assert set(changes) == set(CONDITIONS)
    told = {name: (str(getattr(first, name)), str(value)) for name, value in changes.items()}
    told["weights"] = ("w.safetensors (aa)", "vit_x (random)")
    told["trained"] = ("None", "own.safetensors (f00d)")
    told |= {"torch": ("2.9", "3.0"), "timm": ("1.0", "1.1"), "session": ("1", "None")}
    second: Row = found("tome", **changes, env={"torch": "3.0", "timm": "1.1"}).row
    assert differ(first, second) == told
    assert list(differ(first, second)) == [*CONDITIONS, "torch", "timm", "session"]
