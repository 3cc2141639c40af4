"""dTPS: DynamicViT whose dropped tokens are squeezed into the kept ones most like them (arXiv 2304.10716)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported, outside, quarters
from tokenbench.methods.dynamicvit.dynamicvit import Predictor, divergence, ratio_loss, token_loss
from tokenbench.methods.recipe import Recipe
from tokenbench.methods.topk import kept

FAR = -100.0  # the likeness of tokens that cannot be host


def likeness(one: Tensor, other: Tensor) -> Tensor:
    """Cosines (B, M, N) of rows (B, M, C) and (B, N, C)."""
    one, other = (x / (x.norm(dim=-1, keepdim=True) + 1e-6) for x in (one, other))
    return one @ other.transpose(1, 2)


def squeezed(tokens: Tokens, order: Tensor, count: int) -> Tokens:
    """The first `count` of the patches in this order (B, n), each the mean of itself and of those it is host to.

    A dropped token's host is the kept one most like it; it weighs exp(cosine), and the host itself e.
    """
    tokens = tokens.keep(order)
    x, y = tokens.patches.split([count, order.shape[1] - count], dim=1)
    best, host = likeness(y, x).max(dim=-1)
    weights = F.one_hot(host, count).to(x.dtype) * best.exp().unsqueeze(2)  # (B, n - count, count)
    # as published a product of matrices, which printed GMACs have; `group` alone would add up by place
    x = (math.e * x + weights.transpose(1, 2) @ y) / (math.e + weights.sum(1).unsqueeze(2))
    own = torch.arange(count, device=order.device).expand(order.shape[0], -1)
    merged = tokens.group(torch.cat([own, host], dim=1), count).sized(None)
    return merged.with_x(torch.cat([tokens.x[:, : tokens.prefix], x], dim=1))


def squeezed_softly(x: Tensor, alive: Tensor, before: Tensor) -> Tensor:
    """The same in training, where all tokens stay: x (B, n, C), decisions (B, n) after this stage and before it."""
    alike = likeness(x, x)
    away = torch.eye(x.shape[1], dtype=torch.bool, device=x.device) | (alive < 0.5).unsqueeze(1)
    alike = alike.masked_fill(away, FAR)
    hosts = F.one_hot(alike.argmax(dim=-1), x.shape[1]).to(x.dtype)  # (B, n, n)
    moves = hosts * ((1 - alive) * before).unsqueeze(2)
    weights = (moves * alike).exp() * moves
    return (math.e * x + weights.transpose(1, 2) @ x) / (math.e + weights.sum(1).unsqueeze(2))


class Squeeze(Reducer):
    """Squeeze the tokens the predictor scores lowest into the others; in training, those a Gumbel-softmax lets go."""

    where: ClassVar = "before"

    def __init__(self, stage: int, dim: int) -> None:
        super().__init__()
        self.stage = stage
        self.predictor = Predictor(dim)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        x, count = tokens.patches, kept(tokens.grid[0] * tokens.grid[1], self.method.keep_rate, self.stage)
        if self.training:
            before = torch.ones_like(x[..., 0]) if tokens.alive is None else tokens.alive
            draw = F.gumbel_softmax(self.predictor(x, before), tau=1.0, hard=True)[..., 0]
            alive = draw * before
            x = squeezed_softly(x, alive, before)
            return tokens.with_x(torch.cat([tokens.x[:, : tokens.prefix], x], dim=1)).mask(alive)
        if count >= x.shape[1]:
            return tokens
        scores = self.predictor(x, torch.ones_like(x[..., 0]))[..., 0]
        return squeezed(tokens, scores.argsort(dim=1, descending=True, stable=True), count)


class DTPS(Method):
    """dTPS: three predictors choose the patches that go on, and the others are squeezed into those most like them."""

    name = "dtps"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "Apache-2.0"
    held: ClassVar[str] = "outputs of the published code, and gradients of its squeezing"
    paper: ClassVar[Paper | None] = Paper(
        "Joint Token Pruning and Squeezing Towards More Aggressive Compression of Vision Transformers",
        "2304.10716",
        "CVPR 2023",
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": Recipe(
            epochs=30,
            lr=2.5e-4,
            lr_batch=1024,
            min_lr=1e-6,
            warmup_epochs=5,
            start="dense",
            teacher="dense",
            backbone_lr=0.01,
            source="the released settings of arXiv 2304.10716; augmentation as DeiT's",
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"ratio_weight", "distill_weight", "token_mse"})
    notes = "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage), as DynamicViT's does."
    reported = (Reported("deit_s", {"keep_rate": 0.7}, 80.1, 3.0, True, "30 epochs", 22.774),)

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding"
    )
    blocks: Places | None = Field(None, description="blocks before which patches go; at each quarter if unset")
    ratio_weight: float = Field(2.0, ge=0, description="training: weight of the keep-ratio loss")
    distill_weight: float = Field(0.5, ge=0, description="training: weight of the two distillation losses")
    token_mse: bool = Field(False, description="training: token distillation by squared error; otherwise by KL")

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone whose width divides by 4."""
        if vit.dim % 4:
            return f"its predictors need a width that divides by 4, and this one is {vit.dim}"
        return outside(quarters(self.blocks, vit), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One predictor a stage."""
        return {block: [Squeeze(stage, vit.dim)] for stage, block in enumerate(quarters(self.blocks, vit))}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification, keep ratio, and with a teacher KL on logits and distillation of kept tokens."""
        decisions, alive = out.tokens.decisions, out.tokens.alive
        rates = [self.keep_rate ** (stage + 1) for stage in range(len(decisions))]
        ratio = ratio_loss(decisions, rates) / len(decisions) if decisions else out.logits.new_zeros(())
        terms = {"class": F.cross_entropy(out.logits, target), "ratio": self.ratio_weight * ratio}
        if teacher is not None:
            prefix = out.tokens.prefix
            pair = out.features[:, prefix:], teacher.features[:, prefix:]
            mask = torch.ones_like(pair[0][..., 0]) if alive is None else alive
            terms["distill_logits"] = self.distill_weight * divergence(out.logits, teacher.logits)
            terms["distill_tokens"] = self.distill_weight * token_loss(*pair, mask, self.token_mse)
        return terms

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Predictors are counted by stage there, and by block here."""
        parts = {name: re.fullmatch(r"blocks\.(\d+)\.reducers\.\d+\.predictor\.(.+)", name) for name in names}
        stages = sorted({int(part[1]) for part in parts.values() if part})
        own = {n: f"score_predictor.{stages.index(int(p[1]))}.{p[2]}" for n, p in parts.items() if p}
        return super().published(names) | own
