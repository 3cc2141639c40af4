"""Swin of other windows and image sizes: every method runs on it or says why not."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_swin

from tokenbench import Pyramid, backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import Unsupported
from tokenbench.methods import all_methods
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model

UNEVEN = "do not divide the third stage's map"
THINNING = "windows need all tokens of a grid"
SIZES = {
    "window 7, 224": dict(img_size=224, window_size=7),
    "window 12, 384": dict(img_size=384, window_size=12),
    "window 8, 256": dict(img_size=256, window_size=8),
    "window 7, 336x224": dict(img_size=(336, 224), window_size=7),
    "window 7, 160": dict(img_size=160, window_size=7),
    "window 4, 112": dict(img_size=112, window_size=4),
    "any size": dict(img_size=160, dynamic_img_size=True),
}
REFUSED = {  # where a method that serves windows does not run
    ("window 7, 160", "stvit"): UNEVEN,
    ("window 7, 160", "stvit_r"): UNEVEN,
    ("window 4, 112", "stvit"): UNEVEN,
    ("window 4, 112", "stvit_r"): UNEVEN,
    ("any size", "stvit"): "it needs one image size, and this backbone takes any",
    ("any size", "stvit_r"): "it needs one image size, and this backbone takes any",
}


@pytest.mark.parametrize("name", all_methods())
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_runs_or_says_why(size: str, name: str) -> None:
    method = all_methods()[name]()
    backbone = Backbone(tiny_swin(**SIZES[size]))
    reason = REFUSED.get((size, name), None if method.windowed else THINNING)
    if reason:
        with pytest.raises(Unsupported, match=reason):
            Model(backbone, method)
        return
    shape = (3, 192, 96) if size == "any size" else backbone.input_size
    small = backbone.grid[0] < 60  # a map has as many entries as pairs of patches
    out = Model(backbone, method).eval().run(torch.randn(1, *shape), trace=small)
    assert out.logits.shape == (1, 10) and out.logits.isfinite().all()
    for step in out.trace:
        assert step.layout[0] * step.layout[1] == step.count
        assert not small or (step.share.sum(1) <= 1 + 1e-5).all()


@pytest.mark.parametrize("size", ["window 12, 384", "window 8, 256"])
@torch.inference_mode()
def test_pyramid(size: str) -> None:
    maps = Pyramid(Model(Backbone(tiny_swin(**SIZES[size])), STViTR()).eval())(torch.randn(1, 3, 100, 140))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(25, 35), (13, 18), (7, 9), (4, 5)]


@pytest.mark.parametrize("name", ["swin_base_patch4_window12_384", "swin_s3_tiny_224", "swin_large_patch4_window7_224"])
def test_timms_own(name: str) -> None:
    """What timm offers beside T, S and B of window 7 is asked the same way."""
    with torch.device("meta"):
        backbone = backbones.create(name)
    serving = {m for m, cls in all_methods().items() if cls().refusal(backbone) is None}
    assert serving == {"convstem", "dense", "dynamicvit", "stvit", "stvit_r"}
