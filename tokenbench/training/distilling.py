"""Distillation from the dense teacher: a term beside the losses of any method."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenbench.core.block import Output
from tokenbench.methods.recipe import Recipe


def term(recipe: Recipe, out: Output, teacher: Output) -> Tensor:
    """The loss that `recipe.distill` names, weighted.

    "soft": KL of the teacher's softmax from the student's at a temperature, times its square (arXiv 1503.02531).
    "hard": cross-entropy with the teacher's first guess (arXiv 2012.12877, equation 3). "feature": one less the cosine
    of the two mean tokens of the last norm, which have the same width whatever tokens are left.
    """
    if recipe.distill == "hard":
        found = F.cross_entropy(out.logits, teacher.logits.argmax(-1))
    elif recipe.distill == "soft":
        mine, other = (x.logits.float().div(recipe.temperature).log_softmax(-1) for x in (out, teacher))
        found = F.kl_div(mine, other, reduction="batchmean", log_target=True) * recipe.temperature**2
    else:
        mine, other = (x.features.float().mean(1) for x in (out, teacher))
        found = (1 - F.cosine_similarity(mine, other, dim=-1)).mean()
    return recipe.distill_weight * found


def of_maps(own: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Tensor:
    """How far feature maps (B, C, rows, columns) are from a teacher's: mean squared difference, the mean over levels.

    As DynamicViT has it of tokens (arXiv 2106.02034, section 3.4), at each level of a pyramid; unweighted.
    """
    return torch.stack([F.mse_loss(own[level].float(), teacher[level].float()) for level in own]).mean()
