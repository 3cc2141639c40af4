"""Sweeps."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenbench.errors import BadSetting, UnknownName, UsageError
from tokenbench.methods import all_methods
from tokenbench.methods.sweep import parse


def labels(text: str) -> list[str]:
    return [method.label for method in parse(text)]


def test_a_sweep() -> None:
    assert labels("tome[r=4,8,13],evit") == ["tome[r=4]", "tome[r=8]", "tome[r=13]", "evit[keep_rate=0.7]"]


def test_every_combination() -> None:
    assert labels("evit[keep_rate=0.5,0.7,fuse=true,false]") == [
        "evit[keep_rate=0.5]",
        "evit[keep_rate=0.5,fuse=false]",
        "evit[keep_rate=0.7]",
        "evit[keep_rate=0.7,fuse=false]",
    ]


def test_a_list_in_a_knob() -> None:
    assert labels("topk[blocks=4/8]") == ["topk[keep_rate=0.7,blocks=4/8]"]
    assert labels("tome[r=8/8/4]") == ["tome[r=8/8/4]"]
    assert labels("evit[blocks=6]") == ["evit[keep_rate=0.7,blocks=6]"]


def test_twice_is_once() -> None:
    assert labels("evit,evit[keep_rate=0.7]") == ["evit[keep_rate=0.7]"]


def test_all() -> None:
    names = [m.name for m in parse("all")]
    assert names == ["dense", *sorted(name for name in all_methods() if name != "dense")]
    assert all(m == type(m)() for m in parse("all")), "at their defaults"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("evti", UnknownName, "Unknown method 'evti'. Did you mean evit? See `tokenbench list`."),
        ("", UsageError, "No method was given"),
        ("tome[r=4", UsageError, "do not parse"),
        ("tome[4]", UsageError, "names no knob"),
        ("tome[r=]", UsageError, "names no knob or value"),
        ("tome[q=4]", BadSetting, "has no knob 'q'; it has r, inflect, prop_attn"),
        ("tome[r=-1]", BadSetting, "r=-1 is not allowed"),
        ("tome[r=x]", BadSetting, "r=x is not allowed"),
        ("evit[keep_rate=0]", BadSetting, "keep_rate=0 is not allowed, it should be greater than 0"),
        ("evit[keep_rate=1.5]", BadSetting, "less than or equal to 1"),
        ("stvit[tokens=15]", BadSetting, "square number"),
        ("stvit[pool=min]", BadSetting, "pool=min is not allowed"),
    ],
)
def test_bad_input(text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as info:
        parse(text)
    assert message in str(info.value)
    assert "\n" not in str(info.value)


@given(st.text(alphabet="tomevi[]=,.rk 0123456789/", max_size=30))
def test_never_a_traceback(text: str) -> None:
    """Whatever is typed either parses or is a usage error."""
    with contextlib.suppress(UsageError):
        parse(text)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True))
def test_round_trip(rs: list[int]) -> None:
    """A label parses back to its setting."""
    for method in parse(f"tome[r={','.join(map(str, rs))}]"):
        assert parse(method.label) == [method]
