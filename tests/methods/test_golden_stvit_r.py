"""STViT-R against outputs of the published implementation: modules, then whole models block by block."""

from __future__ import annotations

import pytest
import torch
from conftest import counting
from golden import Case, close, close_logits
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from torch import Tensor, nn

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import SwinTurn
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import cut, lay
from tokenbench.errors import Unsupported
from tokenbench.measure.flops import count
from tokenbench.measure.running import as_published
from tokenbench.methods.stvit_r.blocks import Positions, ScaledTurn, Scales, Semantic, Stem
from tokenbench.methods.stvit_r.stvit_r import STViTR
from tokenbench.model import Model

RUNS = [
    *("semantic_conv0_short0", "semantic_conv0_short1", "semantic_conv1_short0", "semantic_conv1_short1"),
    *("semantic_with_y", "block_self", "block_cross", "block_recover", "block_local", "block_local_relpos"),
    *("block_global_relpos", "pos_cnn", "patch_embed", "patch_merging"),
    *("swin_block_shift0_ls0", "swin_block_shift0_ls1", "swin_block_shift3_ls0", "swin_block_shift3_ls1"),
]
MODELS = ("log_options_d2_2_18_2", "all_options_d2_2_6_2")


def loaded(module: nn.Module, case: Case, run: str) -> nn.Module:
    own = {k.removeprefix(f"{run}/"): v for k, v in case.weights.items() if k.startswith(f"{run}/")}
    missing, unexpected = module.load_state_dict(own, strict=False)
    assert not unexpected and all("num_batches_tracked" in key for key in missing)
    return module.eval()


def windows_of(block: nn.Module, x: Tensor) -> Tensor:
    return lay(block(cut(x, (6, 6), (3, 3)))[0], (6, 6), (3, 3))


@pytest.mark.parametrize("run", RUNS)
@torch.inference_mode()
def test_modules(run: str) -> None:
    case = Case("stvit/modules", run)
    args = case.runs[run]["args"]
    x, y = case.io[f"in/{run}/x"], case.io.get(f"in/{run}/y")
    if run.startswith("semantic"):
        block = loaded(Semantic(24, 4, 96, conv_pos=args["use_conv_pos"]), case, run)
        ours = block.generate(x, (14, 14), (7, 7), 3, args["shortcut"], y)[0]
    elif run.startswith("block"):
        side = args["window_size"] if args["relative_pos"] else None
        block = loaded(Semantic(24, 4, 96, side=side and (side, side)), case, run)
        ours = windows_of(block, x) if args["local"] else block(x, y)[0]
    elif run == "pos_cnn":
        ours = loaded(Positions(24), case, run)(x, (3, 3))
    elif run == "patch_embed":
        ours = loaded(Stem((56, 56), 3, 24), case, run)(x).flatten(1, 2)
    elif run == "patch_merging":
        ours = loaded(PatchMerging(24), case, run)(x.unflatten(1, (14, 14))).flatten(1, 2)
    else:
        block = SwinTransformerBlock(24, (14, 14), 4, window_size=7, shift_size=args["shift_size"])
        scales = Scales(24)
        both = nn.ModuleList([block, scales])
        own = {k.removeprefix(f"{run}/"): v for k, v in case.weights.items() if k.startswith(f"{run}/")}
        both.load_state_dict(
            {f"{int('scale' in key)}.{key}": v for key, v in own.items()}, strict=args["use_layer_scale"]
        )
        tokens = Tokens(x, 0, (14, 14), layout=(14, 14))
        turn = ScaledTurn(block.eval(), None, 0, scales) if args["use_layer_scale"] else SwinTurn(block.eval(), None, 0)
        ours = turn(tokens).x
    close(ours, case.out(run, "y"))


