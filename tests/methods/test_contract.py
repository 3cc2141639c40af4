"""Every registered method keeps the contract, at its defaults.

`pytest tests/methods/test_contract.py --plugin FILE` adds yours, and `tokenbench check FILE` needs no pytest.
"""

from __future__ import annotations

from functools import cache

import pytest
from conftest import served

from tokenbench.backbones import Backbone
from tokenbench.contract import CHECKS, Check, Subject, exports_with_a_dynamic_batch, runs_in_half_precision
from tokenbench.errors import PLUGIN
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method
from tokenbench.tiny import FAMILIES

OTHERS = [family for family in FAMILIES if family not in ("vit", "swin")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    # here and not in a decorator, so that plug-ins are in
    metafunc.parametrize(
        ("check", "family", "method"), [_case(check, *given.values, given.id) for given in served() for check in CHECKS]
    )


@cache
def six() -> Backbone:
    """A ViT of six blocks."""
    return Backbone(FAMILIES["vit"](depth=6), "tiny")


def _case(check: Check, family: str, method: Method, name: str) -> object:
    """Some checks take long, and the other families differ in nothing that they would meet. In every run of the tests
    each of these is met by a third of the methods, and each by another third; with `-m slow` by all."""
    early = {exports_with_a_dynamic_batch: ("vit", "swin"), runs_in_half_precision: ("vit",)}
    names = list(all_methods())
    first = family in ("vit", "swin") or type(method).__module__.startswith(PLUGIN)
    turn = first or names.index(method.name) % 3 == OTHERS.index(family) % 3
    deep = check is exports_with_a_dynamic_batch and family == "vit" and method.refusal(six()) is not None  # 20 s
    late = (check in early and family not in early[check]) or not turn or deep
    marks = [pytest.mark.slow] if late else []
    return pytest.param(check, family, method, id=f"{name}-{check.__name__}", marks=marks)


def test_contract(check: Check, family: str, method: Method) -> None:
    reason = check(Subject(family, method))
    if reason is not None:
        pytest.skip(reason)
