"""Under torch.compile every method gives the logits it gives without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from conftest import served

from tokenbench.contract import Subject
from tokenbench.measure.compiling import Compiled
from tokenbench.methods.base import Method
from tokenbench.model import Model


def cases() -> Iterator[object]:
    """What is captured, in every run of the tests for every second method of the first two families, for exporting
    captures all of them; what is compiled takes long."""
    for place, given in enumerate(served()):
        family, method = given.values
        for backend in ("eager", "inductor"):
            late = backend == "inductor" or family not in ("vit", "swin") or place % 2 == 0
            yield pytest.param(
                family, method, backend, id=f"{given.id}-{backend}", marks=[pytest.mark.slow] if late else []
            )


@pytest.mark.parametrize(("family", "method", "backend"), list(cases()))
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compile(family: str, method: Method, backend: str) -> None:
    """In one graph: "eager" runs what was captured, "inductor" what was compiled."""
    torch.compiler.reset()
    model, images = small(family, method)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), list(served()))
@pytest.mark.filterwarnings("ignore")
def test_one_graph_serves_all_batches(family: str, method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a batch of one, which may have its own."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model, images = small(family, method)
    compiled = Compiled(model)
    with torch.inference_mode():
        for few in (2, 3, 4):
            torch.testing.assert_close(compiled(images[:few]), model(images[:few]), rtol=1e-3, atol=1e-4)
        assert (counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())) == (1, 0)
        compiled(images[:1])
    assert counters["stats"]["unique_graphs"] <= 2


def small(family: str, method: Method) -> tuple[Model, torch.Tensor]:
    """A model of few blocks, where the method can do with so few, and images."""
    subject = Subject(family, method)
    return Model(subject.shallow(), method).eval(), subject.images
