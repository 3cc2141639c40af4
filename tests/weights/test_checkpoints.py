"""Weights come in whole or not at all, from files that cannot run code, and the message names what does not fit."""

from __future__ import annotations

import errno
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.backbones import hub as hub_files
from tokenbench.errors import WeightsError
from tokenbench.methods import get
from tokenbench.model import Model
from tokenbench.weights import checkpoints, files
from tokenbench.weights.checkpoints import Weights

Tiny = Callable[..., Backbone]
SHARED = Path(__file__).parents[3] / "shared" / "weights" / "vit_tiny_patch16_224.safetensors"


def same(a: Backbone, b: Backbone) -> bool:
    left, right = a.vit.state_dict(), b.vit.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def state(backbone: Backbone) -> dict[str, Tensor]:
    return dict(backbone.vit.state_dict())


class Evil:
    """Unpickling this writes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_what_is_saved_is_loaded_with_its_header(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    files.save(path, tiny(seed=1), {"epochs": 3, "name": "π"})
    backbone = tiny(seed=2)
    weights = checkpoints.load(backbone, path)
    assert same(backbone, tiny(seed=1))
    assert (weights.kind, weights.name, weights.note) == ("file", "a.safetensors", None)
    assert weights.hash is not None and len(weights.hash) == 16
    assert files.header(path) == {"epochs": 3, "name": "π"}
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_a_model_with_reducers_of_its_own_is_loaded_whole(tiny: Tiny, tmp_path: Path) -> None:
    method, path = get("dynamicvit")(), tmp_path / "a.safetensors"
    model, other = Model(tiny(seed=1), method), Model(tiny(seed=2), method)
    files.save(path, model, {})
    checkpoints.load(other, path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    with pytest.raises(WeightsError, match="unexpected, the first blocks"):
        checkpoints.load(tiny(), path)
    files.save(path, tiny(seed=1), {})
    with pytest.raises(WeightsError, match="missing, the first blocks"):
        checkpoints.load(other, path)


def test_dense_weights_and_models_without_reducer_weights_are_interchangeable(tiny: Tiny, tmp_path: Path) -> None:
    path, model = tmp_path / "a.safetensors", Model(tiny(seed=2), get("tome")())
    files.save(path, tiny(seed=1), {})
    checkpoints.load(model, path)
    assert same(model.backbone, tiny(seed=1))
    files.save(path, model, {})
    backbone = tiny(seed=3)
    checkpoints.load(backbone, path)
    assert same(backbone, tiny(seed=1))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_tensors_are_loaded(tiny: Tiny, tmp_path: Path, suffix: str, zipped: bool) -> None:
    path, backbone = tmp_path / f"a{suffix}", tiny(seed=2)
    torch.save(state(tiny(seed=1)), path, _use_new_zipfile_serialization=zipped)
    checkpoints.load(backbone, path)
    assert same(backbone, tiny(seed=1))
    assert files.header(path) == {}


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle", "old pickle"])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    path, mark, backbone = tmp_path / "evil.pth", tmp_path / "mark", tiny(seed=1)
    evil = {**state(backbone), "evil": Evil(mark)}
    if kind in ("zip", "legacy"):
        torch.save(evil, path, _use_new_zipfile_serialization=kind == "zip")
    else:
        path.write_bytes(pickle.dumps({"evil": Evil(mark)}, 2 if kind == "old pickle" else 4))
    with pytest.raises(WeightsError, match=r"could run code when loaded.*convert it to safetensors\.$"):
        checkpoints.load(backbone, path)
    assert not mark.exists() and same(backbone, tiny(seed=1))
    torch.load(path, weights_only=False) if kind in ("zip", "legacy") else pickle.loads(path.read_bytes())
    assert mark.exists()  # the file was as dangerous as it claims


def test_values_are_cast_to_the_models_type(tiny: Tiny, tmp_path: Path) -> None:
    path, backbone = tmp_path / "a.safetensors", tiny(seed=2)
    half = {k: v.half() for k, v in state(tiny(seed=1)).items()}
    save_file(half, path)
    checkpoints.load(backbone, path)
    for key, value in state(backbone).items():
        assert value.dtype == torch.float32 and torch.equal(value, half[key].float())


def test_position_embeddings_of_another_image_size_are_resampled(tiny: Tiny, tmp_path: Path) -> None:
    path, backbone = tmp_path / "a.safetensors", tiny(img_size=(32, 64))
    files.save(path, tiny(seed=1), {})
    assert checkpoints.load(backbone, path).note == "position embedding resampled from 37 to 33 tokens"
    assert torch.equal(backbone.vit.blocks[0].attn.qkv.weight, tiny(seed=1).vit.blocks[0].attn.qkv.weight)
    assert torch.equal(backbone.vit.pos_embed[:, 0], tiny(seed=1).vit.pos_embed[:, 0])


def test_positions_of_our_own_files_are_for_the_size_in_the_header(tiny: Tiny, tmp_path: Path) -> None:
    """As many patches in another grid are other positions, and a grid that is not square stays as it is."""
    path, flat = tmp_path / "a.safetensors", tiny(seed=1, img_size=(32, 72))
    files.save(path, flat, {"image_size": [32, 72]})
    again, square = tiny(seed=2, img_size=(32, 72)), tiny(seed=2)
    checkpoints.load(again, path)
    assert same(flat, again)
    flat.vit.pos_embed.data[:, 1:] = torch.arange(4.0).repeat_interleave(9)[:, None]  # each row its own number
    files.save(path, flat, {"image_size": [32, 72]})
    checkpoints.load(square, path)
    grid = square.vit.pos_embed[0, 1:, 0].reshape(6, 6)
    torch.testing.assert_close(grid, grid[:, :1].expand(6, 6))
    assert (grid[1:, 0] > grid[:-1, 0]).all()
    files.save(path, flat, {"image_size": [72, 64]})
    with pytest.raises(WeightsError, match="does not fit"):
        checkpoints.load(square, path)


def test_what_does_not_fit_is_named_counted_and_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    path, backbone = tmp_path / "a.safetensors", tiny(seed=2)
    stored = state(tiny(seed=1))
    del stored["norm.bias"], stored["head.bias"]
    stored |= {"head.weight": torch.zeros(7, 32), "novelty": torch.zeros(3)}
    save_file(stored, path)
    with pytest.raises(WeightsError) as caught:
        checkpoints.load(backbone, path)
    for part in (
        str(path),
        "2 missing, the first norm.bias (32,)",
        "1 unexpected, the first novelty (3,)",
        "1 of another shape, the first head.weight (7, 32) where (10, 32) is expected",
    ):
        assert part in str(caught.value)
    assert same(backbone, tiny(seed=2))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_short_is_one_sentence(tiny: Tiny, tmp_path: Path, suffix: str, share: float) -> None:
    path, backbone = tmp_path / f"a{suffix}", tiny()
    save_file(state(backbone), path) if suffix == ".safetensors" else torch.save(state(backbone), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(WeightsError, match=r"cut or damaged\.$") as caught:
        checkpoints.load(backbone, path)
    assert caught.value.__suppress_context__ and "\n" not in str(caught.value)
    if suffix == ".safetensors":
        with pytest.raises(WeightsError, match="cut or damaged"):
            files.header(path)


def test_a_missing_file_is_one_sentence(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist; give"):
        checkpoints.load_dense(tiny(), str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match="is a folder"):
        checkpoints.load(tiny(), tmp_path)
    torch.save({"epoch": 3}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="'epoch' is no tensor"):
        checkpoints.load(tiny(), tmp_path / "a.pth")


def test_a_full_disk_leaves_the_old_file(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    files.save(path, tiny(seed=1), {})
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        WeightsError, match=r"cannot be written \(No space left on device\); free some space \(0\.\d MB\)"
    ):
        files.save(path, tiny(seed=2), {})
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(WeightsError, match=r"ends in \.safetensors"):
        files.save(tmp_path / "a.pth", tiny(), {})


@pytest.mark.parametrize("name", ["deit_nano", "deit_t_distilled"])
def test_random_weights_come_from_the_seed_alone(name: str) -> None:
    a, b = (backbones.create(name) for _ in range(2))
    before = torch.random.get_rng_state()
    assert checkpoints.load_dense(a, "random", seed=3) == Weights("random", "random")
    checkpoints.load_dense(b, "random", seed=3)
    assert same(a, b) and torch.equal(before, torch.random.get_rng_state())
    checkpoints.load_dense(b, "random", seed=4)
    assert not same(a, b)


def test_shipped_weights_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path)
    nano, other = backbones.create("deit_nano"), backbones.create("deit_nano")
    missing = checkpoints.load_dense(nano, "auto")
    assert missing.kind == "random" and missing.note is not None and "the hub has none" in missing.note
    files.save(tmp_path / "deit_nano.safetensors", nano, {})
    weights = checkpoints.load_dense(other, "auto")
    assert (weights.kind, weights.name) == ("shipped", "deit_nano.safetensors") and same(nano, other)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that nobody answers for."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def test_a_hub_that_does_not_answer_gives_random_weights_and_says_so(hub: Path) -> None:
    backbone, start = backbones.create("vit_ti"), time.perf_counter()
    weights = checkpoints.load_dense(backbone, "auto", seed=5)
    assert time.perf_counter() - start < 6.0
    assert (weights.kind, weights.name, weights.hash) == ("random", "random", None)
    assert weights.note is not None and "does not answer" in weights.note and "random" in weights.note


def test_a_hub_that_keeps_silent_is_left_after_a_while(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(hub_files, "HUB_SECONDS", 0.05)
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: time.sleep(1.0))
    weights = checkpoints.load_dense(backbones.create("vit_ti"), "auto")
    assert weights.note is not None and "no answer in time" in weights.note


def test_offline_asks_nobody(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_files, "_reach", lambda endpoint: pytest.fail("it asked"))
    weights = checkpoints.load_dense(backbones.create("vit_ti"), "auto")
    assert weights.note is not None and "HF_HUB_OFFLINE" in weights.note


def cached(hub: Path, backbone: Backbone) -> None:
    """Put a backbone's weights into the cache as the hub's client would."""
    repo = hub / f"models--{backbone.vit.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("c" * 40)
    files.save(repo / "snapshots" / ("c" * 40) / "model.safetensors", backbone, {})


def test_cached_hub_weights_are_used_without_a_network(hub: Path) -> None:
    published, backbone = backbones.create("vit_ti"), backbones.create("vit_ti")
    cached(hub, published)
    weights = checkpoints.load_dense(backbone, "auto")
    assert same(published, backbone)
    assert weights.kind == "hub" and weights.hash is not None and weights.note is None
    assert weights.name == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k@cccccccccccc"


def test_hub_weights_are_fitted_to_other_sizes_and_classes(hub: Path) -> None:
    published = backbones.create("vit_ti")
    cached(hub, published)
    a, b = (backbones.create("vit_ti", image_size=(96, 96), classes=12) for _ in range(2))
    weights = checkpoints.load_dense(a, "auto", seed=1)
    note = weights.note
    checkpoints.load_dense(b, "auto", seed=1)
    assert weights.random_head and not checkpoints.load_dense(backbones.create("vit_ti"), "auto").random_head
    assert note is not None and "head of 12 classes is random" in note and "resampled" in note
    assert same(a, b) and torch.equal(a.vit.blocks[3].mlp.fc1.weight, published.vit.blocks[3].mlp.fc1.weight)


def test_published_weights_load_strictly() -> None:
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is not here")
    backbone = backbones.create("vit_ti")
    weights = checkpoints.load_dense(backbone, str(SHARED))
    assert (weights.kind, weights.name, weights.hash, weights.note) == ("file", SHARED.name, "3f1f07da5e133726", None)
    with pytest.raises(WeightsError, match=r"head\.weight \(1000, 192\) where \(12, 192\) is expected"):
        checkpoints.load(backbones.create("vit_ti", classes=12), SHARED)
