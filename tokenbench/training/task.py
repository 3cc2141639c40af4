"""What one update computes: the model, the method's losses, the teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from timm.task import TrainingTask
from torch import Tensor, nn

from tokenbench.core.block import Output
from tokenbench.methods.base import Method
from tokenbench.methods.learning import Learning
from tokenbench.methods.recipe import Recipe
from tokenbench.model import Model
from tokenbench.pyramid import Body, Seen
from tokenbench.tasks.base import Task
from tokenbench.training import distilling


class Student(nn.Module):
    """A model whose forward pass returns all that losses need, so that DDP and the compiler see one module.

    A teacher is one too.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Output:
        """As `Model.run`."""
        return self.model.run(images)


class MethodTask(TrainingTask):  # type: ignore[misc]  # timm is not typed
    """timm's training task of a method: images and targets to the sum of `Method.losses`.

    Args:
        model: trained in place; averaged weights are kept of it after `setup_ema`.
        teacher: a frozen model on the same images, for methods that distil; None for those that do not.
        device: where tensors live.
        recipe: says what is distilled from the teacher beside the method's own losses; nothing if None.
    """

    def __init__(
        self,
        model: Model,
        teacher: Model | None = None,
        device: torch.device | None = None,
        recipe: Learning | None = None,
    ) -> None:
        super().__init__(device=device, verbose=False)
        self.recipe: Any = recipe
        self.model = model
        self.trainable_module: Any = Student(model)
        self.eval_model = model
        self.teacher: Any = None if teacher is None else Student(teacher).eval().requires_grad_(False)

    def train(self, mode: bool = True) -> MethodTask:
        """As torch does, but a teacher stays in eval mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def prepare_distributed(self, device_ids: list[int] | None = None, **options: Any) -> MethodTask:
        """Wrap what learns, and not the teacher, in DistributedDataParallel."""
        self.trainable_module = nn.parallel.DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, **options
        )
        return self

    def compile(self, backend: str = "inductor", mode: str | None = None, **options: Any) -> nn.Module:
        """Compile what learns and the teacher; call before `prepare_distributed`."""
        self.trainable_module = torch.compile(self.trainable_module, backend=backend, mode=mode, **options)
        if self.teacher is not None:
            self.teacher = torch.compile(self.teacher, backend=backend, mode=mode, **options)
        return self.model

    def use(self, method: Method) -> None:
        """Take the knobs in force now, such as a scheduled keep rate."""
        self.model.use(method)

    def forward(self, input: Tensor, target: Tensor) -> dict[str, Tensor]:
        """`loss`, the logits as `output`, and each of the method's terms, weighted.

        Args:
            input: (B, C, H, W) images.
            target: (B,) class indices or (B, classes) soft targets.
        """
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = self.teacher(input)
        out: Output = self.trainable_module(input)
        method = self.model.method
        twin = method.twin() if self.training else None
        if twin is not None:
            self.model.use(twin)
            out = replace(out, twin=self.trainable_module(input))
            self.model.use(method)
        terms = method.losses(out, target, taught)
        if taught is not None and isinstance(self.recipe, Recipe) and self.recipe.distill != "none":
            terms = {**terms, "distill": distilling.term(self.recipe, out, taught)}
        return {"loss": torch.stack(list(terms.values())).sum(), "output": out.logits.detach(), **terms}


class Learner(nn.Module):
    """A model with a head of a task's own, whose forward pass returns the terms of its loss, and what its body saw."""

    def __init__(self, model: nn.Module, task: Task) -> None:
        super().__init__()
        self.model, self.task = model, task
        if isinstance(model.body, Body):
            model.body.keeps = True

    def forward(self, images: Tensor, target: Any) -> tuple[dict[str, Tensor], Seen | None]:
        """The terms, already weighted."""
        body = self.model.body
        return dict(self.task.terms(self.model, images, target)), body.take() if isinstance(body, Body) else None


class HeadedTask(MethodTask):
    """timm's training task of a model with a head of a task's own: images and targets to the sum of `Task.terms`, of
    the method's `token_losses`, and with a teacher of how far maps are from its.

    Args:
        model: trained in place.
        task: whose head it has.
        device: where tensors live.
        recipe: how much the teacher counts.
        teacher: the body of a frozen model of this task.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        device: torch.device | None = None,
        recipe: Any = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__(model, None, device, recipe)  # type: ignore[arg-type]
        self.trainable_module = Learner(model, task)
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def use(self, method: Method) -> None:
        """As `Model.use`, where the body is a pyramid of tokenbench's."""
        body = self.model.body
        if isinstance(body, Body):
            body.use(method)

    def forward(self, input: Tensor, target: Any) -> dict[str, Tensor]:
        """`loss` and each of the terms, weighted."""
        terms, seen = self.trainable_module(input, target)
        body = self.model.body
        if seen is not None and isinstance(body, Body):
            terms |= body.method.token_losses(seen.tokens)
            if self.teacher is not None:
                with torch.no_grad():
                    taught = self.teacher(seen.images)
                terms["distill"] = self.recipe.distill_weight * distilling.of_maps(seen.maps, taught)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
