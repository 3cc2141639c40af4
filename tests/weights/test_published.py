"""Published checkpoints: told by their names, mapped to the golden outputs, and refused where anything is in doubt."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import Case, close_logits
from layouts import State, deit, dynamicvit, stvit_r
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tokenbench import backbones
from tokenbench.errors import BadSetting, UsageError, WeightsError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.model import Model
from tokenbench.weights import checkpoints, files, published

GOLDEN: dict[str, Any] = {}  # the options of the golden model in hand


@register_model
def golden_net(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """The golden model in hand under one name, so that it can be asked for as any other."""
    options = {**GOLDEN, **{k: v for k, v in kwargs.items() if not k.startswith("pretrained_cfg")}}
    kind = SwinTransformer if "depths" in options else VisionTransformer
    options.pop("cache_dir", None)
    return kind(**options)


def saved(path: Path, state: State, **rest: Any) -> Path:
    torch.save({"model": state, **rest}, path)
    return path


def rebuilt(path: Path) -> Model:
    """The model that a converted file describes, by its header alone."""
    header = files.header(path)
    method = make(get(header["method"]), header["setting"])
    model = Model(backbones.create(header["backbone"], tuple(header["image_size"]), header["classes"]), method)
    checkpoints.load(model, path)
    return model.eval()


def checked(case: Case, run: str, source: Path, method: str | None, label: str) -> published.Published:
    """Convert, build from what was written, and compare with the golden logits."""
    out = source.with_suffix(".safetensors")
    found = published.convert(source, out, method, "golden_net")
    assert found.method.label == label
    with torch.inference_mode():
        logits = rebuilt(out)(case.io["in/input"])
        close_logits(logits, case.out(run, "logits"))
        assert torch.equal(found.model()(case.io["in/input"]), logits)
    return found


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(name: str, run: str, *left_out: str) -> Case:
        case = Case(name, run)
        options = {k: v for k, v in case.info["model"].items() if k not in ("drop_loc", "pruning_loc", *left_out)}
        monkeypatch.setattr(sys.modules[__name__], "GOLDEN", options)
        return case

    return use


@pytest.mark.parametrize(
    ("name", "run", "rate"),
    [
        ("dynamicvit/vit64_rect112x448", "rho0.7", 0.7),
        ("dynamicvit/vit64_224", "rho0.7", 0.7),
        ("dynamicvit/vit64_224", "rho0.5", 0.5),
    ],
)
def test_dynamicvit(golden: Any, tmp_path: Path, name: str, run: str, rate: float) -> None:
    case = golden(name, run)
    path = saved(tmp_path / "a.pth", {f"module.{k}": v for k, v in case.weights.items()})
    method = f"dynamicvit[keep_rate={rate}]"
    assert checked(case, run, path, method, method).assumed == ()
    options = argparse.Namespace(model="deit-s", base_rate=rate)
    path = saved(tmp_path / "b.pth", case.weights, args=options, optimizer={"state": {}})
    assert checked(case, run, path, None, method).layout == "raoyongming/DynamicViT"


@pytest.mark.parametrize(
    ("name", "run", "rate", "fuse"),
    [
        ("evit/vit64_rect160x224", "k0.5_drop", 0.5, False),
        ("evit/vit64_224", "k0.7_drop", 0.7, False),
        ("evit/vit64_224", "k0.9_fuse", 0.9, True),
    ],
)
def test_evit(golden: Any, tmp_path: Path, name: str, run: str, rate: float, fuse: bool) -> None:
    case = golden(name, run)
    label = f"evit[keep_rate={rate}{'' if fuse else ',fuse=false'}]"
    options = argparse.Namespace(base_keep_rate=rate, fuse_token=fuse, drop_loc="(3, 6, 9)")
    assert checked(case, run, saved(tmp_path / "a.pth", case.weights, args=options), None, label).assumed == ()
    checked(case, run, saved(tmp_path / "b.pth", case.weights), label, label)
    save_file(case.weights, tmp_path / "in.safetensors")
    found = published.read(tmp_path / "in.safetensors", label, "golden_net")
    assert found.layout == "timm or DeiT" and found.method.label == label


def test_evit_in_other_blocks_and_with_a_distillation_token(tmp_path: Path) -> None:
    options = argparse.Namespace(base_keep_rate=0.7, fuse_token=True, drop_loc="(2, 4, 8)")
    found = published.read(saved(tmp_path / "a.pth", deit(192), args=options))
    assert found.method.label == "evit[keep_rate=0.7,blocks=2/4/8]"
    with pytest.raises(WeightsError, match="distillation token may be dropped as patches are"):
        published.read(saved(tmp_path / "a.pth", deit(192, distilled=True), args=options))


@pytest.mark.parametrize(
    ("name", "run", "label"),
    [
        ("tome/vit64_rect160x224", "r7", "tome[r=7]"),
        ("tome/vit64_rect160x224", "incr6_noprop", "tome[r=6,inflect=1.0,prop_attn=false]"),
        ("tome/vit64_224", "decr8", "tome[r=8,inflect=-1.0]"),
    ],
)
def test_tome(golden: Any, tmp_path: Path, name: str, run: str, label: str) -> None:
    case = golden(name, run)
    checked(case, run, saved(tmp_path / "a.pth", case.weights), label, label)


@pytest.mark.parametrize("name", ["log_options_d2_2_18_2", "all_options_d2_2_6_2"])
def test_stvit_r(golden: Any, tmp_path: Path, name: str) -> None:
    """Every option but the residual, which adds no tensor, is told by the names."""
    knobs = ("use_global", "use_conv_pos", "relative_pos", "shortcut", "sample_window_size", "use_layer_scale")
    case = golden(f"stvit/{name}", "eval", *knobs)
    state = dict(case.weights)
    for key in case.weights:
        if key.endswith("running_var"):
            state[key.replace("running_var", "num_batches_tracked")] = torch.tensor(7)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49).long()
    every = name.startswith("all")
    found = checked(
        case,
        "eval",
        saved(tmp_path / "a.pth", state),
        "stvit_r[shortcut=true]" if case.info["model"]["shortcut"] else None,
        "stvit_r[tokens=9,use_global=true,conv_pos=true,relative_pos=true,layer_scale=true,shortcut=true]"
        if every
        else "stvit_r[tokens=9]",
    )
    assert found.layout == "changsn/STViT-R" and len(found.assumed) == (0 if every else 2)


@pytest.mark.parametrize(
    ("state", "method", "backbone", "parameters"),
    [
        (stvit_r(96), "stvit_r", "swin_s", 49_625_518),
        (stvit_r(128), "stvit_r", "swin_b", 87_812_336),
        (stvit_r(96, use_global=True), "stvit_r", "swin_s", 49_639_342),
        (stvit_r(96, layer_scale=True), "stvit_r", "swin_s", 49_629_742),
        (dynamicvit(192), "dynamicvit", "deit_t", 5_899_582),
        (dynamicvit(384), "dynamicvit", "deit_s", 22_774_414),
        (dynamicvit(768), "dynamicvit", "deit_b", 89_452_846),
    ],
)
def test_real_sizes_are_told_by_names_and_shapes(
    tmp_path: Path, state: State, method: str, backbone: str, parameters: int
) -> None:
    found = published.read(saved(tmp_path / "a.pth", state))
    assert (found.method.name, found.backbone, found.parameters) == (method, backbone, parameters)
    assert (found.classes, found.image_size) == (1000, (224, 224))


@pytest.mark.parametrize(
    ("state", "backbone", "size"),
    [
        (deit(192), "deit_t", 224),
        (deit(384, classes=100), "deit_s", 224),
        (deit(384, distilled=True), "deit_s_distilled", 224),
        (deit(768, patches=576), "deit_b", 384),
    ],
)
def test_a_deit_is_told_by_its_size_and_not_by_its_method(
    tmp_path: Path, state: State, backbone: str, size: int
) -> None:
    path = saved(tmp_path / "a.pth", state)
    assert published.find(path) is None
    with pytest.raises(WeightsError, match=r"dense, EViT and ToMe weights have these same names; say which it is with"):
        published.read(path)
    found = published.read(path, "tome[r=13]")
    assert (found.method.label, found.backbone, found.image_size) == ("tome[r=13]", backbone, (size, size))
    assert found.classes == state["head.bias"].shape[0] == found.header["classes"]


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    found = published.read(saved(tmp_path / "a.pth", dynamicvit(192)))
    assert [text.split(",")[0] for text in found.assumed] == ["keep_rate=0.7"]
    path = saved(tmp_path / "b.pth", deit(192))
    rate, twin = published.read(path, "evit").assumed
    assert rate.startswith("keep_rate=0.7, the default") and "--backbone vit_ti" in twin
    assert published.read(path, "evit[keep_rate=0.7]", "vit_ti").assumed == ()
    assert published.read(path, "dense", "vit_ti").assumed == ()
    options = argparse.Namespace(base_keep_rate=0.7, fuse_token=True)
    (text,) = published.read(saved(tmp_path / "c.pth", deit(192), args=options), "evit[keep_rate=0.5]").assumed
    assert text == "keep_rate=0.5, as you gave it, though the file says 0.7"


def test_averaged_weights_are_taken_when_asked_for_or_named_best(tmp_path: Path) -> None:
    one, two = ({k: v + n for k, v in deit(192).items()} for n in (1, 2))
    path = saved(tmp_path / "a.pth", one, model_ema=two)
    found = published.read(path, "dense", "vit_ti")
    assert found.tensors["vit.norm.bias"][0] == 1 and "--ema" in found.assumed[0]
    assert published.read(path, "dense", "vit_ti", averaged=True).tensors["vit.norm.bias"][0] == 2
    found = published.read(saved(path, one, model_ema=two, ema_best=True), "dense", "vit_ti")
    assert found.tensors["vit.norm.bias"][0] == 2 and "its best" in found.assumed[0]
    torch.save({"state_dict_ema": two, "state_dict": None}, path)
    assert published.read(path, "dense", "vit_ti").tensors["vit.norm.bias"][0] == 2
    with pytest.raises(WeightsError, match="holds no averaged weights"):
        published.read(saved(path, one), "dense", averaged=True)


def suite(model: str, rates: list[float], blocks: tuple[int, ...] = (3, 6, 9), **more: Any) -> argparse.Namespace:
    name = "reduction_ratio" if model == "atc" else "keep_rate"
    return argparse.Namespace(model=f"{model}_small_patch16_224", reduction_loc=list(blocks), **{name: rates}, **more)


def dpcknn(dim: int, learnt: bool = True) -> State:
    shapes = {"weight": (1, dim), "bias": (1,)}
    parts = {f"cluster_layers.{s}.score.{part}": torch.zeros(shape) for s in range(3) for part, shape in shapes.items()}
    return deit(dim) | (parts if learnt else {})


@pytest.mark.parametrize(
    ("options", "state", "label"),
    [
        (suite("topk", [0.7]), deit(384), "topk[keep_rate=0.7]"),
        (suite("topk", [0.5], (2, 5)), deit(384), "topk[keep_rate=0.5,blocks=2/5]"),
        (suite("topk", [0.9, 0.81, 0.729]), deit(384), "topk[keep_rate=0.9]"),
        (suite("dyvit", [0.7]), dynamicvit(384), "dynamicvit[keep_rate=0.7]"),
        (suite("tome", [0.7]), deit(384), "tome[r=0/0/0/59/0/0/41/0/0/29]"),
        (suite("tome", [0.25]), deit(384), "tome[r=0/0/0/147/0/0/37/0/0/9]"),
        (suite("ats", [0.7]), deit(384), "ats[program=suite]"),
        (suite("ats", [0.25], (4, 8)), deit(384), "ats[program=suite,keep_rate=0.25,blocks=4/8]"),
        (suite("dpcknn", [0.5], k_neighbors=7, equal_weight=False), dpcknn(384), "dpcknn[keep_rate=0.5,k=7]"),
        (
            suite("dpcknn", [0.9], k_neighbors=5, equal_weight=True),
            dpcknn(384, learnt=False),
            "dpcknn[keep_rate=0.9,equal_weight=true]",
        ),
        (suite("kmedoids", [0.7], cluster_iters=5, equal_weight=False), deit(384), "kmedoids[keep_rate=0.7,rounds=5]"),
        (
            suite("kmedoids", [0.5], cluster_iters=3, equal_weight=True),
            deit(384),
            "kmedoids[keep_rate=0.5,equal_weight=true]",
        ),
        (
            suite("heuristic", [0.5], heuristic_pattern="l1", min_radius=1.0, not_contiguous=True),
            deit(384),
            "radial[norm=l1,keep_rate=0.5]",
        ),
        (
            suite("heuristic", [0.7], (3, 9), heuristic_pattern="linf", min_radius=2.0, not_contiguous=False),
            deit(384),
            "radial[norm=linf,keep_rate=0.7,contiguous=true,least=2.0,blocks=3/9]",
        ),
        (suite("atc", [0.25], linkage="average", proportional_attn=True), deit(384), "atc[keep_rate=0.25]"),
        (
            suite("atc", [0.9], linkage="complete", proportional_attn=False),
            deit(384),
            "atc[keep_rate=0.9,linkage=complete,prop_attn=false]",
        ),
    ],
)
def test_tokenreductions_own_where_the_method_is_the_same(
    tmp_path: Path, options: argparse.Namespace, state: State, label: str
) -> None:
    found = published.read(saved(tmp_path / "a.pth", state, args=options))
    layout = "JoakimHaurum/ATC" if label.startswith("atc") else "JoakimHaurum/TokenReduction"
    assert (found.method.label, found.backbone, found.layout) == (label, "deit_s", layout)
    assert found.assumed == () or "twin" in found.assumed[0]
    baseline = argparse.Namespace(model="deit_small_patch16_224_local", keep_rate=[], reduction_loc=[])
    assert published.read(saved(tmp_path / "b.pth", deit(384), args=baseline)).method.name == "dense"


def test_tokenreductions_own_where_it_is_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", deit(384), args=suite("evit", [0.7]))
    with pytest.raises(
        WeightsError, match=r"here 137/96/67, and EViT does not; give --method \"evit\[tokens=137/96/67\]"
    ):
        published.read(path)
    with pytest.raises(WeightsError, match="137/96/67"):
        published.read(path, "evit[keep_rate=0.7]")
    found = published.read(path, "evit[tokens=137/96/67]")
    assert found.method.tokens == (137, 96, 67) and found.method.fuse and found.assumed == ()
    for options, state, why in (
        (suite("topk", [0.9, 0.5, 0.3]), deit(384), "keeps 176/98/58 patches, which no one keep_rate gives"),
        (suite("tome", [137.0, 96.0, 67.0]), deit(384), "which no one keep_rate gives"),
        (suite("topk", [0.7]), deit(384, patches=576), "counts are those of 196 patches, and it has 576"),
        (suite("dyvit", [0.7, 0.5]), dynamicvit(384), "2 keep rates for 3 blocks"),
        (suite("local", [0.7]), deit(384), "TokenReduction's 'local', which is no method of tokenbench"),
        (suite("kmedoids", [0.9, 0.5, 0.3]), deit(384), "keeps 176/98/58 patches, which no one keep_rate gives"),
        (suite("evit", [0.7]) or None, deit(384, patches=576), "it has 576"),
        (
            argparse.Namespace(reduction_loc=3, keep_rate=[0.7], model="topk_small_patch16_224"),
            deit(384),
            "make no sense",
        ),
    ):
        with pytest.raises(WeightsError, match=why):
            published.read(saved(path, state, args=options))
    with pytest.raises(BadSetting, match="linkage=ward is not allowed"):
        published.read(saved(path, deit(384), args=suite("atc", [0.7], linkage="ward")))


def test_options_of_yacs_are_read_without_yacs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of STViT-R's training code hold its configuration as such objects."""

    class CfgNode(dict[str, Any]):
        def __init__(self, **values: Any) -> None:
            super().__init__(values)
            self.__dict__["__deprecated_keys__"] = set()

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module = types.ModuleType("yacs.config")
    module.CfgNode = CfgNode  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        config = CfgNode(SHORTCUT=True, MODEL=CfgNode(NUM_CLASSES=1000))
        path = saved(tmp_path / "a.pth", stvit_r(96), config=config, epoch=299, max_accuracy=82.7)
        assert b"yacs.config" in path.read_bytes()
    found = published.read(path)
    assert found.method.shortcut and [text.split("=")[0] for text in found.assumed] == ["tokens"]


