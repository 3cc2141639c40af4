"""Trackers get each line of the log's numbers, whatever their own words for it are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tokenbench.errors import TokenbenchError, UsageError
from tokenbench.training import trackers
from tokenbench.training.log import Log

SETTINGS = {"method": "evit", "lr": 0.1, "recipe": {"epochs": 2}}
LINES = [{"update": 4, "loss": 1.5, "top1": None, "phase": "warm"}, {"update": 8, "loss": 0.5, "top1": 40}]
OPEN = {"init": "run", "set_experiment": "tokenbench", "start_run": "run", "SummaryWriter": "run/tensorboard"}
SHUT = {"finish", "end_run", "close"}


class Fake:
    """A module that writes down what it is asked: names and arguments."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def asked(*args: Any, **named: Any) -> Fake:
            self.asked.append((name, args, named))
            return self

        if name.startswith("__"):
            raise AttributeError(name)
        return asked


def follow(name: str, folder: Path) -> None:
    log = Log(folder, 0, trackers.start(name, folder, SETTINGS))
    for line in LINES:
        log.add(line)
    log.close()


@pytest.mark.parametrize(
    ("name", "module", "told"),
    [
        *(
            (name, name, [("log", ({"loss": 1.5, "top1": None, "phase": "warm"},), {"step": 4})])
            for name in ("trackio", "wandb")
        ),
        ("mlflow", "mlflow", [("log_metrics", ({"loss": 0.5, "top1": 40.0},), {"step": 8})]),
        ("tensorboard", "torch.utils.tensorboard", [("add_scalar", ("top1", 40.0, 8), {})]),
    ],
)
def test_each_gets_settings_numbers_and_an_end(
    name: str, module: str, told: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, folder = Fake(), tmp_path / "run"
    folder.mkdir()
    monkeypatch.setitem(sys.modules, module, fake)
    follow(name, folder)
    first, *_, last = fake.asked
    shown = [str(value).removeprefix(f"{tmp_path}/") for value in (*first[1], *first[2].values())]
    assert OPEN[first[0]] in shown and last[0] in SHUT
    assert all(call in fake.asked for call in told)
    assert any("evit" in str(call) and "epochs" in str(call) for call in fake.asked)
    assert name in ("trackio", "wandb") or not any("phase" in str(call) for call in fake.asked)  # no number


@pytest.mark.parametrize("name", trackers.NAMES)
def test_what_is_absent_or_cannot_start_is_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"'{name}' is not installed; pip install 'tokenbench\[{name}\]'\.$"):
        trackers.start(name, tmp_path, SETTINGS)
    monkeypatch.setitem(sys.modules, module, object())
    with pytest.raises(TokenbenchError, match=rf"'{name}' cannot start \(.*\); set it up, or leave --tracker out\.$"):
        trackers.start(name, tmp_path, SETTINGS)


@pytest.mark.slow
def test_tensorboard_reads_what_was_told(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow("tensorboard", tmp_path)
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(4, 1.5), (8, 0.5)]
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0]) == LINES[0]


@pytest.mark.slow
def test_mlflow_keeps_what_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/runs.db")
    follow("mlflow", tmp_path)
    (run,) = mlflow.search_runs(experiment_names=["tokenbench"]).to_dict("records")
    assert run["metrics.loss"] == 0.5 and run["params.method"] == "evit" and run["status"] == "FINISHED"
