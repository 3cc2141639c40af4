"""Joules an image, where the machine tells them; null, and shown nowhere, where it does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from femto import Watch, plan
from refusals import refused
from rows import row
from torch import nn

from tokenbench.errors import UsageError
from tokenbench.measure import energy
from tokenbench.reports.paper.tables import tables
from tokenbench.runs import axes, choose, metering, runner
from tokenbench.runs.choose import Wanted
from tokenbench.runs.compare import beside
from tokenbench.runs.matching import Found
from tokenbench.runs.results import Results

AXIS = next(axis for axis in axes.AXES if axis.field == "joules")


def zeus(monkeypatch: pytest.MonkeyPatch, joules: Iterator[float], unreadable: str = "") -> list[dict]:
    """Stands in for the library, whose counters this machine does not have; gives what monitors were asked for."""
    device, monitor, asked = ModuleType("zeus.device"), ModuleType("zeus.monitor"), []

    def counters() -> None:
        if unreadable:
            raise RuntimeError(unreadable)

    class ZeusMonitor:
        def __init__(self, **how: object) -> None:
            asked.append(how)

        def begin_window(self, key: str) -> None:
            pass

        def end_window(self, key: str) -> SimpleNamespace:
            half = next(joules) / 2
            return SimpleNamespace(cpu_energy={0: half, 1: half}, gpu_energy={})

    device.get_cpus = device.get_gpus = counters
    monitor.ZeusMonitor = ZeusMonitor
    for name, module in {"zeus": ModuleType("zeus"), "zeus.device": device, "zeus.monitor": monitor}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return asked


def test_joules_are_of_an_image_whatever_the_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "perf_counter", iter([1.0, 1.25, 1.0, 4.0]).__next__)  # seconds of one pass
    done = 0
    how: set[tuple[bool, bool, bool]] = set()

    class Counted(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            nonlocal done
            done += 1
            how.add((self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            return images.flatten(1)

    extra = iter([0.0, 1.0, 2.0, 3.0, 4.0])

    def meter(work: object) -> float:
        before = done
        work()
        return (done - before) * 4 * (5 + next(extra))  # a pass of four images

    images = torch.zeros(4, 1, 8, 8)
    found = energy.measure(Counted().train(), images, meter)
    assert done == 2 + 4 * energy.READINGS and (found.joules, found.spread) == (7.0, pytest.approx(2 / 7))
    assert how == {(False, True, False)} and found.readings == energy.READINGS
    how.clear()
    found = energy.measure(Counted(), images, lambda work: work() or 0.0, "bf16", 2.0)  # a pass is longer than that
    assert found == energy.Energy(0.0, 0.0, energy.READINGS) and done == 2 + 4 * energy.READINGS + 2 + energy.READINGS
    assert how == {(False, True, True)}


def test_rows_have_energy_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.measure, "__defaults__", ("fp32", 0.001))
    results, job = Results(tmp_path / "results.jsonl"), plan("dense")
    (before,) = runner.run(job, results, Watch())
    assert before.status == "ok" and before.joules is None
    asked = zeus(monkeypatch, iter(range(1, 99)))
    job, watch, given = plan("dense", energy=True), Watch(), list[tuple]()
    original = energy.measure
    with monkeypatch.context() as patch:
        patch.setattr(energy, "measure", lambda *how: given.append(how) or original(*how))
        (after,) = runner.run(job, results, watch)
        (half,) = runner.run(plan("dense", energy=True, precision="bf16"), Results(tmp_path / "half.jsonl"), Watch())
    assert watch.stretches[-1] == ("deit_femto: energy at batch 2", 1, [1])
    assert [(how[0].method.name, len(how[1]), how[3:]) for how in given] == [
        ("dense", 2, ("fp32",)),
        ("dense", 2, ("bf16",)),
    ]
    assert half.joules is not None and half.precision == "bf16"
    assert after.id == before.id and after.joules > 0 and after.joules_spread > 0
    assert after.joules_readings == energy.READINGS
    assert asked[-1] == {"gpu_indices": [], "cpu_indices": None}, "the CPU's alone, all of it"
    assert runner.run(job, results, Watch()) == [after], "measured once"


def test_where_it_cannot_be_measured_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(tmp_path / "results.jsonl")
    zeus(monkeypatch, iter(()), "RAPL unavailable.\nFailed")
    for changes, says in (
        ({}, r"^--energy cannot be measured on cpu: its RAPL counters cannot be read \(RAPL unavailable\); leave it"),
        ({"compile": True}, "leave out --compile, or --energy"),
    ):
        with pytest.raises(UsageError, match=says):
            runner.run(plan("dense", energy=True, **changes), results, Watch())
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    with pytest.raises(UsageError, match=r"zeus, which is not installed; pip install 'tokenbench\[energy\]'"):
        runner.run(plan("dense", energy=True), results, Watch())
    assert not results.path.exists()


def test_a_meter_reads_its_own_device_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    zeus(monkeypatch, iter(()))

    class Monitor:
        def __init__(self, **how: object) -> None:
            asked.append(how)

        def begin_window(self, key: str) -> None:
            asked.append(("begin", key))

        def end_window(self, key: str) -> SimpleNamespace:
            asked.append(("end", key))
            return SimpleNamespace(cpu_energy={0: 1.0, 1: 2.0}, gpu_energy={3: 5.0, 4: 6.0})

    monkeypatch.setattr(sys.modules["zeus.monitor"], "ZeusMonitor", Monitor)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 3)
    for name in ("get_cpus", "get_gpus"):
        monkeypatch.setattr(sys.modules["zeus.device"], name, lambda name=name: asked.append(name))
    for device, counters, gpus, cpus, joules in (
        ("cpu", "get_cpus", [], None, 3.0),
        ("cuda", "get_gpus", [3], [], 11.0),
        ("cuda:1", "get_gpus", [1], [], 11.0),
    ):
        asked.clear()
        assert metering.meter(device)(lambda: asked.append("work")) == joules
        chosen = {"gpu_indices": gpus, "cpu_indices": cpus}
        assert asked == [counters, chosen, ("begin", "passes"), "work", ("end", "passes")]
    zeus(monkeypatch, iter(()), "Not permitted.\nAsk")
    for device, what in (("cpu", "RAPL"), ("cuda", "NVML")):
        why = f"its {what} counters cannot be read (Not permitted); leave it out."
        with refused(UsageError, f"--energy cannot be measured on {device}: {why}"):
            metering.meter(device)
    metering.check(plan("dense", compile=True))
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    with refused(UsageError, "--energy is of models that are not compiled; leave out --compile, or --energy."):
        metering.check(plan("dense", energy=True, compile=True))
    for missing in ("zeus.device", "zeus.monitor"):
        monkeypatch.setitem(sys.modules, "zeus.device", ModuleType("zeus.device"))
        monkeypatch.setitem(sys.modules, missing, None)
        with refused(UsageError, "--energy needs zeus, which is not installed; pip install 'tokenbench[energy]'."):
            metering.meter("cpu")


def test_it_is_shown_where_there_is_some(tmp_path: Path) -> None:
    told = {"joules_spread": 0.02, "joules_readings": 5}
    without = [row("dense"), row("tome", "tome[r=8]", setting={"r": 8})]
    known = [
        row("dense", joules=2.0, **told),
        row("tome", "tome[r=8]", setting={"r": 8}, top1=70.0, joules=1.0, **told),
    ]
    assert "J an image" not in tables(without)[0].frame and AXIS not in axes.measured(without)
    assert list(tables(known)[0].frame["J an image"]) == ["2", "1"] and AXIS in axes.measured(known)
    choice = choose.decide(known, Wanted(None, (), AXIS))
    low, high = choice.offers[0].saving.low, choice.offers[0].saving.high
    assert choice.best.row.method == "tome" and low < choice.offers[0].saving.share == 0.5 < high
    found = [Found(one, tmp_path / "a.jsonl") for one in known]
    change = beside(*found, None).changes["joules"]
    assert change.value == 0.5 and change.low < 0.5 < change.high
