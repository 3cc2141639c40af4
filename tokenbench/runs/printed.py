"""The settings whose accuracy was printed for given weights, as plans to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenbench import backbones, data
from tokenbench.errors import BadData, UsageError
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method, make
from tokenbench.runs.plan import Plan
from tokenbench.weights import sources

ROUNDS = 3  # of timing, which is not what is asked for here


def plans(plan: Plan) -> list[Plan]:
    """A plan for each backbone that accuracies were printed for with these weights, of the settings they are of.

    Args:
        plan: weights, data and how to run; its backbones are those to look at, or none for all that numbers were
            printed for.

    Raises:
        UsageError: nothing was printed for these weights, or they do not say of which backbone they are.
        BadData: the data is not ImageNet-1k's validation set.
        WeightsError: a file of weights cannot be used.
    """
    printed = [
        (reported.backbone, make(cls, reported.settings), reported.trained)
        for cls in all_methods().values()
        for reported in cls.reported
        if reported.top1 is not None
    ]
    names = plan.backbones or list(dict.fromkeys(name for name, _, _ in printed))
    chosen = {name: methods for name in names if (methods := _fitting(plan, name, printed))}
    if not chosen:
        where = f" on {', '.join(plan.backbones)}" if plan.backbones else ""
        raise UsageError(
            f"No paper printed an accuracy{where} that is of the weights {plan.weights}; give others, or the backbone "
            "that they are of."
        )
    labels = getattr(plan.task, "labels", None)
    if not data.open_folder(plan.data_dir or "", labels=labels and Path(labels)).imagenet_val:
        raise BadData(
            f"Data folder '{plan.data_dir}' is not ImageNet-1k's validation set, which printed accuracies are of; give "
            "its 50 images of each of 1000 wnids, in the sizes they were published in."
        )
    return [
        replace(plan, backbones=[name], methods=methods, rounds=ROUNDS, max_seconds=0)
        for name, methods in chosen.items()
    ]


def _fitting(plan: Plan, backbone: str, printed: Sequence[tuple[str, Method, bool]]) -> list[Method]:
    """The settings whose accuracy on a backbone was printed for weights such as are given for it."""
    given = sources.find(plan.weights, backbone, plan.take)
    if given.dense not in sources.WORDS and "backbone" not in given.header and not plan.backbones:
        raise UsageError(f"{given.dense} does not say of which backbone it is; give that as --backbone deit_s.")
    untrained = plan.weights in ("auto", "dense") or given.dense not in sources.WORDS
    found: dict[str, Method] = {}
    for name, method, trained in printed:
        has = given.trained(method, backbone) is not None if trained else untrained
        if has and backbones.is_same(name, backbone):
            found[method.label] = method
    return list(found.values())
