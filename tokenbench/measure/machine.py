"""What else a machine does while something is timed, as far as its system says: Linux does, others hardly."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time

STAT = Path("/proc/stat")
QUOTA = Path("/sys/fs/cgroup/cpu.stat")
HELD = ("others", "steal", "stopped", "throttled")  # of what is told, the shares that a quiet machine has at 0
BUSY = 0.05  # above which one of them makes a machine a busy one
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_SHORTEST = 0.5  # seconds in which ticks are enough to tell 2 %


@dataclass(frozen=True)
class Moment:
    """Seconds so far, of all cores that this process may use; None where the system does not say."""

    passed: float
    own: float
    ran: float | None  # of any process
    stolen: float | None
    stopped: float | None


def now() -> Moment:
    """This moment, for `since`."""
    ran, stolen = _ticks()
    return Moment(monotonic(), process_time(), ran, stolen, _stopped())


def without(begin: Moment, pause: Moment) -> Moment:
    """A beginning moved on by all that went on since `pause`, so that it is no part of what `since` tells."""
    back = now()

    def moved(first: float | None, left: float | None, here: float | None) -> float | None:
        return None if first is None or left is None or here is None else first + here - left

    return Moment(
        begin.passed + back.passed - pause.passed,
        begin.own + back.own - pause.own,
        moved(begin.ran, pause.ran, back.ran),
        moved(begin.stolen, pause.stolen, back.stolen),
        moved(begin.stopped, pause.stopped, back.stopped),
    )


def since(begin: Moment) -> dict[str, float | None]:
    """What went on since a moment, ready for JSON; None where the system does not say, or too little time passed.

    Returns:
        `others`, what other processes ran, and `steal`, what other guests of the same host took: shares of the time of
        the cores that this process may use; `stopped`, the share of the time in which a quota on the CPU held this
        process back; `load`, processes that ran or waited in the last minute, this one's threads among them.
    """
    end, cores = now(), _cores()
    passed = end.passed - begin.passed

    def share(seconds: float | None, before: float | None, of: float) -> float | None:
        if seconds is None or before is None or passed < _SHORTEST:
            return None
        return round(min(1.0, max(0.0, (seconds - before) / of)), 4)

    own = end.own - begin.own
    return {
        "others": share(end.ran, None if begin.ran is None else begin.ran + own, passed * len(cores)),
        "steal": share(end.stolen, begin.stolen, passed * len(cores)),
        "stopped": share(end.stopped, begin.stopped, passed),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _ticks() -> tuple[float, float] | tuple[None, None]:
    """Seconds that anything ran on these cores, and that the host gave to others."""
    names, ran, stolen = {f"cpu{core}" for core in _cores()}, 0, 0
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
        for _, *values in (line for line in lines if line[0] in names):
            user, nice, system, _, _, irq, softirq, steal = map(int, values[:8])
            ran += user + nice + system + irq + softirq
            stolen += steal
    except (OSError, ValueError):
        return None, None
    return (ran / _TICK, stolen / _TICK) if ran else (None, None)


def _stopped() -> float | None:
    try:
        found = dict(line.split() for line in QUOTA.read_text().splitlines())
        return int(found["throttled_usec"]) / 1e6
    except (OSError, ValueError, KeyError):  # no quota, or another system
        return None
