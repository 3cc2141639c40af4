"""What the tests share: small random models, and `--plugin FILE` to put a method of one's own through the contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from browser import chromium, visit  # noqa: F401  fixtures, here so that one browser serves all modules
from hypothesis import Phase, settings
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from twonodes import two_nodes  # noqa: F401  for whatever runs on a cluster

from tokenbench.backbones import Backbone
from tokenbench.methods import all_methods, load_plugin
from tokenbench.runs import timing
from tokenbench.tiny import FAMILIES, tiny_beit, tiny_eva, tiny_swin, tiny_vit  # noqa: F401  tests import them from here

settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.register_profile(
    "mutants", deadline=None, database=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.load_profile("tests")
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], help="a file with a Method, to be tested like the others")


def pytest_configure(config: pytest.Config) -> None:
    for path in config.getoption("--plugin"):
        load_plugin(path)


def served() -> list[object]:
    """Every family and method, at its defaults or its trial setting, that go together."""
    backbones = {family: Backbone(make()) for family, make in FAMILIES.items()}
    return [
        pytest.param(family, cls(**cls.trial), id=f"{family}-{name}")
        for name, cls in all_methods().items()
        for family, backbone in backbones.items()
        if cls(**cls.trial).refusal(backbone) is None
    ]


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Count FLOPs on the meta device, without arithmetic; fused attention as its two matmuls."""
    fused = sdpa_kernel(SDPBackend.MATH)
    with torch.device("meta"), fused, FlopCounterMode(display=False) as counter, torch.no_grad():
        yield counter


@pytest.fixture(scope="session", autouse=True)
def no_more_rounds() -> Iterator[None]:
    """Rounds as many as are asked for, and none more because the machine that runs the tests is busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "MOST", 1)
        yield


@pytest.fixture
def tiny() -> Callable[..., Backbone]:
    """Builds a tiny random backbone; takes VisionTransformer's options."""
    return lambda seed=0, **options: Backbone(tiny_vit(seed, **options), "tiny")


@pytest.fixture
def images() -> torch.Tensor:
    """Four images for the tiny backbone."""
    return torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))


sys.path.insert(0, os.path.dirname(__file__))
