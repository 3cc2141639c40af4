"""Where numbers of a training go besides its log: trackio, wandb, mlflow or tensorboard, each an extra."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tokenbench.errors import TokenbenchError, UsageError

PROJECT = "tokenbench"


class Tracker(Protocol):
    """What the log tells its numbers to."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers at an update."""

    def finish(self) -> None:
        """The run is over."""


class MLflow:
    """A run of the experiment `tokenbench`, where MLFLOW_TRACKING_URI or MLflow's own default says."""

    def __init__(self, mlflow: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        self.mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=folder.name)
        mlflow.log_params({key: value if isinstance(value, str) else _text(value) for key, value in settings.items()})

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers at an update."""
        self.mlflow.log_metrics(_numbers(values), step=step)

    def finish(self) -> None:
        """The run is over."""
        self.mlflow.end_run()


class TensorBoard:
    """Event files in `tensorboard` in the folder of the run; those of a run that goes on lie beside the first."""

    def __init__(self, module: Any, folder: Path, settings: Mapping[str, Any]) -> None:
        self.writer = module.SummaryWriter(str(folder / "tensorboard"))
        self.writer.add_text("settings", _text(settings))

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Numbers at an update."""
        for name, value in _numbers(values).items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        """The run is over."""
        self.writer.close()


def start(name: str, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """A tracker by name, for the run in that folder.

    Raises:
        UsageError: it is not known or not installed.
        TokenbenchError: it cannot start, as without an account or a network.
    """
    if name not in _KNOWN:
        *most, last = NAMES
        raise UsageError(f"Tracker '{name}' is not known; give {', '.join(most)} or {last}, or none.")
    module, begin = _KNOWN[name]
    try:
        found = importlib.import_module(module)
    except ImportError:
        raise UsageError(f"Tracker '{name}' is not installed; pip install 'tokenbench[{name}]'.") from None
    try:
        return begin(found, folder, settings)
    except Exception as error:  # each raises its own, of accounts and networks
        raise TokenbenchError(f"Tracker '{name}' cannot start ({error}); set it up, or leave --tracker out.") from None


def _init(module: Any, folder: Path, settings: Mapping[str, Any]) -> Tracker:
    """Of modules that are trackers themselves once a run has begun."""
    module.init(project=PROJECT, name=folder.name, config=dict(settings))
    return module  # type: ignore[no-any-return]


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


_Begin = Callable[[Any, Path, Mapping[str, Any]], Tracker]
_KNOWN: dict[str, tuple[str, _Begin]] = {  # the module to import, and how a run begins
    "trackio": ("trackio", _init),
    "wandb": ("wandb", _init),
    "mlflow": ("mlflow", MLflow),
    "tensorboard": ("torch.utils.tensorboard", TensorBoard),
}
NAMES = tuple(_KNOWN)
