"""Video Swin as torchvision has it, and semantic tokens on it: bits, published outputs, costs, equations."""

from __future__ import annotations

import re

import moving  # noqa: F401  registers a small model
import pytest
import torch
from golden import Case, close
from torchvision.models.video import SwinTransformer3d

from tokenbench import backbones, build
from tokenbench.backbones import Backbone
from tokenbench.backbones.videoswin import smaller
from tokenbench.errors import Unsupported
from tokenbench.measure import flops
from tokenbench.methods.base import make
from tokenbench.methods.dense import Dense
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.stvit.stvit import STViT
from tokenbench.methods.tome import ToMe
from tokenbench.model import Model


def plain(**changes: object) -> SwinTransformer3d:
    torch.manual_seed(0)
    size = dict(patch_size=[2, 4, 4], embed_dim=8, depths=[1, 1, 6, 1], num_heads=[1, 1, 2, 2], window_size=[8, 7, 7])
    return SwinTransformer3d(**{**size, "num_classes": 5, **changes}).eval()


@pytest.mark.parametrize("run", ["8x56x84", "13x117x90"])
@torch.inference_mode()
def test_published_outputs(run: str) -> None:
    """Of Video Swin's own code, with maps smaller than windows and frames that are padded."""
    case = Case("stvit/video_swin_plain", run)
    size = {key: case.info["model"][key] for key in ("patch_size", "embed_dim", "depths", "num_heads", "window_size")}
    vit = plain(**size)
    vit.load_state_dict({named(k): v for k, v in case.weights.items()}, strict=False)
    out = Model(Backbone(vit), Dense()).eval().run(case.io[f"in/{run}"])
    features = out.features.unflatten(1, out.tokens.layout).unflatten(0, (-1, out.tokens.frames))
    close(features.permute(0, 4, 1, 2, 3), case.out(run, "features"))
    assert torch.equal(out.logits, vit(case.io[f"in/{run}"]))


def named(key: str) -> str:
    key = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", key)
    key = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", key)
    return key.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


ONCE = {"projection": "once", "keys": "enlarged"}
ROWS = [  # GMAC against dense in percent, of the reconstruction
    ("swin3d_t", {"base": 4, **ONCE}, -22.6),
    ("swin3d_t", {}, -28.7),
    ("swin3d_t", {"projection": "crops"}, -26.6),
    ("swin3d_t", {"projection": "crops", "keys": "global"}, -27.6),
    ("swin3d_t", {"generating": 3}, -27.7),
    ("swin3d_s", {"base": 12}, -24.9),
    ("swin3d_s", {}, -28.1),
    ("swin3d_s", {"projection": "crops"}, -27.0),
    ("swin3d_s", {"projection": "crops", "keys": "global"}, -27.5),
    ("swin3d_s", {"generating": 3}, -27.6),
]
DENSE = {"swin3d_t": 87.76, "swin3d_s": 165.68, "swin3d_b": 281.33}


def gmacs(name: str, knobs: dict[str, object] | None) -> float:
    with torch.device("meta"):
        backbone = backbones.create(name)
        model = Model(backbone, Dense() if knobs is None else make(STViT, knobs)).eval()
    return flops.gmacs(model, torch.empty(1, *backbone.shape, device="meta"))


@pytest.mark.parametrize(("name", "want"), DENSE.items())
def test_gmacs(name: str, want: float) -> None:
    assert gmacs(name, None) == pytest.approx(want, abs=0.005)


@pytest.mark.parametrize(("name", "knobs", "percent"), ROWS)
def test_gmacs_of_semantic_tokens(name: str, knobs: dict[str, object], percent: float) -> None:
    assert gmacs(name, knobs) == pytest.approx(DENSE[name] * (1 + percent / 100), rel=0.005)


@torch.inference_mode()
def test_keys_projected_once_are_the_same_keys() -> None:
    clips = torch.randn(2, 3, 6, 112, 112)
    one, other = (
        build("stvit", "swin3d_femto", weights="random", projection=how)(clips_of(clips)) for how in ("once", "crops")
    )
    close(one, other)


def clips_of(clips: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(clips, (clips.shape[2], 224, 224))


@torch.inference_mode()
def test_semantic_blocks_know_true_distances() -> None:
    """Against attention written out, on a map smaller than the window it was made for."""
    attn = plain().features[4][0].attn
    x = torch.randn(2, 5, 6, 6, 32)
    q, k, v = attn.qkv(x.flatten(1, 3)).unflatten(2, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (5, 6, 6)), indexing="ij")).flatten(1)
    apart = places[:, :, None] - places[:, None, :] + torch.tensor([7, 6, 6])[:, None, None]
    bias = attn.relative_position_bias_table.view(15, 13, 13, 2)[apart[0], apart[1], apart[2]].permute(2, 0, 1)
    weights = (q @ k.transpose(2, 3) / 4 + bias).softmax(-1)
    close(smaller(attn, x), attn.proj((weights @ v).transpose(1, 2).flatten(2)).unflatten(1, (5, 6, 6)))


@torch.inference_mode()
def test_tokens_of_each_frame_hold_that_frame() -> None:
    model = build("stvit", "swin3d_femto", weights="random")
    assert model.method.label == "stvit[tokens=9,keys=enlarged,projection=once]"
    out = model.run(torch.randn(2, 3, 6, 224, 224), trace=True)
    last = out.tokens
    assert (last.frames, last.x.shape, last.counts.tolist()) == (3, (6, 9, 64), [27, 27])
    assert last.share.shape == (6, 9, 56 * 56) and (last.share.sum(1) <= 1 + 1e-5).all()
    assert last.share.sum() > 0 and not torch.equal(last.share[0], last.share[1])


def test_a_clip_is_dropped_whole() -> None:
    torch.manual_seed(0)
    block = Model(Backbone(plain(stochastic_depth_prob=0.9)), make(STViT, {})).train().blocks[-1]
    tokens = Model(Backbone(plain()), Dense()).backbone.embed(torch.zeros(8, 3, 6, 224, 224))
    kept = block.dropped(1, torch.ones_like(tokens.x), tokens).unflatten(0, (8, 3)).flatten(1)
    assert ((kept == 0).all(1) | (kept > 0).all(1)).all() and 0 < (kept[:, 0] > 0).sum() < 8


def test_refused() -> None:
    backbone = Backbone(plain())
    for method, says in (
        (ToMe(), "windows need all tokens"),
        (DynamicViT(), "reach over time"),
        (STViT(tokens=49), "as many as a window"),
        (STViT(base=5), "third stage"),
    ):
        with pytest.raises(Unsupported, match=says):
            Model(backbone, method)
