"""Token maps: the numbers as properties, and the maps of every method on a small model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tokenbench
from tokenbench.backbones import Backbone
from tokenbench.errors import BadSetting, DataError, UsageError
from tokenbench.maps import following as tracing
from tokenbench.maps.arrays import TokenMaps, agreement, entropy, iou, nmi
from tokenbench.maps.following import follow
from tokenbench.methods import all_methods

labels = st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 5)), min_size=1, max_size=60)
masks = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(labels)
def test_nmi_is_symmetric_and_within_0_and_1(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    assert 0 <= nmi(a, b) <= 1
    assert nmi(a, b) == pytest.approx(nmi(b, a))


@given(labels, st.permutations(range(7)))
def test_nmi_does_not_see_the_names_of_clusters(pairs: list[tuple[int, int]], names: list[int]) -> None:
    a, b = np.array(pairs).T
    renamed = np.array(names)[a + 1]
    assert nmi(a, renamed) == pytest.approx(1)
    assert nmi(a, b) == pytest.approx(nmi(renamed, b))


def test_nmi_of_independent_clusterings_is_0_and_of_a_refinement_is_known() -> None:
    rows, cols = np.indices((4, 4))
    assert nmi(rows, cols) == pytest.approx(0)
    assert nmi(rows, rows // 2) == pytest.approx(2 * 1 / (2 + 1))  # entropies of 2 and 1 bit, 1 of them shared
    assert nmi(np.zeros(4, int), np.arange(4)) == pytest.approx(0)


@given(masks)
def test_iou_is_symmetric_within_0_and_1_and_1_for_itself(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array(pairs).T
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1
    assert iou(a, a) == 1


@given(st.lists(st.integers(0, 50), max_size=20))
def test_entropy_lies_between_0_and_the_log_of_the_count(counts: list[int]) -> None:
    assert 0 <= entropy(np.array(counts)) <= np.log2(max(1, len(counts))) + 1e-9
    assert entropy(np.full(8, 3)) == pytest.approx(3)


@pytest.mark.parametrize("name", list(all_methods()))
def test_kept_and_dropped_are_all_patches(name: str, tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    method, backbone = all_methods()[name](), tiny()
    if reason := method.refusal(backbone):
        pytest.skip(f"{name} is not for this backbone: {reason}")
    maps = follow(method, backbone, images, "abcd")
    assert maps.depth == 12
    for block in range(maps.depth):
        kept, clusters = maps.kept(block), maps.clusters(block)
        assert kept.shape == clusters.shape == (4, 6, 6)
        assert (kept == (clusters >= 0)).all()
        assert [sizes.sum() for sizes in maps.sizes(block)] == list(kept.sum((1, 2)))
        assert np.allclose(maps.kept_share(block), kept.mean((1, 2)))
        assert (maps.share(block).sum(1) <= 1 + 1e-5).all()
        assert (maps.entropy(block) <= np.log2(36) + 1e-6).all()
        assert clusters.max() < maps.weights[block].shape[1] <= maps.counts[block]
    assert np.allclose(agreement(maps, maps), 1)
    assert maps.soft() == (all_methods()[name].kind == "condenses")
    assert ("untrained" in maps.note) == all_methods()[name].trained


def test_patches_of_a_fused_token_are_not_kept(tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    evit = all_methods()["evit"]
    fused, dropped = (follow(evit(fuse=fuse), tiny(), images, "abcd") for fuse in (True, False))
    assert (fused.kept(3) == dropped.kept(3)).all()  # before a fused token has had a say
    assert fused.counts[3] == dropped.counts[3] + 1
    assert fused.weights[3].sum() == 4 * 36  # the map has every patch still
    before = fused.kept(0)
    for block in range(1, 12):
        assert (fused.kept(block) <= before).all()  # a kept fused token brings nothing back
        before = fused.kept(block)


def test_merging_keeps_all_and_makes_the_clusters(tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    maps = follow(all_methods()["tome"](r=2), tiny(), images, "abcd")
    assert maps.kept().all()
    assert [len(sizes) for sizes in maps.sizes()] == [maps.counts[-1] - 1] * 4


def test_many_images_go_in_parts_and_the_model_is_left_as_it_was(
    tiny: Callable[..., Backbone], images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny()
    backbone.vit.train()
    monkeypatch.setattr(tracing, "CELLS", 2 * 36**2)
    whole = follow(all_methods()["topk"](), backbone, torch.cat([images, images[:1]]), "abcde")
    assert backbone.vit.training
    alone = follow(all_methods()["topk"](), backbone, images[3:], "d")
    assert (whole.clusters()[3] == alone.clusters()[0]).all()
    assert (whole.clusters()[0] == whole.clusters()[4]).all()


def test_trace_takes_pixels_and_gives_them_back() -> None:
    grey = torch.full((2, 1, 28, 28), (0.5 - 0.2860) / 0.3530)
    maps = tokenbench.trace("tome", "deit_nano", grey, weights="random", r=8)
    assert isinstance(maps, TokenMaps)
    assert maps.pictures.shape == (2, 28, 28, 3)
    assert (maps.pictures == 128).all()
    assert maps.note == "random weights"
    assert maps.label == "tome[r=8]"


def test_a_seed_gives_the_same_maps_and_leaves_the_random_state() -> None:
    images = torch.randn(1, 1, 28, 28)
    state = torch.random.get_rng_state()
    a, b = (tokenbench.trace("stvit", "deit_nano", images, weights="random", seed=3) for _ in range(2))
    assert (a.weights[-1] == b.weights[-1]).all()
    assert (torch.random.get_rng_state() == state).all()


def test_what_cannot_be_traced_is_said(tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    with pytest.raises(DataError, match="No images"):
        tokenbench.trace("tome", tiny().vit, [])
    with pytest.raises(BadSetting, match=r"\(3, 48, 48\)"):
        tokenbench.trace("tome", tiny().vit, torch.zeros(1, 3, 32, 32))
    maps = follow(all_methods()["tome"](), tiny(), images, "abcd")
    other = follow(all_methods()["tome"](), tiny(), images[:2], "ab")
    with pytest.raises(UsageError, match="same images"):
        agreement(maps, other)
