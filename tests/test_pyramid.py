"""Feature pyramids of images of any size: the outputs of the published backbone, timm's, shapes, gradients, costs."""

from __future__ import annotations

import costs
import pytest
import torch
from conftest import counting, tiny_swin, tiny_vit
from golden import Case, close
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor

import tokenbench
from tokenbench import Pyramid, backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import Unsupported
from tokenbench.measure import flops
from tokenbench.measure.running import as_published
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.methods.idlevit import IdleViT
from tokenbench.methods.stvit_r.convstem import ConvStem
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model
from tokenbench.pyramid import pyramid as pyramid_of

METHODS = {"dense": get("dense")(), "convstem": ConvStem(), "dynamicvit": DynamicViT(), "stvit_r": STViTR()}


def pyramid(method: Method, **options: object) -> Pyramid:
    return Pyramid(Model(Backbone(tiny_swin(**options)), method).eval())


@pytest.mark.parametrize(
    ("name", "run"),
    [
        *(("det_backbone", run) for run in ("120x147", "112x112", "16x112")),
        *(("det_backbone_odd", run) for run in ("203x330", "161x229")),
    ],
)
@torch.inference_mode()
def test_published_detection_backbone(name: str, run: str) -> None:
    """All four maps, with padding along both sides, along none and along one; of one unit and of three."""
    case = Case(f"stvit/{name}", run)
    size = {k: case.info["model"][k] for k in ("embed_dim", "depths", "num_heads", "window_size")}
    backbone = Pyramid(Model(Backbone(SwinTransformer(**size)), STViTR()).eval())
    names = STViTR().published(list(backbone.state_dict()))
    own = {name: case.weights.pop(published) for name, published in names.items() if published in case.weights}
    missing, _ = backbone.load_state_dict(own, strict=False)
    assert all("num_batches_tracked" in key for key in missing)
    assert all(key.endswith(STViTR.derived) for key in case.weights)
    for level, found in backbone(case.io[f"in/{run}"]).items():
        close(found, case.out(run, level))


