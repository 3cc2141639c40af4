"""The values of a method's main knob in order, from changing least to changing most."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tokenbench.errors import BadSetting, UsageError

if TYPE_CHECKING:
    from tokenbench.backbones import Backbone
    from tokenbench.methods.base import Method

STEP = 0.01  # of a knob that is no whole number
MOST = 500


def ladder(setting: Method, vit: Backbone) -> list[Method]:
    """A setting with its main knob at each value that this backbone takes, other knobs as they are.

    Raises:
        UsageError: the main knob is no number, or none of its values is known to change nothing.
    """
    knob, value = setting.main, getattr(setting, setting.main or "", None)
    neutral = _neutral(setting)
    if knob is None or isinstance(value, bool) or not isinstance(value, int | float) or neutral is None:
        raise UsageError(
            f"{setting.label} cannot be tuned: {knob or 'it has no main knob, which'} has no order from changing "
            "nothing to changing most; measure several values with `tokenbench run`, and ask `tokenbench choose`."
        )
    whole = isinstance(type(setting).model_fields[knob].default, int)
    sign = 1 if value > neutral or (value == neutral and not neutral) else -1
    found: list[Method] = []
    for i in range(1, MOST):
        at: Any = int(neutral) + sign * i if whole else round(neutral + sign * i * STEP, 10)
        made = _made(setting, {knob: at})
        if made is None or made.refusal(vit) is not None:
            break
        found.append(made)
    return found


def _neutral(setting: Method) -> float | None:
    """The value at which the knob changes nothing: as the method says, or 1 of a share that may be 1."""
    knob = setting.main or ""
    told = (setting.neutral or {}).get(knob)
    if isinstance(told, int | float):
        return float(told)
    bounds = [bound for bound in _bounds(setting, "le") if bound == 1]
    return 1.0 if bounds and isinstance(getattr(setting, knob, None), float) else None


def _bounds(setting: Method, name: str) -> Iterator[float]:
    field = type(setting).model_fields.get(setting.main or "")
    for rule in field.metadata if field else ():
        if (bound := getattr(rule, name, None)) is not None:
            yield float(bound)


def _made(setting: Method, knobs: dict[str, Any]) -> Method | None:
    from tokenbench.core.settings import make

    given = {name: getattr(setting, name) for name in setting.model_fields_set}
    try:
        return make(type(setting), given | knobs)
    except BadSetting:
        return None
