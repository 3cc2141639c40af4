"""What a user hangs on a timm model is run or refused, never passed over; and what a method adds is of its kind."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES, served, tiny_swin, tiny_vit
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.errors import Unsupported
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.model import Model


class Adapter(nn.Module):
    """A low-rank adapter around a linear layer, whose weights it also shows, as adapter libraries do."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base.weight

    @property
    def bias(self) -> Tensor:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def adapted(family: str) -> nn.Module:
    """A model with an adapter in every attention."""
    vit = FAMILIES[family]()
    torch.manual_seed(7)
    for module in list(vit.modules()):
        if isinstance(getattr(module, "qkv", None), nn.Linear):
            module.qkv = Adapter(module.qkv)
    return vit.eval()


def merged(family: str) -> nn.Module:
    """The same function with the adapters added to the weights."""
    vit = adapted(family)
    for module in list(vit.modules()):
        adapter = getattr(module, "qkv", None)
        if isinstance(adapter, Adapter):
            with torch.no_grad():
                adapter.base.weight += adapter.up.weight @ adapter.down.weight
            module.qkv = adapter.base
    return vit


def made(vit: nn.Module, method: Method) -> Model:
    torch.manual_seed(3)  # of the method's own parameters
    return Model(Backbone(vit, "tiny"), method).eval()


CALLED = [param for param in served() if param.values[0] in ("vit", "swin", "lvvit")]  # others' timm reads the weights


@pytest.mark.parametrize("family", ["eva", "beit"])
def test_adapters_where_timm_itself_passes_them_over_are_refused(family: str) -> None:
    model = made(adapted(family), get("topk")())
    with pytest.raises(Unsupported, match=r"and does not call it, so what hangs on it"), torch.inference_mode():
        model(torch.randn(2, *model.backbone.input_size))


@pytest.mark.parametrize(("family", "method"), CALLED)
def test_adapters_take_part(family: str, method: Method) -> None:
    model, same = made(adapted(family), method), made(merged(family), method)
    images = torch.randn(2, *model.backbone.input_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), same(images), rtol=1e-4, atol=1e-5)


def test_hook_on_a_layer_inside_is_called(images: Tensor) -> None:
    """Also where plain weights would be cut in two: a hook that doubles the output is doubled weights."""
    vit, double = tiny_vit(), tiny_vit()
    for block, other in zip(vit.blocks, double.blocks, strict=True):
        block.attn.qkv.register_forward_hook(lambda module, given, out: 2 * out)
        with torch.no_grad():
            other.attn.qkv.weight *= 2
            other.attn.qkv.bias *= 2
    for method in (get("stvit")(), get("evit")()):
        with torch.inference_mode():
            torch.testing.assert_close(made(vit, method)(images), made(double, method)(images), rtol=1e-4, atol=1e-5)


def hooked(module: Any) -> None:
    module.register_forward_hook(lambda module, given, out: out)


def before(module: Any) -> None:
    module.register_forward_pre_hook(lambda module, given: None)


def backwards(module: Any) -> None:
    module.register_full_backward_hook(lambda module, given, out: None)


def patched(module: Any) -> None:
    module.forward = types.MethodType(lambda self, *given, **more: type(self).forward(self, *given, **more), module)


PLACES: list[tuple[str, str, int]] = [
    ("evit", "vit", 3),
    ("tome", "vit", 0),
    ("stvit", "vit", 4),
    ("stvit_r", "vit", 7),
]
PLACES += [("stvit", "swin", 6), ("dynamicvit", "swin", 4)]


@pytest.mark.parametrize("meddle", [hooked, before, backwards, patched])
@pytest.mark.parametrize(("name", "family", "block"), PLACES)
def test_what_would_be_passed_over_is_refused(
    name: str, family: str, block: int, meddle: Callable[[Any], None]
) -> None:
    vit: Any = FAMILIES[family]()
    model = made(vit, get(name)())
    images = torch.randn(1, *model.backbone.input_size)
    model(images)
    meddle(list(model.blocks)[block].borrowed[0])
    with pytest.raises(Unsupported, match=r"A hook on this .*Block, or a forward of its own, would be passed over"):
        model(images)


def test_attention_too(images: Tensor) -> None:
    vit = tiny_vit()
    patched(vit.blocks[3].attn)
    assert made(vit, get("evit")(blocks=(4,)))(images).shape == (4, 10)  # called as it is in block 3
    with pytest.raises(Unsupported, match="A hook on this Attention"):
        made(vit, get("evit")(blocks=(3,)))(images)


def test_blocks_that_nothing_acts_in_are_called_with_their_hooks(images: Tensor) -> None:
    vit, seen = tiny_vit(), []
    vit.blocks[2].register_forward_hook(lambda module, given, out: seen.append(out.shape))
    made(vit, get("evit")())(images)
    assert seen == [(4, 37, 32)]


@pytest.mark.parametrize("vit", [tiny_vit(), tiny_swin()])
def test_a_forward_pass_of_its_own_is_refused(vit: nn.Module) -> None:
    patched(vit)
    with pytest.raises(Unsupported, match="has a forward pass of its own"):
        Backbone(vit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize(("family", "method"), served())
def test_what_a_method_adds_takes_the_models_dtype(family: str, method: Method, dtype: torch.dtype) -> None:
    vit = FAMILIES[family]().to(dtype)
    integers = {name for name, buffer in vit.named_buffers() if not buffer.is_floating_point()}
    model = Model(Backbone(vit, "tiny"), method).eval()
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert all(not b.is_floating_point() for n, b in model.named_buffers() if n.removeprefix("vit.") in integers)
    with torch.inference_mode():
        out = model(torch.randn(2, *model.backbone.input_size).to(dtype))
    assert out.dtype == dtype and out.isfinite().all()


def test_and_its_device() -> None:
    for family, name in (("vit", "dynamicvit"), ("vit", "random"), ("swin", "stvit_r"), ("swin", "dynamicvit")):
        model = Model(Backbone(FAMILIES[family]().to("meta"), "tiny"), get(name)())
        assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}
