"""How alike settings are: the same however images come in parts, of what there is only, and shown as measured."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tokenbench.backbones import Backbone
from tokenbench.core.tokens import Tokens
from tokenbench.errors import ResultsError, UsageError
from tokenbench.maps import following, similarity
from tokenbench.maps.arrays import READ, agreement
from tokenbench.maps.following import Ready
from tokenbench.maps.similarity import Alike
from tokenbench.measure.likeness import cka
from tokenbench.methods import get
from tokenbench.reports.maps import alike


def alikes(*, other: str = "evit", cka_class: float | None = 0.5) -> list[Alike]:
    told = {"backbone": "tiny", "images": 9, "method": other, "setting": f"{other}[r=1]", "other_method": "dense"}
    numbers = {"kept_iou": 1.0, "cluster_nmi": 0.25, "cka_others": 0.75}
    return [
        Alike(**told, other="dense", block=block, **numbers, cka_class=None if block == 1 else cka_class)
        for block in range(4)
    ]


def test_parts_of_images_add_up_and_what_is_compared_is_what_both_have(
    tiny: Callable[..., Backbone], images: torch.Tensor
) -> None:
    settings = [(get("dense")(), None), (get("topk")(keep_rate=0.5), None), (get("stvit")(tokens=4), None)]
    ready = Ready(settings, tiny(), "abcd", images, "", 0)
    whole, parts = similarity.measure(ready.maps()), similarity.measure(ready.maps(3))
    for a, b in zip(whole, parts, strict=True):
        assert a.model_dump() == pytest.approx(b.model_dump(), abs=1e-4, nan_ok=False)
    (maps,) = ready.maps()
    by_pair = {(one.setting, one.other, one.block): one for one in whole}
    assert len(by_pair) == len(whole) == 3 * 12
    one = by_pair["dense", "topk[keep_rate=0.5]", 7]
    kept, shared = agreement(maps[0], maps[1], 7)
    assert (one.kept_iou, one.cluster_nmi) == (pytest.approx(kept.mean()), pytest.approx(shared.mean()))
    dense, topk = maps[0].features[7], maps[1].features[7]
    assert [one.cka_class, one.cka_others] == pytest.approx([cka(dense[name], topk[name]) for name in READ])
    assert 0 < one.kept_iou < 1 and one.cka_class != one.cka_others
    assert by_pair["dense", "topk[keep_rate=0.5]", 0].cka_class == pytest.approx(1)  # nothing is dropped there yet
    for block in range(12):  # no class token from the first block on: what comes first is another
        assert by_pair["dense", "stvit[tokens=4]", block].cka_class is None
        assert by_pair["dense", "stvit[tokens=4]", block].cka_others is not None


def test_padding_and_dropped_tokens_are_in_no_mean(tiny: Callable[..., Backbone]) -> None:
    x = torch.arange(12.0).reshape(1, 6, 2)
    present = torch.tensor([[True, True, True, True, False]])
    alive = torch.tensor([[1.0, 0.0, 1.0, 1.0, 1.0]])
    found = following._features([Tokens(x, 1, (5, 1), present=present, alive=alive)], tiny())
    assert found[READ[0]].tolist() == [[0, 1]]
    assert found[READ[1]].tolist() == [x[0, [1, 3, 4]].mean(0).tolist()]


def test_too_little_to_compare_is_one_sentence(tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    dense, topk = ((get(name)(), None) for name in ("dense", "topk"))
    for settings, count in (([dense], 4), ([dense, topk], 3)):
        with pytest.raises(UsageError, match=f"here is {len(settings)} on {count}"):
            similarity.measure(Ready(settings, tiny(), "abcd"[:count], images[:count], "", 0).maps())


def test_what_is_written_is_read_again_and_what_is_damaged_is_said(tmp_path: Path) -> None:
    found, path = alikes(), tmp_path / similarity.NAME
    similarity.write(found, path)
    assert similarity.read(path) == found
    lines = path.read_text().splitlines()
    for damaged in ("a,b\n1,2\n", "\n".join([lines[0], lines[1][:-9]]), lines[0] + "\n" + lines[1] + ",7\n", "\0\n"):
        path.write_text(damaged)
        with pytest.raises(ResultsError, match="no table of similarity"):
            similarity.read(path)


def test_each_setting_is_shown_beside_each_other_and_gaps_stay_gaps() -> None:
    views = alike._views([*alikes(), *alikes(other="stvit", cka_class=None)])
    assert [view["label"] for view in views] == ["dense", "evit[r=1]", "stvit[r=1]"]
    panels = {panel["title"]: panel["lines"] for panel in views[0]["panels"]}
    (of_class,) = panels["Class token"]
    assert of_class["path"].count("M") == 2  # block 1 has none
    assert of_class["told"] == "evit[r=1]: 0.50, 0.50, 0.50 after blocks 0 to 3"
    assert len(panels["Kept patches"]) == 2
    rows = {row["label"]: row["cells"] for row in views[0]["rows"]}
    assert rows == {"evit[r=1]": ["0.50", "0.75", "1.00", "0.25"], "stvit[r=1]": ["–", "0.75", "1.00", "0.25"]}
    falling = [
        one.model_copy(update={"kept_iou": value}) for one, value in zip(alikes(), (1, 0.2, 0.4, 0.6), strict=True)
    ]
    assert alike._cell(falling, "kept_iou") == "0.60, lowest 0.20 after 1"


def test_the_part_is_harmless_and_keeps_to_itself() -> None:
    evil = '<img src=x onerror="alert(1)">'
    part = alike.fragment([one.model_copy(update={"setting": evil}) for one in alikes()])
    assert "<img" not in part and "<script" not in part and part.count("9 images") == 1
    assert not re.search(r"""(src|href)=["']|@import|https?:|url\(""", part)
    css = part.partition("<style>")[2].partition("</style>")[0]
    selectors = re.findall(r"^\s*([^@{}\n]+?)\s*\{", css, re.M)
    assert selectors and all(one.strip().startswith(".tb-alike") for line in selectors for one in line.split(","))
    assert alike.fragment([]) == ""
    assert all(0 <= float(y) <= alike.HIGH for y in re.findall(r"[ML][\d.]+,([\d.-]+)", part))
    assert np.isfinite(alike._y(-0.3)) and alike._y(-0.3) < alike.HIGH


def test_it_needs_no_torch() -> None:
    code = "import sys, tokenbench.reports.maps.alike; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
