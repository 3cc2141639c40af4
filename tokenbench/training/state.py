"""What a run saves to go on from, and how it finds it again: weights, averaged weights, optimizer, update, settings.

No generator is saved: every draw is seeded by the update it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.errors import UsageError, WeightsError
from tokenbench.methods.base import Method
from tokenbench.model import Model
from tokenbench.training.task import MethodTask
from tokenbench.weights import files

NAME = "last.safetensors"
LATER = ("choices",)  # settings that runs of earlier versions do not say
COUNTERS = ("step", "lookahead_step")  # what some optimizers (lamb, adan, lookahead) count in their groups


def save(
    folder: Path, task: MethodTask, optimizer: torch.optim.Optimizer, update: int, settings: Mapping[str, Any]
) -> Path:
    """Write the state after `update` updates to the folder; the one before it stays until this one is whole."""
    tensors = {f"model.{key}": value for key, value in task.model.state_dict().items()}
    if task.has_ema():
        tensors |= {f"ema.{key}": value for key, value in _averaged(task).state_dict().items()}
    numbers: dict[str, Any] = {}
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                numbers[f"{index}.{key}"] = value
    groups = [{k: _plain(group[k]) for k in COUNTERS if k in group} for group in optimizer.param_groups]
    path = folder / NAME
    files.write(path, tensors, {"update": update, "settings": settings, "optimizer": numbers, "groups": groups})
    return path


def restore(folder: Path, task: MethodTask, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]) -> int:
    """Bring back what `save` wrote, if anything, and return how many updates are done.

    Raises:
        UsageError: the folder holds a run of other settings; the message shows what differs.
        WeightsError: the file is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        return 0
    header = files.header(path)
    before = header.get("settings", {})
    difference = _differences(before, {k: v for k, v in settings.items() if k in before or k not in LATER})
    if difference:
        raise UsageError(
            f"{folder} holds a run of other settings ({difference}); give the same command, or another --output."
        )
    stored = files.contents(path)

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): value for key, value in stored.items() if key.startswith(name)}

    try:
        task.model.load_state_dict(part("model."))
        if task.has_ema():
            _averaged(task).load_state_dict(part("ema."))
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**part("optimizer."), **header["optimizer"]}.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        for group, counted in zip(optimizer.param_groups, header["groups"], strict=True):
            group.update({k: torch.tensor(v) if isinstance(v, float) else v for k, v in counted.items()})
        return int(header["update"])
    except (KeyError, RuntimeError, ValueError):
        raise WeightsError(f"{path} is damaged; remove it to start the run anew.") from None


def averaged(task: MethodTask) -> Any:
    """The model that a run ends with: of averaged weights where there are any."""
    return _averaged(task) if task.has_ema() else task.model


def result(task: MethodTask, lean: Method) -> dict[str, Tensor]:
    """The tensors that a run ends with, without those that only training needs (`Method.lean`)."""
    model = averaged(task)
    tensors: dict[str, Tensor] = model.state_dict()
    if not isinstance(model, Model) or lean == model.method:
        return tensors
    names = Model(Backbone(model.vit), lean).state_dict()
    return {name: value for name, value in tensors.items() if name in names}


def _averaged(task: MethodTask) -> Any:
    return task.trainable_module_ema.module.model  # type: ignore[union-attr]


def _plain(count: Any) -> float | int:
    """A counter as JSON has it: a float for a tensor, so that it comes back as one."""
    return float(count) if isinstance(count, Tensor) else int(count)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two settings, as `recipe.lr: 0.001 before, 0.01 now`."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key, 'nothing')} before, {new.get(key, 'nothing')} now" for key in keys)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
