"""What every registered method must keep, at a tiny setting.

`pytest tests/methods/test_contract.py --plugin FILE` adds yours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES, served
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method
from tokenbench.model import Model

Tiny = Callable[..., Backbone]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # here and not in a decorator, so that plug-ins are in
    if "family" in metafunc.fixturenames:
        metafunc.parametrize(("family", "method"), served())
    elif "method" in metafunc.fixturenames:
        metafunc.parametrize("method", [pytest.param(cls(), id=name) for name, cls in all_methods().items()])


@pytest.fixture
def tiny(family: str) -> Tiny:
    """Builds a tiny random backbone of the family; takes its timm class's options."""
    return lambda seed=0, **options: Backbone(FAMILIES[family](seed, **options), "tiny")


@pytest.fixture
def images(tiny: Tiny) -> Tensor:
    return torch.randn(4, *tiny().input_size, generator=torch.Generator().manual_seed(1))


def reduces(method: Method) -> bool:
    return method.name != "dense"


def run(tiny: Tiny, method: Method, images: Tensor, **options: Any) -> Any:
    with torch.inference_mode():
        return Model(tiny(**options), method).eval().run(images, trace=True)


def test_neutral_setting_equals_dense(method: Method, tiny: Tiny, images: Tensor) -> None:
    if method.neutral is None:
        pytest.skip(f"{method.name} has no neutral setting: it always condenses")
    backbone = tiny()
    with torch.inference_mode():
        neutral = Model(backbone, type(method)(**method.neutral)).eval()(images)
        assert torch.equal(neutral, backbone.vit(images))


def test_shapes_and_counts(method: Method, tiny: Tiny, images: Tensor) -> None:
    out = run(tiny, method, images)
    assert out.logits.shape == (4, 10)
    assert out.logits.isfinite().all()
    counts = [step.count for step in out.trace]
    dense = [step.count for step in run(tiny, all_methods()["dense"](), images).trace]
    assert len(counts) == len(dense)
    assert method.recovers or counts == sorted(counts, reverse=True), "counts never grow"
    assert all(count <= full for count, full in zip(counts, dense, strict=True))
    beside = any(step.paths is not None for step in out.trace)  # all stay, and some take a cheaper path
    assert reduces(method) == (counts != dense or beside)
    assert method.recovers or beside or not reduces(method) or counts[-1] < dense[-1]


def test_prefix_survives(method: Method, tiny: Tiny, images: Tensor) -> None:
    """Class and register tokens are never merged or dropped, unless a method does without any."""
    if tiny().prefix == 0:
        pytest.skip("this family has no prefix tokens")
    out = run(tiny, method, images, reg_tokens=2)
    assert {step.prefix for step in out.trace} in ({3}, {0})
    if out.tokens.size is not None:
        assert (out.tokens.size[:, : out.tokens.prefix] == 1).all()


def test_maps_sum_as_they_must(method: Method, tiny: Tiny, images: Tensor) -> None:
    rows, cols = tiny().grid
    for step in run(tiny, method, images).trace:
        assert step.source.shape == (4, step.count - step.prefix, rows * cols)
        assert step.layout is None or step.layout[0] * step.layout[1] == step.count - step.prefix
        share = step.share.sum(dim=1)  # of each patch, over the tokens
        assert (share <= 1 + 1e-5).all() and (share >= -1e-6).all()
        hard = ((step.source == 0) | (step.source == 1)).all()
        if hard:
            assert (step.source.sum(dim=1) <= 1).all(), "every patch is in one token or dropped"
        else:
            taken = step.source.sum(dim=2)  # one patch's worth, or that of as many as were merged before
            torch.testing.assert_close(taken, torch.full_like(taken, round(taken.mean().item())), rtol=1e-4, atol=1e-4)


def test_tracing_changes_nothing(method: Method, tiny: Tiny, images: Tensor) -> None:
    model = Model(tiny(), method).eval()
    with torch.inference_mode():
        assert torch.equal(model(images), model.run(images, trace=True).logits)


def test_one_image_alone_equals_itself_in_a_batch(method: Method, tiny: Tiny, images: Tensor) -> None:
    model = Model(tiny(), method).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(images)[2:3], model(images[2:3]), rtol=1e-4, atol=1e-5)


def test_dense_weights_load(method: Method, tiny: Tiny) -> None:
    """Into a model with the method, with only the method's own parameters missing; all of them where it has no others.

    A method that brings modules of its own in place of the model's takes the rest.
    """
    backbone = tiny(seed=1)
    model = Model(backbone, method)
    dense = {f"vit.{k}": v for k, v in tiny(seed=2).vit.state_dict().items()}
    missing, unexpected = model.load_state_dict(dense, strict=False)
    if model.vit is backbone.vit:
        assert not unexpected
        assert all(key.startswith("blocks.") for key in missing)
    else:
        assert set(dense) & set(model.state_dict()) and len(missing) < len(model.state_dict())


def test_gradients_reach_every_parameter(method: Method, tiny: Tiny, images: Tensor) -> None:
    backbone = tiny()
    model = Model(backbone, method).train()
    teacher = Model(tiny(), all_methods()["dense"]()).run(images)
    losses = method.losses(model.run(images), torch.tensor([0, 1, 2, 3]), teacher)
    sum(losses.values()).backward()
    idle = {id(parameter) for parameter in model.idle()}
    for name, parameter in model.named_parameters():
        if id(parameter) in idle:
            assert parameter.grad is None, f"{name} is not idle"
            continue
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        if name.startswith("blocks.") and not name.endswith(".bias"):
            assert parameter.grad.abs().sum() > 0, f"no gradient reaches {name}"


def test_save_and_load(method: Method, tiny: Tiny, images: Tensor) -> None:
    first, second = Model(tiny(seed=1), method).eval(), Model(tiny(seed=2), method).eval()
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        assert torch.equal(first(images), second(images))


def test_same_seed_same_result(method: Method, images: Tensor, tiny: Tiny) -> None:
    assert torch.equal(run(tiny, method, images).logits, run(tiny, method, images).logits)


def test_two_flop_counters_agree(method: Method, tiny: Tiny, images: Tensor) -> None:
    from tokenbench.measure.flops import count

    backbone = tiny()
    model = Model(backbone, method).eval()
    flops = count(model, images[:1])  # raises where they differ by more than 0.5 %
    dense = count(backbone.vit, images[:1])
    assert flops.gmacs < dense.gmacs if reduces(method) else flops.gmacs == dense.gmacs
    assert sum(flops.by_part.values()) == pytest.approx(flops.gmacs)


def test_export_with_a_dynamic_batch(method: Method, tiny: Tiny, images: Tensor) -> None:
    model = Model(tiny(), method).eval()
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(images[:3]), model(images[:3]), rtol=1e-4, atol=1e-5)


def test_timm_model_stays_untouched(method: Method, tiny: Tiny, images: Tensor) -> None:
    backbone = tiny()
    with torch.inference_mode():
        before = backbone.vit(images)
        Model(backbone, method).eval()(images)
        assert torch.equal(backbone.vit(images), before)


def test_documented(method: Method) -> None:
    """A docstring, a label that names it, and a sentence for every knob."""
    assert type(method).__doc__ and method.label.startswith(method.name)
    for knob, field in type(method).model_fields.items():
        assert field.description, f"{method.name}.{knob} has no description"
