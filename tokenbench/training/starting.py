"""What a run starts from: the setting, the weights, the teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.errors import BadSetting, WeightsError
from tokenbench.methods.base import Method, make
from tokenbench.methods.dense import Dense
from tokenbench.methods.learning import Learning
from tokenbench.model import Model
from tokenbench.training.job import Job
from tokenbench.weights import checkpoints, sources


def with_knobs(method: Method, recipe: Learning) -> Method:
    """The setting with the knobs that the recipe brings, where they are at their defaults."""
    fields = type(method).model_fields
    brought = {k: v for k, v in recipe.knobs.items() if k not in fields or getattr(method, k) == fields[k].default}
    method = make(type(method), {**method.model_dump(), **brought})
    if method.at(recipe.epochs).decides != method.decides:
        raise BadSetting(
            f"{method.label} is not reached after epochs={recipe.epochs:g}: its schedule takes longer; "
            "give more epochs, or a shorter schedule."
        )
    return method


def begun(job: Job, given: sources.Sources, backbone: Backbone, method: Method) -> tuple[checkpoints.Weights, Model]:
    """The model, filled with what the run starts from, and where that is from.

    Weights of other classes get a new head. Where the task has a head of its own, those of a classifier trained with
    the method go into all of the model.
    """
    whole = job.task.has_head and given.header.get("method", "dense") != "dense"
    if whole and given.header["method"] != method.name:
        raise WeightsError(
            f"{given.dense} was trained with {given.header['method']}, and {method.name} is to be trained; give "
            "weights of that, or of the dense model."
        )
    if not whole:
        found = given.load(backbone, job.seed, transfer=True)
        if found.kind == "random" and given.dense == "auto":
            raise WeightsError(
                f"Fine-tuning starts from dense weights, but {found.note}; give --weights FILE, or a recipe that "
                "starts from nothing."
            )
    torch.manual_seed(job.seed)
    model = Model(backbone, method)
    return (checkpoints.load(model, given.dense, job.take) if whole else found), model


def rescaled(model: nn.Module, value: float) -> None:
    """All LayerScale at a value; 0 leaves it as the method has it."""
    for name, parameter in model.named_parameters():
        if value and "layer_scale" in name:
            nn.init.constant_(parameter, value)


def of_task(job: Job, start: checkpoints.Weights) -> dict[str, Any]:
    """What weights with a head of a task's own say of it; rows of other schedules share no table."""
    recipe = job.recipe
    length = f"{recipe.updates} updates" if recipe.updates else f"{recipe.epochs:g} epochs"
    schedule = f"{length} of {recipe.batch} images, lr {recipe.lr:g}, from {start.kind} weights"
    return {
        "task": job.task.name,
        "task_setting": job.task.model_dump(mode="json", include=set(job.task.built)),
        "choices": job.task.model_dump(mode="json", exclude_defaults=True, exclude={*job.task.built, "strict"}),
        "schedule": schedule,
    }


def teacher(job: Job, classes: int) -> tuple[Any, dict[str, Any] | None]:
    """The frozen dense model that the recipe asks for, and where its weights are from; its body, if it has a head of
    the task's own.
    """
    if not job.taught:
        return None, None
    if job.task.has_head:
        return _headed_teacher(job)
    source = job.weights if job.teacher == "auto" and job.weights != "random" else job.teacher
    try:
        given = sources.single(source, job.take)
        backbone = given.create(job.backbone, job.image_size, classes, pixels=job.pixels)
        found = given.load(backbone, job.seed, transfer=job.teacher == "auto")
    except WeightsError as error:
        raise WeightsError(f"The teacher does not fit: {error}") from None
    if found.kind == "random" or found.random_head:
        raise WeightsError(
            f"The teacher of {job.method.name} needs dense weights of {job.backbone} with {classes} classes, but "
            f"{found.note or 'they are random'}; give --teacher FILE, or --set teacher=none."
        )
    return Model(backbone, Dense()), found.identity


def _headed_teacher(job: Job) -> tuple[Any, dict[str, Any] | None]:
    """Of a dense model trained for the same task; its classes may be others, for maps are what is learnt from."""
    given = sources.find(job.teacher, job.backbone, job.take, job.task.name)
    path = given.trained(Dense(), job.backbone)
    if path is None:
        raise WeightsError(
            f"The teacher of {job.method.name} is a dense {job.backbone} trained for {job.task.name}, and --teacher "
            f"{job.teacher} is none; give --teacher FILE, or --set teacher=none."
        )
    told = given.own[path]
    task = make(type(job.task), told.get("task_setting", {}))
    backbone = given.create(job.backbone, job.image_size, pixels=job.pixels)
    model, found = sources.model(Dense(), backbone, path, lambda plain: task.model(plain, int(told["classes"])))
    return model.body, None if found is None else found.identity
