"""Who learns how fast: timm's optimizer and schedule, with the backbone's own rate where a recipe gives one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.optim._param_groups import param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn

from tokenbench.core.block import Reducer
from tokenbench.errors import BadSetting
from tokenbench.methods.learning import Learning
from tokenbench.model import Model


def optimizer(model: nn.Module, recipe: Learning) -> torch.optim.Optimizer:
    """timm's optimizer over what the method added, at the full rate, and the backbone, at `backbone_lr` of it.

    Raises:
        BadSetting: a frozen parameter, or an optimizer, that does not exist.
    """
    body, rest, excluded = _divided(model)
    own = dict(body.named_parameters())
    for name in recipe.frozen:
        if name not in own:
            raise BadSetting(
                f"recipe: frozen={name} is no parameter of this backbone; it has {', '.join(list(own)[:3])}, …; "
                "give another --recipe, or --set frozen=NAMES."
            )
        own[name].requires_grad_(False)
    groups: list[dict[str, Any]] = []
    head: Any = getattr(body, "head", None)
    fresh = set(head.parameters()) if getattr(recipe, "fresh_head", False) else set()
    for part, module in (("backbone", body), *(("method", module) for module in rest)):
        for group in _groups(module, recipe, excluded if part == "backbone" else ()):
            divided = {part: [p for p in group["params"] if p not in fresh]}
            divided |= {"head": [p for p in group["params"] if p in fresh]}
            for name, several in divided.items():
                groups += [{**group, **alike, "part": name} for alike in _by_rate(model, several)]
    if not groups:
        raise BadSetting(f"recipe: frozen={'/'.join(recipe.frozen)} leaves nothing to train.")
    try:
        made: torch.optim.Optimizer = create_optimizer_v2(groups, opt=recipe.optimizer, lr=recipe.scaled_lr)
    except (AssertionError, ImportError, RuntimeError, TypeError, ValueError):
        raise BadSetting(
            f"recipe: optimizer={recipe.optimizer} cannot be made by timm here; adamw, lamb, muon and sgd are some."
        ) from None
    return made


def _divided(model: nn.Module) -> tuple[nn.Module, list[nn.Module], list[str]]:
    """The backbone, what else learns, and the names in the backbone that its makers exclude from weight decay."""
    if isinstance(model, Model):
        listed = model.vit.no_weight_decay() if hasattr(model.vit, "no_weight_decay") else ()
        return model.vit, [model.blocks], list(listed)
    body: Any = model.body
    tables = [name for name, _ in body.named_parameters() if name.endswith("relative_position_bias_table")]
    return body, [child for name, child in model.named_children() if name != "body"], tables


def _groups(module: nn.Module, recipe: Learning, excluded: Sequence[str]) -> list[dict[str, Any]]:
    """Parameters with weight decay and without."""
    if recipe.no_decay == "vectors":
        made = param_groups_weight_decay(module, recipe.weight_decay, no_weight_decay_list=excluded)  # type: ignore[no-untyped-call]
        return list(made)
    spared: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (spared if "norm" in name or name in excluded else others).append(parameter)
    return [{"params": spared, "weight_decay": 0.0}, {"params": others, "weight_decay": recipe.weight_decay}]


def _by_rate(model: nn.Module, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters by the factor that their reducer puts on the learning rate (`Reducer.rate`), where that is not 1."""
    reducers = [module for module in model.modules() if isinstance(module, Reducer)]
    rates = {parameter: reducer.rate for reducer in reducers for parameter in reducer.parameters()}
    found: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        found.setdefault(rates.get(parameter, 1.0), []).append(parameter)
    return [{"params": several} | ({} if rate == 1 else {"lr_scale": rate}) for rate, several in found.items()]


class Schedule:
    """timm's schedule, told the update before each."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Learning, updates: int, total: int) -> None:
        """`updates` an epoch, `total` in all."""
        self._optimizer, self._recipe, self._updates = optimizer, recipe, updates
        made: Any = None
        with suppress(AssertionError, ValueError, KeyError):
            made, _ = create_scheduler_v2(
                optimizer,
                sched=recipe.schedule,
                num_epochs=total,
                min_lr=recipe.min_lr,
                warmup_lr=recipe.warmup_lr,
                decay_epochs=None if recipe.schedule in ("wsd", "rsqrt") else 90 * updates,
                decay_milestones=[round(epoch * updates) for epoch in recipe.milestones],
                decay_rate=1.0 if recipe.schedule == "poly" else 0.1,  # of poly it is the power
                warmup_epochs=recipe.warmup_updates or round(recipe.warmup_epochs * updates),
                step_on_epochs=False,
                updates_per_epoch=1,
            )
        if made is None:
            raise BadSetting(
                f"recipe: schedule={recipe.schedule} cannot be; cosine, step, wsd and constant are some that can."
            )
        self._scheduler = made

    def set(self, update: int) -> float:
        """Set the rates for an update, and return the highest."""
        waiting = update < self._recipe.backbone_wait * self._updates
        for group in self._optimizer.param_groups:
            if group["part"] == "backbone":
                group["lr_scale"] = 0.0 if waiting else self._recipe.backbone_lr
        self._scheduler.step_update(update)
        return max(float(group["lr"]) for group in self._optimizer.param_groups)