def whole(name: str) -> tuple[Case, Model]:
    """A golden model in timm's modules and ours."""
    case = Case(f"stvit/{name}")
    options = dict(case.info["model"])
    knobs = {k: options.pop(k) for k in ("use_global", "use_conv_pos", "relative_pos", "shortcut")}
    side, scale = options.pop("sample_window_size"), options.pop("use_layer_scale")
    method = STViTR(tokens=side**2, layer_scale=scale, conv_pos=knobs.pop("use_conv_pos"), **knobs)
    model = Model(Backbone(SwinTransformer(**options)), method)
    names = method.published(list(model.state_dict()))
    own = {name: case.weights.pop(published) for name, published in names.items() if published in case.weights}
    missing, _ = model.load_state_dict(own, strict=False)
    assert not case.weights and all("num_batches_tracked" in key for key in missing)
    return case, model.eval()


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_block_by_block(name: str) -> None:
    case, model = whole(name)
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out("eval", "logits"))
    close(out.features.mean(1), case.out("eval", "features"))
    close(model.backbone.embed(case.io["in/input"]).x[:1, ::7], case.out("eval", "patch_embed_img0_every7th"))
    close(out.trace[-1].x, case.out("eval", "layers3"))
    third = out.trace[4:-2]
    for i, step in enumerate(third):
        close(step.x[:1], case.out("eval", f"block{i:02}"))
    assert [step.count for step in third] == [196, 36, 36, 36, 36, 196] * (len(third) // 6)


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_stages(name: str) -> None:
    """Patch merging, officially at the end of a stage, gives what the next stage here begins with."""
    case, model = whole(name)
    out = model.run(case.io["in/input"])
    for index, golden in ((3, "layers1"), (-3, "layers2")):
        close(model.blocks[index + 1].enter(out.trace[index]).x, case.out("eval", golden))
    first = model.blocks[2].enter(out.trace[1]).x
    close(first[:1, ::3], case.out("eval", "layers0_img0_every3rd"))


@torch.inference_mode()
def test_maps() -> None:
    """Semantic tokens look at enlarged windows first, at all of the image after; recovery gives patches back."""
    case, model = whole("all_options_d2_2_6_2")
    images = case.io["in/input"][:1]
    out = model.run(images, trace=True)
    assert torch.equal(out.logits, model(images))
    for step in out.trace[5:9]:
        torch.testing.assert_close(step.source.sum(2), torch.full_like(step.source.sum(2), 16.0))
    local = out.trace[5].share[0, 0].reshape(56, 56)
    assert local[:40, :40].sum() > 0 and local[40:].sum() == 0 and local[:, 40:].sum() == 0
    assert (out.trace[6].share[0, 0] > 0).all()
    assert torch.equal(out.trace[9].source, out.trace[4].source)


@pytest.mark.parametrize(
    ("name", "options", "parameters", "gmacs"),
    [
        ("swin_s", {}, 49_625_518, 5.799),
        pytest.param("swin_b", {}, 87_812_336, 10.227, marks=pytest.mark.slow),
        pytest.param("swin_s", {"use_global": True}, 49_639_342, 5.799, marks=pytest.mark.slow),
        pytest.param("swin_b", {"use_global": True}, 87_830_768, 10.227, marks=pytest.mark.slow),
        ("swin_s", {"layer_scale": True}, 49_629_742, 5.799),
    ],
)
def test_size(name: str, options: dict[str, bool], parameters: int, gmacs: float) -> None:
    with counting() as counter:
        model = Model(backbones.create(name), STViTR(**options)).eval()
        with as_published(model):
            model(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.001)


def test_with_norms() -> None:
    """fvcore's own total is the published one but for BatchNorm, which the authors counted in train mode."""
    flops = count(Model(backbones.create("swin_s"), STViTR()).eval(), torch.zeros(1, 3, 224, 224))
    assert flops.fvcore_gmacs == pytest.approx(5.824, abs=0.001)
    # In three blocks keys of 196 tokens and 36 centres are projected, where each of 4 windows did so with 100 and 9.
    assert flops.cheaper == pytest.approx(5.799 - 3 * 2 * 384**2 * (4 * 109 - 232) / 1e9, abs=0.001)


@torch.inference_mode()
def test_two_counters() -> None:
    _, model = whole("all_options_d2_2_6_2")
    flops = count(model, torch.zeros(1, 3, 224, 224))
    assert sum(flops.by_part.values()) == pytest.approx(flops.gmacs)
    assert all(macs > 0 for macs in flops.by_block)


def test_refusals() -> None:
    for options, knobs, reason in (
        (dict(depths=(2, 2, 4, 2)), dict(), "units take 6 blocks"),
        (dict(img_size=160), dict(), "do not divide the third stage's map 10x10"),
        (dict(), dict(unit=4), "unit is a knob for plain ViTs"),
    ):
        size = dict(img_size=224, embed_dim=8, depths=(2, 2, 6, 2), num_heads=(1, 1, 1, 1)) | options
        with pytest.raises(Unsupported, match=reason):
            Model(Backbone(SwinTransformer(**size)), STViTR(**knobs))
