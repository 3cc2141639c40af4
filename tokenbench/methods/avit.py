"""A-ViT: every token stops by itself, once what it has gathered of a halting score reaches 1 (arXiv 2112.07658).

Written from the equations alone, for the published code may not be used freely.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import BLANK, Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Reported
from tokenbench.methods.recipe import DEIT, Recipe

HALTING = "avit.halting"  # mark: the sum of halting scores, (B, N)
SO_FAR = "avit.so_far"
SMALL = 384  # width from which the published gate has another centre
AWAY = -1000.0  # on the logits of keys that have halted
RANGE = 0.01, 0.99  # what the prior's shares are held to


@dataclass(frozen=True)
class SoFar:
    """What blocks so far have brought: the output of prefix tokens, and in training what the loss is made of."""

    out: Tensor | float = 0.0  # (B, prefix, C) states of prefix tokens, weighted by their halting scores
    ponder: Tensor | float = 0.0  # (B, N) blocks that a token took part in, and its remainder
    scores: tuple[Tensor, ...] = ()  # (B, N) halting scores of each block as the gate has them, training only


class Stop(Reducer):
    """Tokens that have halted go on no more; in training they stay, as zeros that nobody sees."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        runs = tokens.marks[HALTING] < 1 - self.method.epsilon
        if not self.training:
            return tokens.keep_where(runs[:, tokens.prefix :])
        shown = runs.to(tokens.x.dtype)
        return tokens.mark(BLANK, shown).with_x(tokens.x + (tokens.x * shown.unsqueeze(-1) - tokens.x).detach())


class Hide(Reducer):
    """Nobody attends to what has halted and is still there: prefix tokens, and in training all."""

    where: ClassVar = "attention"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Any:
        """Adds to the logits."""
        if attn is None:
            return tokens, attn
        halted = tokens.marks[HALTING] >= 1 - self.method.epsilon
        away = (halted.to(tokens.x.dtype) * AWAY)[:, None, None]
        return tokens, replace(attn, bias=away if attn.bias is None else attn.bias + away)


class Gather(Reducer):
    """Halting scores of the block's outputs, which weigh them in the sum that the head reads (equations 4 to 9)."""

    where: ClassVar = "after"

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the block; the last one halts all."""
        x, most = tokens.x, 1 - self.method.epsilon
        gate = (self.method.gate_scale * x[..., 0] - self.method.centre(x.shape[-1])).sigmoid()
        score = torch.ones_like(gate) if self.last else gate
        before = tokens.marks.get(HALTING, torch.zeros_like(score))
        total, runs, past = before + score, before < most, tokens.state.get(SO_FAR, SoFar())
        halts = runs & (total > most)
        share = torch.where(halts, 1 - before, torch.where(runs & (total < most), score, 0.0))
        out = past.out + share[:, : tokens.prefix, None] * x[:, : tokens.prefix]
        made = SoFar(out)
        if self.training:
            ponder = past.ponder + runs + torch.where(halts, 1 - before, 0.0)
            made = SoFar(out, ponder, (*past.scores, gate))
        tokens = tokens.mark(HALTING, total).store(SO_FAR, made)
        return tokens.with_x(torch.cat([out, tokens.patches], dim=1)) if self.last else tokens


class AViT(Method):
    """A-ViT: a token's first channel says when it halts, so that each image has depths and counts of its own."""

    name = "avit"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "NVIDIA Source Code License-NC, beside an Apache-2.0 file"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "A-ViT: Adaptive Tokens for Efficient Vision Transformer", "2112.07658", "CVPR 2022"
    )
    trained: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = None
    trial: ClassVar[Mapping[str, Any]] = {"gate_scale": 1.0, "gate_centre": 1.0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "tiny": DEIT.change(
            {
                "epochs": 100,
                "batch": 512,
                "lr": 5e-4,
                "lr_batch": 512,
                "start": "dense",
                "source": "arXiv 2112.07658, section 4, of T",
            }
        ),
        "small": DEIT.change(
            {
                "epochs": 100,
                "batch": 384,
                "lr": 3e-4,
                "lr_batch": 384,
                "start": "dense",
                "source": "arXiv 2112.07658, section 4, of S",
            }
        ),
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"ponder_weight", "prior_weight", "prior_depth"})
    notes = (
        "Counts differ by image, and GMACs are a mean over images. The gate reads the first channel, which training "
        "has to teach; with dense weights it says nothing. A class token that has halted is still computed."
    )
    reported = (
        Reported("deit_t", {}, 71.4, None, True, "100 epochs; 0.8 GMAC in the mean over ImageNet's validation images"),
        Reported("deit_s", {}, 78.8, None, True, "100 epochs; 3.6 GMAC in the mean over ImageNet's validation images"),
    )

    gate_scale: float = Field(10.0, gt=0, description="what the first channel is multiplied by")
    gate_centre: float | None = Field(None, description="what is taken off it; if unset 30, from the width of S on 75")
    epsilon: float = Field(0.01, gt=0, lt=1, description="how near to 1 the sum of halting scores must come")
    ponder_weight: float = Field(5e-4, ge=0, description="training: weight of the depth of tokens")
    prior_weight: float = Field(1e-3, ge=0, description="training: weight of the distance from the prior of depths")
    prior_depth: float = Field(8.0, ge=0, description="training: block at which tokens should halt")

    def centre(self, dim: int) -> float:
        """What is taken off the gate's logit, at this width."""
        return self.gate_centre if self.gate_centre is not None else 75.0 if dim >= SMALL else 30.0

    def supports(self, vit: Backbone) -> str | None:
        """Needs a head that reads the class token alone."""
        if not vit.has_class_token or vit.vit.global_pool != "token":
            return "its output is the class token's, summed over depth, and this backbone's head reads another"
        return None

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Scores after every block, and from the second on only those that run."""
        last = vit.depth - 1
        return {i: [*([Stop(), Hide()] if i else []), Gather(i == last)] for i in range(vit.depth)}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Cross-entropy, the depth of tokens, and the distance of depths from a prior (section 3.2).

        As in the published code the mean of halting scores leaves the batch's first image out, where there are others.
        """
        terms, found = super().losses(out, target, teacher), out.tokens.state.get(SO_FAR, SoFar())
        if not found.scores:
            return terms
        means = torch.stack([(score[1:] if len(score) > 1 else score).mean() for score in found.scores])
        shares = (means / means.sum()).clamp(*RANGE)
        prior = shares.new_tensor(self.prior(len(means)))
        distance = F.kl_div(shares.log(), prior, reduction="batchmean")
        return terms | {
            "ponder": self.ponder_weight * torch.as_tensor(found.ponder).mean(),
            "prior": self.prior_weight * distance,
        }

    def prior(self, depth: int) -> list[float]:
        """A Gaussian of width 1 around `prior_depth`, scaled so that 0.98 of it lie before."""
        values = [math.exp(-0.5 * (i - self.prior_depth) ** 2) for i in range(depth)]
        before = sum(value for i, value in enumerate(values) if i < self.prior_depth) or 1.0
        return [0.98 * value / before for value in values]
