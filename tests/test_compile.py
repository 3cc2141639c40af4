"""Under torch.compile every method gives the logits it gives without."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tokenbench.backbones import Backbone
from tokenbench.methods import all_methods
from tokenbench.model import Model


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", all_methods())
@pytest.mark.filterwarnings("ignore")  # of the compiler's own making
def test_compile(name: str, backend: str, tiny: Callable[..., Backbone], images: torch.Tensor) -> None:
    """In one graph: "eager" runs what was captured, "inductor" what was compiled."""
    torch.compiler.reset()
    model = Model(tiny(), all_methods()[name]()).eval()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images), rtol=1e-3, atol=1e-4)
