"""GMACs of whole detectors and segmenters, part by part, as printed for Swin (its detection and segmentation code)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from conftest import counting

from tokenbench import backbones
from tokenbench.measure.running import as_published
from tokenbench.methods.dense import Dense
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model
from tokenbench.tasks.detection import Detection
from tokenbench.tasks.segmentation import Segmentation

PREDICTORS = 1000 * 1024 * (81 + 4 * 81) / 1e9  # of classes and boxes, behind the box heads of 13.9 and 128.5 GMAC


@cache
def gmacs(task: Any, name: str, method: Any, size: tuple[int, int], classes: int) -> dict[str, float]:
    """By part, and the whole, on the meta device."""
    from tokenbench.measure.flops import _attributed

    with counting() as counter:
        model = task.counted(task.model(Model(backbones.create(name), method), classes)).eval()
        with as_published(model), _attributed(model, lambda: counter.get_total_flops() / 2e9) as (_, by_part):
            model(torch.empty(1, 3, *size))
        return {**by_part, "whole": counter.get_total_flops() / 2e9}


@pytest.mark.parametrize(
    ("name", "head", "wanted"),
    [
        (
            "swin_t",
            "mask",
            {"backbone": 95.6, "neck": 53.1, "rpn": 50.6, "heads": 13.9 + PREDICTORS + 53.0, "whole": 267},
        ),
        ("swin_s", "mask", {"whole": 359}),
        ("swin_t", "cascade", {"heads": 3 * (128.5 + PREDICTORS + 53.0), "whole": 745}),
        ("swin_s", "cascade", {"backbone": 187.6, "whole": 838}),
        pytest.param("swin_b", "cascade", {"backbone": 331.1, "whole": 982}, marks=pytest.mark.slow),
    ],
)
def test_detectors_as_printed(name: str, head: Any, wanted: dict[str, float]) -> None:
    """At 800x1280, with 1000 boxes and 100 masks. Printed totals hold norms too, which are not counted here."""
    found = gmacs(Detection(head=head), name, Dense(), (800, 1280), 80)
    assert {part: found[part] for part in wanted} == pytest.approx(wanted, rel=0.005)
    assert sum(found[part] for part in ("backbone", "neck", "rpn", "heads")) == pytest.approx(found["whole"])


@pytest.mark.parametrize(
    ("name", "head", "backbone", "saved"),
    [
        ("swin_s", "mask", 130.4, 16),
        pytest.param("swin_s", "cascade", 130.4, 7, marks=pytest.mark.slow),
        pytest.param("swin_b", "cascade", 225.6, 11, marks=pytest.mark.slow),
    ],
)
def test_what_stvit_r_saves_of_a_detector(name: str, head: Any, backbone: float, saved: float) -> None:
    """Its backbone saves 31 %, the whole far less."""
    dense, own = (gmacs(Detection(head=head), name, m, (800, 1280), 80) for m in (Dense(), STViTR()))
    assert own["backbone"] == pytest.approx(backbone, rel=0.005)
    assert 100 * (1 - own["whole"] / dense["whole"]) == pytest.approx(saved, abs=0.6)
    for part in ("neck", "heads", "rpn"):
        assert own[part] == pytest.approx(dense[part], rel=1e-9)


@pytest.mark.parametrize(
    ("name", "whole", "backbone", "recovering"),
    [
        ("swin_t", 945, 99.0, None),
        pytest.param("swin_s", 1038, 192.0, 133.5, marks=pytest.mark.slow),
        pytest.param("swin_b", 1188, 338.9, 231.2, marks=pytest.mark.slow),
    ],
)
def test_segmenters_as_printed(name: str, whole: float, backbone: float, recovering: float | None) -> None:
    """At 512x2048 with 150 classes."""
    found = gmacs(Segmentation(), name, Dense(), (512, 2048), 150)
    assert (found["whole"], found["backbone"]) == pytest.approx((whole, backbone), rel=0.005)
    if recovering is not None:
        own = gmacs(Segmentation(), name, STViTR(), (512, 2048), 150)
        assert own["backbone"] == pytest.approx(recovering, rel=0.005)
        assert 100 * (1 - own["whole"] / found["whole"]) == pytest.approx({"swin_s": 5.6, "swin_b": 9}[name], abs=0.1)
