"""Token maps as pictures and files: what fades, what merges, and that no torch is needed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mapped import COLS, ROWS, make
from PIL import Image

from tokenbench.errors import ResultsError
from tokenbench.maps.arrays import TokenMaps
from tokenbench.reports import style
from tokenbench.reports.maps import numbers, overlays, traces


@pytest.fixture
def dropping() -> TokenMaps:
    return make("topk", np.eye(15)[:6])


@pytest.fixture
def merging() -> TokenMaps:
    return make("tome", np.kron(np.eye(5), np.ones(3)))


@pytest.fixture
def mixing() -> TokenMaps:
    weights = np.random.default_rng(1).random((4, 15))
    return make("stvit", weights / weights.sum(1, keepdims=True), "untrained")


def test_dropped_patches_fade_and_kept_ones_stay(dropping: TokenMaps) -> None:
    before, after = overlays.enlarged(dropping.pictures[0]), overlays.draw(dropping, 0)
    kept = overlays.spread(dropping.kept()[0], before.shape[:2])
    inside = ~overlays.edges(kept)
    assert (after[kept & inside] == before[kept & inside]).all()
    assert (after[~kept & inside] >= 204).all()
    assert (overlays.draw(dropping, 0, 0) == before).all()  # nothing is dropped yet


def test_in_a_grey_picture_what_is_dropped_is_told_from_white(dropping: TokenMaps) -> None:
    bright = replace(dropping, pictures=np.full_like(dropping.pictures, 255))
    drawn = overlays.draw(bright, 0)
    kept = overlays.spread(bright.kept()[0], drawn.shape[:2])
    inside = ~overlays.edges(kept)
    assert (drawn[kept & inside] == 255).all()
    assert (drawn[~kept & inside][:, 0] < 225).all()


def test_merged_patches_take_their_mean_colour(merging: TokenMaps) -> None:
    picture = overlays.enlarged(merging.pictures[0])
    labels = overlays.spread(merging.clusters()[0], picture.shape[:2])
    drawn = overlays.draw(merging, 0)
    for token in range(5):
        inside = (labels == token) & ~overlays.edges(labels)
        assert np.allclose(drawn[inside].mean(0), picture[labels == token].mean(0), atol=3)
        assert drawn[inside].std() < picture[inside].std()


def test_soft_clusters_show_their_colours_and_the_image(mixing: TokenMaps) -> None:
    drawn = overlays.draw(mixing, 0)
    assert drawn.shape == (288, 480, 3)  # a whole multiple of 24x40
    labels = overlays.spread(mixing.clusters()[0], drawn.shape[:2])
    inside = ~overlays.edges(labels)
    means = {t: drawn[(labels == t) & inside].mean(0) for t in np.unique(labels)}
    for token, mean in means.items():
        nearest = np.abs(overlays.colours()[:4] - mean).sum(1).argmin()
        assert nearest == token


def test_clusters_have_sixteen_different_colours() -> None:
    assert len(set(style.CLUSTERS)) == 16
    assert style.colour("tome") != style.colour("evit")
    assert style.colour("of my own") == style.colour("of my own")


def test_everything_is_written(tmp_path: Path, dropping: TokenMaps, mixing: TokenMaps) -> None:
    folder = tmp_path / "new" / "folder"
    files = traces.write([dropping, mixing], folder)
    assert {p.name for p in files} == {
        *("images.png", "image-0-blocks.png", "image-0-stvit-r-1-clusters.png"),
        *("image-0.npz", "maps.csv", "agreement.csv", "maps.html"),
    }
    assert {p.name for p in folder.iterdir()} == {p.name for p in files}
    with np.load(folder / "image-0.npz", allow_pickle=False) as arrays:
        assert arrays["topk[r=1]/clusters"].shape == (2, ROWS, COLS)
        assert (arrays["topk[r=1]/kept"] == (arrays["topk[r=1]/clusters"] >= 0)).all()
        assert arrays["stvit[r=1]/heat/1"].shape == (4, ROWS, COLS)
    for file in files:
        if file.suffix == ".png":
            with Image.open(file) as image:
                assert image.width > image.height and image.getextrema() != ((255, 255),) * 4


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_figures_for_papers(kind: str, tmp_path: Path, dropping: TokenMaps) -> None:
    path = overlays.save(overlays.by_block([dropping], 0, blocks=[1]), tmp_path / f"map.{kind}")
    assert path.read_bytes().startswith({"svg": b"<?xml", "pdf": b"%PDF"}[kind])


def test_untrained_is_on_the_pictures(mixing: TokenMaps) -> None:
    for figure in (overlays.by_block([mixing], 0), overlays.by_image([mixing]), overlays.semantic(mixing, 0)):
        said = [text.get_text() for axes in figure.axes for text in axes.texts] + [t.get_text() for t in figure.texts]
        assert any("untrained" in text for text in said)


def test_dense_is_left_out_beside_others_and_shown_alone(dropping: TokenMaps) -> None:
    dense = make("dense", np.eye(15))
    assert overlays.reducing([dense, dropping]) == [dropping]
    assert overlays.reducing([dense]) == [dense]


def test_summary_and_agreement_are_of_all_settings(dropping: TokenMaps, merging: TokenMaps) -> None:
    table = numbers.summary([dropping, merging])
    assert table["kept %"].tolist() == ["40.0", "100.0"]
    assert table["largest"].tolist() == ["1.0", "3.0"]
    assert numbers.between([dropping, merging]).iloc[0, 1].startswith("0.40 / ")


def test_a_file_in_the_way_is_named(tmp_path: Path, dropping: TokenMaps) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"):
        traces.write([dropping], tmp_path / "taken")


def test_file_names_are_plain_and_differ() -> None:
    names = traces._stems(["a/b.jpg", "a?b.png", "<i>.png", "...", "a-b"])
    assert names == ["a-b", "a-b-2", "i", "image", "a-b-3"]


def test_drawing_imports_no_torch() -> None:
    code = "import sys, tokenbench.reports.maps.traces; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
