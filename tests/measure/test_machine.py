"""What is told of a machine follows from what its system counted, and is left out where it counts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tokenbench.measure import machine

# user nice system idle iowait irq softirq steal guest guest_nice, in ticks; the third core is not ours
BEFORE = """cpu  900 0 0 0 0 0 0 0 0 0
cpu0 100 10 20 500 7 1 2 30 0 0
cpu1 200 0 0 500 0 0 0 0 0 0
cpu12 600 0 0 0 0 0 0 900 0 0
intr 1
"""
AFTER = """cpu  900 0 0 0 0 0 0 0 0 0
cpu0 350 20 50 600 9 3 8 70 0 0
cpu1 400 0 0 600 0 0 0 20 0 0
cpu12 900 0 0 0 0 0 0 999 0 0
intr 2
"""


@pytest.fixture
def between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, float | None]]:
    """What is told of five seconds, of which this process ran some, from two states of the system's files."""

    def told(
        before: str | None, after: str | None, own: float, quota: int | None, passed: float = 5.0
    ) -> dict[str, float | None]:
        def have(text: str | None, stopped: int | None) -> None:
            for path, content in (
                (machine.STAT, text),
                (machine.QUOTA, stopped and f"usage_usec 1\nthrottled_usec {stopped}\n"),
            ):
                path.unlink(missing_ok=True)
                if content is not None:
                    path.write_text(content)

        clock = {"monotonic": 100.0, "process_time": 7.0}
        for name in clock:
            monkeypatch.setattr(machine, name, lambda name=name: clock[name])
        monkeypatch.setattr(machine, "STAT", tmp_path / "stat")
        monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.stat")
        monkeypatch.setattr(machine, "_TICK", 100)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0: {0, 1}}[pid], raising=False)
        monkeypatch.setattr(os, "getloadavg", lambda: (1.254, 9.0, 9.0), raising=False)
        have(before, 250_000)
        begin = machine.now()
        clock["monotonic"] += passed
        clock["process_time"] += own
        have(after, quota)
        return machine.since(begin)

    return told


def test_what_others_took(between: Callable[..., dict[str, float | None]]) -> None:
    # The two cores ran 2.98 + 2 seconds, 4 of them for this process, and 0.6 were stolen, of 10.
    assert between(BEFORE, AFTER, 4.0, 1_250_000) == pytest.approx(
        {"others": 0.098, "steal": 0.06, "stopped": 0.2, "load": 1.25}
    )
    assert between(BEFORE, AFTER, 5.5, 1_250_000)["others"] == 0.0, "ticks are coarse, so that it may seem below"
    # of half a second, the least that is enough, and never more than all of it
    assert between(BEFORE, AFTER, 4.92, 260_000, passed=0.5) == {
        "others": 0.06,
        "steal": 0.6,
        "stopped": 0.02,
        "load": 1.25,
    }
    assert between(BEFORE, AFTER, 0.1, 1_250_000, passed=0.5) == {
        "others": 1.0,
        "steal": 0.6,
        "stopped": 1.0,
        "load": 1.25,
    }
    assert between(BEFORE, AFTER, 4.0, 250_123, passed=7.0) == {
        "others": 0.07,
        "steal": 0.0429,
        "stopped": 0.0,
        "load": 1.25,
    }


def test_what_is_not_known_is_not_told(between: Callable[..., dict[str, float | None]]) -> None:
    nothing = dict.fromkeys(("others", "steal", "stopped"))
    assert between(None, None, 4.0, None) == {**nothing, "load": 1.25}
    assert between(BEFORE, None, 4.0, None) == between(None, AFTER, 4.0, None) == {**nothing, "load": 1.25}
    assert between("intr 1\n", "intr 1\n", 4.0, None) == {**nothing, "load": 1.25}, "of none of our cores"
    assert between("cpu0 what\n", "cpu0 what\n", 4.0, None) == {**nothing, "load": 1.25}
    assert between(BEFORE, AFTER, 0.1, 260_000, passed=0.1) == {**nothing, "load": 1.25}, "too short"


def test_systems_that_say_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STAT", tmp_path / "none")
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for counted, cores in ((3, {0, 1, 2}), (None, {0})):
        monkeypatch.setattr(os, "cpu_count", lambda counted=counted: counted)
        assert machine._cores() == cores
    assert machine.since(machine.now())["load"] is None
