"""Under torch.compile every method gives the logits it gives without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from conftest import FAMILIES, served

from tokenbench.backbones import Backbone
from tokenbench.methods.base import Method
from tokenbench.model import Model


def cases() -> Iterator[object]:
    """What is captured, in every run of the tests for the first two families; what is compiled takes long."""
    for given in served():
        family, method = given.values
        for backend in ("eager", "inductor"):
            late = backend == "inductor" or family not in ("vit", "swin")
            yield pytest.param(
                family, method, backend, id=f"{given.id}-{backend}", marks=[pytest.mark.slow] if late else []
            )


@pytest.mark.parametrize(("family", "method", "backend"), cases())
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compile(family: str, method: Method, backend: str) -> None:
    """In one graph: "eager" runs what was captured, "inductor" what was compiled."""
    torch.compiler.reset()
    half = Backbone(FAMILIES[family](**({} if family == "swin" else {"depth": 6})), "tiny")
    backbone = Backbone(FAMILIES[family](), "tiny") if method.refusal(half) else half
    images = torch.randn(4, *backbone.input_size, generator=torch.Generator().manual_seed(1))
    model = Model(backbone, method).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-3, atol=1e-4)