class Evil:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_code_in_options_or_weights_is_refused_and_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for rest in ({"args": Evil(mark)}, {"args": argparse.Namespace(model=Evil(mark))}):
        path = saved(tmp_path / "a.pth", dynamicvit(192), **rest)
        with pytest.raises(WeightsError, match="could run code when loaded"):
            published.read(path)
        assert not mark.exists()
    path.write_bytes(pickle.dumps({"model": Evil(mark)}, 2))
    with pytest.raises(WeightsError, match="could run code when loaded"):
        published.find(path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    state = {k: v.contiguous() for k, v in deit(64, depth=1).items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(WeightsError, match=r"damaged\.$"):
        published.read(path)
    with pytest.raises(WeightsError, match="does not exist"):
        published.read(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"score_predictor.1.in_conv.1.weight": None},
            "1 missing, the first score_predictor.1.in_conv.1.weight (192, 192)",
        ),
        (
            {"score_predictor.2.out_conv.4.weight": torch.zeros(3, 48)},
            "the first score_predictor.2.out_conv.4.weight (3, 48) where (2, 48) is expected",
        ),
        ({"gate.weight": torch.zeros(3)}, "1 unexpected, the first gate.weight (3,)"),
        ({"head.bias": None, "norm.bias": None}, "2 missing, the first norm.bias (192,), head.bias (1000,)"),
    ],
)
def test_what_does_not_fit_is_named_as_the_file_names_it(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    state = {k: v for k, v in (dynamicvit(192) | change).items() if v is not None}
    with pytest.raises(WeightsError) as caught:
        published.read(saved(tmp_path / "a.pth", state))
    text = str(caught.value)
    assert says in text and "dynamicvit[keep_rate=0.7] on deit_t in the layout of raoyongming/DynamicViT" in text


def test_stvit_r_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    state = stvit_r(96, layer_scale=True)
    for key in ("layers.0.downsample.norm.bias", "layers.3.blocks.1.layer_scale_2", "head.weight"):
        del state[key]
    with pytest.raises(WeightsError) as caught:
        published.read(saved(tmp_path / "a.pth", state))
    for key in (
        "3 missing",
        "layers.0.downsample.norm.bias (384,)",
        "layers.3.blocks.1.layer_scale_2",
        "head.weight (1000",
    ):
        assert key in str(caught.value)


@pytest.mark.parametrize(
    ("state", "method", "backbone", "says"),
    [
        (
            {"stem.0.weight": torch.zeros(8, 3, 4, 4)},
            None,
            None,
            "in no known layout, its 1 tensors begin with stem.0.weight",
        ),
        (deit(256), "tome[r=13]", None, r"no known size \(width 256, blocks 12\)"),
        (dynamicvit(192), None, "deit_s", "does not fit dynamicvit"),
        (dynamicvit(192), "evit", None, "is a checkpoint of dynamicvit, not of evit"),
        ({"layers.2.score_predictor.0.in_conv.0.weight": torch.zeros(8)}, None, None, "no known size"),
        (deit(192), "dynamicvit", None, "30 missing, the first score_predictor.0.in_conv.0.weight"),
        (deit(192, patches=195), "dense", None, "positions of 195 patches"),
        ({}, None, None, "it is empty"),
    ],
)
def test_refusals(tmp_path: Path, state: State, method: str | None, backbone: str | None, says: str) -> None:
    with pytest.raises(WeightsError, match=says):
        published.read(saved(tmp_path / "a.pth", state), method, backbone)


def test_a_wrong_setting_is_a_usage_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", deit(192))
    with pytest.raises(UsageError, match="is 2 settings"):
        published.read(path, "evit,tome")
    path = saved(path, deit(192), args=argparse.Namespace(base_keep_rate=7, fuse_token=True))
    with pytest.raises(BadSetting, match="keep_rate=7"):
        published.read(path)


def test_find_leaves_plain_weights_and_our_own_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    found = published.find(saved(path, dynamicvit(192)))
    assert found is not None and found.method.name == "dynamicvit" and len(found.hash) == 16
    torch.save({"stem.0.weight": torch.zeros(8, 3, 4, 4)}, path)
    assert published.find(path) is None
    published.convert(saved(path, dynamicvit(192)), tmp_path / "b.safetensors")
    assert published.find(tmp_path / "b.safetensors") is None
    with pytest.raises(WeightsError, match="tokenbench's own already"):
        published.read(tmp_path / "b.safetensors")
