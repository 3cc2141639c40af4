"""Token maps to files and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, served
from mapped import make

from tokenbench.backbones import Backbone
from tokenbench.errors import ResultsError
from tokenbench.maps.arrays import TokenMaps
from tokenbench.maps.files import arrays, load
from tokenbench.maps.following import follow
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.reports.maps import viewer


def equal(a: TokenMaps, b: TokenMaps) -> bool:
    plain = ("method", "label", "backbone", "note", "names", "grid", "counts")
    arrays = (a.pictures, b.pictures), *zip(a.weights, b.weights, strict=True), *zip(a.fused, b.fused, strict=True)
    return all(getattr(a, name) == getattr(b, name) for name in plain) and all(
        x.dtype == y.dtype and np.array_equal(x, y) for x, y in arrays
    )


def test_what_was_traced_comes_back(tmp_path: Path, tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    methods = [get("tome")(r=2), get("evit")(), get("dynamicvit")(), get("stvit")(tokens=4), get("dense")()]
    maps = [follow(method, tiny(), images, ("a", "b.jpg", "c d", "<e>"), "a note") for method in methods]
    for image, stem in enumerate("abcd"):
        np.savez_compressed(tmp_path / f"{stem}.npz", **arrays(maps, image))
    back = load(tmp_path)
    assert all(equal(m, found) for m, found in zip(maps, back, strict=True))
    alone = load(tmp_path / "c.npz")
    assert [m.names for m in alone] == [("c d",)] * 5 and (alone[3].weights[-1] == maps[3].weights[-1][2]).all()
    evit = back[1]
    assert evit.weights[4] is evit.weights[3]  # what no block changed is held once
    assert evit.fused[4].any() and (evit.kept(5) == maps[1].kept(5)).all()


@pytest.mark.parametrize(("family", "method"), served())
def test_maps_of_every_family_come_back_and_can_be_shown(family: str, method: Method, tmp_path: Path) -> None:
    backbone = Backbone(FAMILIES[family](), "tiny")
    images = torch.randn(2, *backbone.input_size, generator=torch.Generator().manual_seed(0))
    maps = [follow(method, backbone, images, "ab")]
    for image, stem in enumerate("ab"):
        np.savez_compressed(tmp_path / f"{stem}.npz", **arrays(maps, image))
    back = load(tmp_path)
    assert equal(back[0], maps[0])
    assert json.loads(json.dumps(viewer.payload(back))) == json.loads(json.dumps(viewer.payload(maps)))


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="has no token maps"):
        load(tmp_path)
    with pytest.raises(ResultsError, match="does not exist"):
        load(tmp_path / "gone.npz")
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one" / "image-0.npz", **arrays([make("topk", np.eye(15)[:6])], 0))
    whole = (tmp_path / "one" / "image-0.npz").read_bytes()
    np.savez(tmp_path / "other.npz", picture=np.zeros(3))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name, content in (("cut.npz", whole[: len(whole) // 2]), ("text.npz", b"no zip"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
    for name in ("cut.npz", "text.npz", "empty.npz", "other.npz", "array.npy"):
        with pytest.raises(ResultsError, match="is no token map, or it is damaged"):
            load(tmp_path / name)
    np.savez(tmp_path / "one" / "two.npz", **arrays([make("tome", np.eye(15)[:6])], 0))
    with pytest.raises(ResultsError, match="of different settings or grids"):
        load(tmp_path / "one")
