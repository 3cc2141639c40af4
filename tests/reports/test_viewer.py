"""What the token-map viewer is given: small, complete, computed here, and harmless."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mapped import COLS, ROWS, make, settings

from tokenbench.errors import UsageError
from tokenbench.maps import files as mapfiles
from tokenbench.maps.arrays import agreement
from tokenbench.reports.maps import viewer

PATCHES = ROWS * COLS


def test_the_strip_holds_every_map() -> None:
    maps = settings()
    data = viewer.payload(maps)
    assert json.loads(json.dumps(data))["grid"] == [ROWS, COLS]
    for i, image in enumerate(data["images"]):
        strip = zlib.decompress(base64.b64decode(image["strip"]))
        for m, found in zip(maps, image["maps"], strict=True):
            for block in range(m.depth):
                state = found["states"][found["blocks"][block]]
                codes = np.frombuffer(strip, "<u2", PATCHES, state["hard"]).reshape(ROWS, COLS)
                assert (np.where(codes < viewer.FUSED, codes.astype(int), -1) == m.clusters(block)[i]).all()
                assert ((codes == viewer.FUSED).ravel() == m.fused[block][i]).all()
                assert state["kept"] == m.kept(block)[i].sum()
                assert state["entropy"] == pytest.approx(m.entropy(block)[i], abs=1e-3)
                assert [size for size, count in state["sizes"] for _ in range(count)] == m.sizes(block)[i].tolist()
                assert bool(state["heats"]) == m.soft(block)
                if state["heats"]:
                    heat = np.frombuffer(strip, np.uint8, state["heats"] * PATCHES, state["soft"])
                    own = m.heat(block)[i].reshape(-1, PATCHES)
                    assert np.allclose(heat.reshape(own.shape) / 255, own / own.max(1, keepdims=True), atol=1 / 255)


def test_agreement_is_of_each_pair_at_each_block() -> None:
    maps = settings()
    pairs = viewer.payload(maps)["images"][1]["pairs"]
    assert len(pairs) == 6
    assert pairs[4][1] == pytest.approx([value[1] for value in agreement(maps[1], maps[3], 1)], abs=1e-3)
    assert pairs[4][0] == [1, 1]


def test_a_map_that_blocks_share_is_there_once() -> None:
    m = settings()[0]
    longer = replace(m, weights=(*m.weights, m.weights[1]), fused=(*m.fused, m.fused[1]), counts=(*m.counts, 7))
    assert viewer.payload([longer])["images"][0]["maps"][0]["blocks"] == [0, 1, 1]


def test_it_begins_with_settings_that_change_something() -> None:
    dense = make("dense", np.eye(PATCHES))
    assert viewer.payload([dense, *settings(1)])["start"] == [1, 2]
    assert viewer.payload([dense])["start"] == [0, 0]


def test_of_very_many_images_some_are_shown_and_the_page_says_so() -> None:
    maps = settings(5)
    assert [image["name"] for image in viewer.payload(maps, most=2)["images"]] == ["image 0.png", "image 2.png"]
    assert "5 images" in viewer.fragment(maps)
    many = make("topk", np.eye(PATCHES)[:6], images=viewer.MOST + 1)
    assert f"{viewer.MOST} images of {viewer.MOST + 1}, spread evenly" in viewer.fragment([many])


def test_nothing_from_a_name_runs() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    m = settings(1)[0]
    page = viewer.page([replace(m, names=(evil,), label=evil, note=evil, backbone=evil)])
    assert "alert(1)</script>" not in page and "<img src=x" not in page
    assert page.count("<script") == 2
    assert evil in json.loads(re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)[0])["backbone"]
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", page)


def test_the_part_asks_nothing_of_the_page() -> None:
    part = viewer.fragment(settings())
    assert not re.search(r"""(src|href)=["']|@import|https?:|url\(""", part)
    css = part.partition("<style>")[2].partition("</style>")[0]
    selectors = re.findall(r"^\s*([^@{}\n]+?)\s*\{", css, re.M)
    assert selectors and all(one.strip().startswith(".tb-maps") for line in selectors for one in line.split(","))


def test_maps_that_do_not_belong_together_are_refused() -> None:
    a, b = settings(2)[0], settings(1)[1]
    with pytest.raises(UsageError, match=r"evit\[r=1\] and topk\[r=1\] are not of the same images"):
        viewer.fragment([a, b])
    with pytest.raises(UsageError, match="no maps"):
        viewer.page([])


def test_what_was_written_is_shown_again(tmp_path: Path) -> None:
    maps = settings()
    for image in range(2):
        np.savez_compressed(tmp_path / f"{image}.npz", **mapfiles.arrays(maps, image))
    assert viewer.fragment(mapfiles.load(tmp_path)) == viewer.fragment(maps)


def test_it_needs_no_torch() -> None:
    code = "import sys, tokenbench.reports.maps.viewer, tokenbench.maps.files; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
