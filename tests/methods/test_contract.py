"""Every registered method keeps the contract, at its defaults.

`pytest tests/methods/test_contract.py --plugin FILE` adds yours, and `tokenbench check FILE` needs no pytest.
"""

from __future__ import annotations

import pytest
from conftest import served

from tokenbench.contract import CHECKS, Check, Subject
from tokenbench.methods.base import Method


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize(("family", "method"), served())  # here and not in a decorator, so that plug-ins are in


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(family: str, method: Method, check: Check) -> None:
    reason = check(Subject(family, method))
    if reason is not None:
        pytest.skip(reason)
