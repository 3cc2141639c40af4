"""Memory that is freed stays with the process, where malloc is glibc's, and nothing is done elsewhere."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from torch import nn

from tokenbench.measure import allocator, running

ROUNDS = """
import resource
from tokenbench.measure.allocator import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        bytearray(1 << 26)[:: 1 << 12] = bytes(1 << 14)  # 16,384 pages of 4 KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, told, first, after = faults(), keep_freed(), faults(), faults()
print(told, before, after)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_pages_are_cleared_once() -> None:
    done = subprocess.run([sys.executable, "-c", ROUNDS], capture_output=True, text=True, check=True)
    told, before, after = done.stdout.split()
    assert told == "True" and int(before) > 100 > int(after), "huge pages, where they are on, make it fewer before"


@pytest.mark.parametrize(
    ("mallopt", "told"),
    [(lambda option, value: {(-4, 0): 1, (-1, -1): 1}[option, value], True), (lambda option, value: 0, False)],
)
def test_what_malloc_says(mallopt: Callable[[int, int], int], told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: {None: SimpleNamespace(mallopt=mallopt)}[name])
    assert allocator.keep_freed.__wrapped__() is told


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_are_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, "CDLL", nothing)
    assert allocator.keep_freed.__wrapped__() is False


def test_whatever_is_measured_is_measured_so(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(running, "keep_freed", lambda: asked.append(True))
    with running.evaluating(nn.Identity()):
        assert asked == [True]
