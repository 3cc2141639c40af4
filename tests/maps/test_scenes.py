"""Where the semantic tokens of a pyramid look, and the figures of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import tiny_swin

from tokenbench.backbones import Backbone
from tokenbench.maps.scenes import REACH, Layer, Scene, Unit, choices, of_boxes, units
from tokenbench.methods.dense import Dense
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model
from tokenbench.pyramid import Pyramid
from tokenbench.reports.maps import scenes


def test_units_are_what_the_recovering_block_attends_to() -> None:
    """Shares that sum to one, none of windows too far away; and mixing values by them gives the block's output."""
    body = Pyramid(Model(Backbone(tiny_swin()), STViTR()).eval())
    (unit,) = units(body, torch.randn(1, 3, 96, 1000))
    assert unit.layout == (6, 63) and unit.tokens == (2 * 3, 13 * 3) and unit.clusters.shape == (6, 63)
    np.testing.assert_allclose(unit.weights.sum(axis=1), 1, rtol=1e-5)
    shares = unit.weights.reshape(6, 63, 6, 39)
    assert (shares[:, 0, :, 3 * (REACH + 1) :] == 0).all() and (shares[:, 0, :, : 3 * (REACH + 1)] > 0).all()
    assert units(Pyramid(Model(Backbone(tiny_swin()), Dense()).eval()), torch.randn(1, 3, 64, 64)) == ()


def test_choices_are_the_patches_that_take_the_mlps() -> None:
    """Of the map's own 6 x 63 patches, at each choice as many as are counted."""
    body = Pyramid(Model(Backbone(tiny_swin()), DynamicViT()).eval())
    found = choices(body, torch.randn(1, 3, 96, 1000))
    assert [(one.shape, int(one.sum())) for one in found] == [((6, 63), n) for n in (264, 188, 113)]
    assert choices(Pyramid(Model(Backbone(tiny_swin()), Dense()).eval()), torch.randn(1, 3, 64, 64)) == ()


def test_figures(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:30] = True
    layer = of_boxes([mask], [[10, 5, 30, 20]], ["disk 90"], (40, 60))
    assert layer.labels[6, 11] == 0 and layer.labels[0, 0] == -1
    weights = np.full((6, 4), 0.25, np.float32)
    weights[:, 1] += 0.1
    unit = Unit((2, 3), (2, 2), weights)
    assert scenes.busiest(unit) == 1 and (unit.clusters == 1).all()
    picture = np.zeros((40, 60, 3), np.uint8)
    nothing = Layer(np.full((40, 60), -1), np.zeros((0, 4)))
    kept = np.array([[True, False, False], [False, False, True]])
    both = [Scene("a b/c.png", picture, layer, layer, (unit,), (kept,)), Scene("d.png", picture, None, nothing)]
    files = scenes.write("stvit_r[tokens=9]", both, tmp_path / "maps")
    assert [f.name for f in files] == ["000-c-stvit_r-tokens-9.png", "001-d-stvit_r-tokens-9.png", "scenes.html"]
    assert all(f.is_file() for f in files) and files[0].name in files[2].read_text()
    made = scenes.figure("dense", both[0])
    titles = [axes.get_title(loc="left") for axes in made.axes if axes.get_title(loc="left")]
    assert titles[:5] == ["a b/c.png", "truth", "found by dense", "clusters, unit 1", "one token of unit 1"]
    assert titles[5:] == ["33 % through MLPs, choice 1"]