@torch.inference_mode()
def test_where_nothing_is_padded_dense_gives_timms_maps() -> None:
    vit = tiny_swin(always_partition=True, depths=(2, 2, 6, 2))
    images = torch.randn(2, 3, 160, 160)
    backbone = Pyramid(Model(Backbone(vit), METHODS["dense"]).eval())
    wanted = vit.forward_intermediates(images, norm=False, intermediates_only=True)
    for level, (found, want) in enumerate(zip(backbone(images).values(), wanted, strict=True)):
        norm = backbone.get_submodule(f"norm{level}")
        torch.testing.assert_close(found, norm(want.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_where_nothing_is_padded_dynamicswin_gives_its_classifiers_maps() -> None:
    """The same fast paths and predictors, used in place, and so the same tokens chosen."""
    model = Model(Backbone(tiny_swin(always_partition=True, depths=(2, 2, 6, 2))), DynamicViT()).eval()
    images = torch.randn(2, 3, 160, 160)
    backbone, out = Pyramid(model), model.run(images, trace=True)
    for level, (end, found) in enumerate(zip((1, 3, 9, 11), backbone(images).values(), strict=True)):
        want = out.trace[end]
        want = backbone.get_submodule(f"norm{level}")(want.x).unflatten(1, want.layout).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("size", [(150, 211), (32, 32), (1, 5), (320, 160)])
@torch.inference_mode()
def test_any_size(method: Method, size: tuple[int, int]) -> None:
    backbone = pyramid(method)
    maps = backbone(torch.randn(2, 3, *size))
    assert list(maps) == ["0", "1", "2", "3"]
    assert backbone.out_channels == [8, 16, 32, 64]
    rows, cols = (-(-side // 4) for side in size)
    for level, width in zip(maps, backbone.out_channels, strict=True):
        assert maps[level].shape == (2, width, rows, cols)
        assert maps[level].isfinite().all()
        rows, cols = -(-rows // 2), -(-cols // 2)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@torch.inference_mode()
def test_images_padded_to_one_size(method: Method) -> None:
    """In a batch, an image's map is that of the padded image alone, and the padding reaches its border only."""
    backbone = pyramid(method)
    small, large = torch.randn(3, 160, 160), torch.randn(3, 320, 320)
    padded = torch.nn.functional.pad(small, (0, 160, 0, 160))
    together = backbone(torch.stack([padded, large]))
    for level, alone in backbone(padded[None]).items():
        torch.testing.assert_close(together[level][:1], alone, rtol=1e-4, atol=1e-5)
    finest = backbone(small[None])["0"]
    torch.testing.assert_close(together["0"][:1, :, :30, :30], finest[:, :, :30, :30], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gradients_reach_every_parameter(method: Method) -> None:
    backbone = pyramid(method).train()
    maps: dict[str, Tensor] = backbone(torch.randn(2, 3, 70, 90))
    sum(level.square().sum() for level in maps.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_weights_are_the_classifiers() -> None:
    """In place, and by name into another: all but the norms of the levels and the head."""
    first, second = (Model(Backbone(tiny_swin(seed)), STViTR()) for seed in (1, 2))
    backbone = Pyramid(second)
    missing, unexpected = backbone.load_state_dict(first.vit.state_dict(), strict=False)
    assert missing == [f"norm{level}.{kind}" for level in range(4) for kind in ("weight", "bias")]
    assert all(key.startswith(("norm.", "head.")) for key in unexpected)
    images = torch.randn(1, 3, 160, 160)
    with torch.inference_mode():
        first.vit.norm, first.vit.head = second.vit.norm, second.vit.head
        assert torch.equal(first.eval()(images), second.eval()(images))


def on_coco(name: str, recovering: bool, dynamic: bool = False) -> int:
    """On 800x1333 pixels, 200x334 patches: every block attends to a map padded to windows of 7x7.

    `dynamic`: of the 4200 tokens of the third stage, and not of the 4704 of its windows, 0.7, 0.5 and 0.3 take the MLP.
    """
    width, depths = costs.SWINS[name]
    rows, cols = 200, 334
    stem = 400 * 668 * 27 * (width // 2) + rows * cols * 9 * (width // 2) * width
    total = stem if recovering else rows * cols * 48 * width
    for stage, depth in enumerate(depths):
        if stage:
            rows, cols, width = -(-rows // 2), -(-cols // 2), 2 * width
            total += costs.merging(rows * cols, width)
        image, padded = rows * cols, -(-rows // 7) * -(-cols // 7) * 49
        plain = costs.block(image, width, 49, attending=padded)
        if recovering and stage == 2:  # zeros over the border are projected once
            tokens = padded // 49 * 9
            total += (
                depth
                // 6
                * (
                    plain
                    + costs.block(tokens, width, 14 * 14, padded + 1)
                    + costs.block(tokens, width, 21 * 21, padded + 1)
                    + costs.block(tokens, width, 9)
                    + costs.block(tokens, width, tokens)
                    + costs.block(image, width, 27 * 27, tokens + 1, attending=padded)
                )
            )
        else:
            total += depth * plain
        if dynamic and stage == 2:
            step, shares = max(1, depth // 9), [int(image * (0.7 - 0.2 * i)) for i in range(3)]
            through = [image] * step + [kept for kept in shares for _ in range(step)]
            through += shares[-1:] * (depth - len(through))
            total -= sum(7 * (image - kept) * width**2 for kept in through)
            total += 3 * image * (width**2 + width**2 // 2 + width**2 // 8 + width // 2)
    return total


@pytest.mark.parametrize(
    ("name", "printed", "want"), [("swin_s", -31, (193.839, 133.897)), ("swin_b", -32, (342.106, 231.857))]
)
def test_gmacs(name: str, printed: float, want: tuple[float, float]) -> None:
    """On an image as detectors see COCO: block by block, and the reduction printed for the published backbone."""
    found = []
    for method in (METHODS["dense"], METHODS["stvit_r"]):
        with counting() as counter:
            backbone = Pyramid(Model(backbones.create(name), method).eval())
            with as_published(backbone):
                backbone(torch.empty(1, 3, 800, 1333))
        found.append(counter.get_total_flops() // 2)
    assert found == [on_coco(name, False), on_coco(name, True)]
    assert [macs / 1e9 for macs in found] == pytest.approx(want, abs=0.001)
    assert 100 * (found[1] / found[0] - 1) == pytest.approx(printed, abs=0.5)


def test_gmacs_of_dynamicswin() -> None:
    """Whatever maps are padded to, the share is of the tokens that are there."""
    with counting() as counter:
        Pyramid(Model(backbones.create("swin_s"), DynamicViT()).eval())(torch.empty(1, 3, 800, 1333))
    assert counter.get_total_flops() // 2 == on_coco("swin_s", False, dynamic=True)
    assert on_coco("swin_s", False, dynamic=True) < 0.82 * on_coco("swin_s", False)


def test_feature_pyramid_network() -> None:
    """torchvision's heads take the maps and the widths as they are."""
    from torchvision.ops import FeaturePyramidNetwork

    backbone = pyramid(METHODS["stvit_r"])
    with torch.inference_mode():
        maps = FeaturePyramidNetwork(backbone.out_channels, 12)(backbone(torch.randn(1, 3, 96, 130)))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(12, 24, 33), (12, 12, 17), (12, 6, 9), (12, 3, 5)]


def test_measured_like_any_model() -> None:
    """In the published form, with what runs beside it."""
    backbone, images = pyramid(METHODS["stvit_r"]), torch.randn(1, 3, 96, 130)
    counted = flops.count(backbone, images)
    assert sum(counted.by_block) < counted.gmacs
    assert counted.gmacs == pytest.approx(flops.gmacs(backbone, images))
    assert counted.cheaper is not None and counted.cheaper < counted.gmacs
    assert f"runs in a form of {counted.cheaper:.4g} GMAC" in counted.notes[0]


@pytest.mark.parametrize(
    ("method", "vit", "reason"),
    [
        ("stvit", tiny_swin, "stvit.* makes no pyramid"),
        ("stvit_r", tiny_vit, "stvit_r.* makes no pyramid; dense, convstem, dynamicvit and stvit_r on a Swin do"),
        ("evit", tiny_vit, "makes no pyramid"),
    ],
)
def test_refusals(method: str, vit: object, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        Pyramid(tokenbench.build(method, vit()))


@pytest.mark.parametrize("knob", ["use_global", "relative_pos", "layer_scale"])
def test_options_of_one_size_are_refused(knob: str) -> None:
    with pytest.raises(Unsupported, match=f"its {knob} is made for one image size"):
        pyramid(STViTR(**{knob: True}))


def test_its_norms_are_where_and_what_the_model_is() -> None:
    model = tokenbench.build("dense", tiny_swin().double())
    assert {parameter.dtype for parameter in tokenbench.Pyramid(model).parameters()} == {torch.float64}
    on_meta = tokenbench.Pyramid(tokenbench.build("dense", tiny_swin().to("meta")))
    assert {parameter.device.type for parameter in on_meta.parameters()} == {"meta"}


@pytest.mark.parametrize("method", [METHODS["dense"], METHODS["stvit_r"], IdleViT()], ids=lambda method: method.name)
def test_simple_pyramid_of_a_plain_vit(method: Method) -> None:
    """Four maps of any image, with gradients to all parameters; at the model's own size the model's own tokens."""
    model = Model(Backbone(tiny_vit(patch_size=16, img_size=96, embed_dim=32)), method)
    body = pyramid_of(model).train()
    assert body.out_channels == [8, 16, 32, 32]
    maps: dict[str, Tensor] = body(torch.randn(2, 3, 70, 90))
    assert [tuple(m.shape[2:]) for m in maps.values()] == [(20, 24), (10, 12), (5, 6), (3, 3)]
    sum(level.square().sum() for level in maps.values()).backward()
    without = [name for name, parameter in body.named_parameters() if parameter.grad is None]
    assert [name for name in without if method.name == "dense" or "token" not in name] == []
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        last = model.eval().run(images).tokens
        body.eval()
        wanted = last.x[:, last.prefix :].transpose(1, 2).unflatten(2, (6, 6))
        torch.testing.assert_close(
            body(images)["2"], body.norm2(wanted.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("method", "patch", "reason"),
    [
        ("evit", 16, "tokens are gone or out of theirs; dense, idlevit and stvit_r have all"),
        ("dynamicvit", 16, "tokens are gone"),
        ("dense", 12, "its patches have 12 pixels"),
    ],
)
def test_what_has_no_simple_pyramid(method: str, patch: int, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        pyramid_of(tokenbench.build(method, tiny_vit(patch_size=patch, img_size=96)))
