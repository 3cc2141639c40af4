"""What `tokenbench tune` says: each value before and after it is tried, and at the end how to use what was found."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from tokenbench.methods.base import Method
from tokenbench.reports import answers
from tokenbench.runs.choose import Choice
from tokenbench.runs.tune import Step


def said(step: Step) -> str:
    """A sentence on a value: what it is one of, or what came out and what is left to try."""
    if step.row is None:
        return f"Try {step.number} of at most {step.most}: {step.setting.label}, out of {_span(step.left)}."
    left = "nothing is left to try"
    if step.left:
        left = f"left: {_span(step.left)}{', but no more tries (--runs)' if step.number == step.most else ''}"
    return f"{step.setting.label}{' (measured before)' if step.before else ''}: {_outcome(step)}; {left}."


def use(choice: Choice, weights: str = "auto", size: str | None = None, others: Sequence[str] = ()) -> list[str]:
    """How to have the model that was found, a line each in Python and as a file; nothing where none was.

    Args:
        choice: of everything that was tried.
        weights: as they were given.
        size: of images, if one was given.
        others: flags that say more of the weights, the images or where the method is from.
    """
    best = choice.best
    if best is None or best.reference:
        return []
    row = best.row
    more = {} if weights == "auto" else {"weights": weights}
    knobs = {**_given(row.label, row.setting), **more}
    words = [_literal(row.method), _literal(row.backbone), *(f"{knob}={_literal(v)}" for knob, v in knobs.items())]
    python = f"In Python: tokenbench.build({', '.join(words)})"
    flags = {"--method": row.label, "--backbone": row.backbone, "--weights": weights, "--image-size": size}
    words = [word for flag, value in flags.items() if value not in ("auto", None) for word in (flag, str(value))]
    return [*([] if size or others else [python]), f"As a file: tokenbench export {shlex.join([*words, *others])}"]


def _given(label: str, setting: dict[str, Any]) -> dict[str, Any]:
    """The knobs that a label shows, which are those that are not at their defaults."""
    inner = label.partition("[")[2].removesuffix("]")
    return {name: setting[name] for part in inner.split(",") if (name := part.partition("=")[0]) in setting}


def _span(left: Sequence[Method]) -> str:
    """The values of the main knob that are left."""
    knob = left[0].main or ""
    first, last = (_text(getattr(one, knob)) for one in (left[0], left[-1]))
    return f"{knob} = {first}" if len(left) == 1 else f"{knob} = {first} to {last} ({len(left)} values)"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _outcome(step: Step) -> str:
    row, offer, choice = step.row, step.offer, step.choice
    if row is None or offer is None or choice is None:
        return f"{row.status if row else 'failed'} ({row.reason if row else ''}), which counts as not keeping to it"
    parts = [answers.numbers(choice, offer)]
    for limit in choice.wanted.limits:
        axis, value = limit.axis, limit.axis.of(offer.row)
        parts.append(f"{axis.short} not measured" if value is None else axis.text(value, limit.value))
    parts += [answers.lost(choice, offer)] if offer.bound is not None and choice.wanted.drop is not None else []
    if offer.keeps:
        told = "keeps to it"
    elif offer.keeps is None:
        told = f"{answers.too_few(choice, offer)} to say, which counts as not keeping to it"
    else:
        told = "does not keep to it"
    return f"{', '.join(filter(None, parts))}: {told}"
