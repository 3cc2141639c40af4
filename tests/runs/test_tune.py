"""A knob's value for a budget: the order of its values, and the search among them."""

from __future__ import annotations

import bisect
from typing import Any

import pytest
from conftest import tiny_vit
from hypothesis import given
from hypothesis import strategies as st

from tokenbench.backbones import Backbone
from tokenbench.errors import UsageError
from tokenbench.methods import get
from tokenbench.methods.base import make
from tokenbench.runs.tune import search


@given(st.integers(1, 99), st.data())
def test_the_search_ends_at_the_edge(count: int, data: Any) -> None:
    edge, first = data.draw(st.integers(0, count)), data.draw(st.integers(0, count - 1))
    ladder: Any = list(range(count))
    tried: list[int] = []

    def keeps(one: Any) -> bool:
        tried.append(one)
        return bool(one < edge)

    assert search(ladder, first, 99, keeps) == (edge - 1 if edge else None)
    assert len(tried) == len(set(tried)) <= 8 and tried[0] == first, "a hundred values take no more than eight runs"
    assert search(ladder, first, 99, lambda one: not keeps(one), least=True) == (edge if edge < count else None)
    tried.clear()
    found = search(ladder, first, 3, keeps)
    kept = [one for one in tried if one < edge]
    assert len(tried) <= 3 and found == (max(kept) if kept else None), "only what was tried is found"


def test_values_go_from_changing_least_to_changing_most() -> None:
    vit = Backbone(tiny_vit())
    tome = make(get("tome"), {"inflect": 0.0}).ladder(vit)
    assert [one.r for one in tome] == list(range(1, len(tome) + 1)) and all(one.refusal(vit) is None for one in tome)
    evit = make(get("evit"), {"fuse": False}).ladder(vit)
    assert [one.keep_rate for one in evit[:3]] == [0.99, 0.98, 0.97] and evit[-1].keep_rate < 0.1
    assert not any(one.fuse for one in evit), "other knobs stay as they are"
    names = [one.table for one in get("diffrate")().ladder(vit)]
    rates = [float(name.rpartition("-")[2]) for name in names]
    assert rates == sorted(rates, reverse=True) and all(name.startswith("deit_s-") for name in names)
    assert bisect.bisect([-rate for rate in rates], -2.9) >= 1
    with pytest.raises(UsageError, match=r"stvit\[tokens=16\] cannot be tuned: tokens has no order"):
        get("stvit")().ladder(vit)
