"""DynamicViT: small predictors score the tokens, the lowest are dropped (arXiv 2106.02034).

On Swin none is dropped: those scored low take a cheap path (arXiv 2207.01580; see `asymmetric`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import STAGE, Swin
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported, Shares, later, outside, quarters
from tokenbench.methods.dynamicvit.swin import (
    AnySizeAsymmetricSwin,
    AsymmetricSwin,
    Choose,
    outside_third_stage,
    places,
    released,
)
from tokenbench.methods.recipe import Recipe
from tokenbench.methods.released import Release, Stored, suite

BASE = 768  # width from which the keep ratio weighs more


class Predictor(nn.Module):
    """Keep and drop log-probabilities of each token, from itself and the mean of the kept ones (equations 2 to 5)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)
        )

    def forward(self, x: Tensor, alive: Tensor) -> Tensor:
        """(B, n, 2) log-probabilities, channel 0 = keep, of tokens x (B, n, C) of which `alive` (B, n) are kept."""
        z = self.in_conv(x)
        local, rest = z.split(z.shape[-1] // 2, dim=-1)
        weights = alive.unsqueeze(-1)
        pooled = (rest * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        scores: Tensor = self.out_conv(torch.cat([local, pooled.expand_as(local)], dim=-1))
        return scores.log_softmax(dim=-1)


class Score(Reducer):
    """Drop the tokens the predictor scores lowest; in training, mask those a Gumbel-softmax draw lets go."""

    where: ClassVar = "before"

    def __init__(self, stage: int, dim: int) -> None:
        super().__init__()
        self.stage = stage
        self.predictor = Predictor(dim)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        current = tokens.count - tokens.prefix
        if self.training:
            alive = tokens.x.new_ones(tokens.x.shape[0], current) if tokens.alive is None else tokens.alive
            return tokens.mask(self.draw(self.predictor(tokens.patches, alive)) * alive)
        count = self.method.count(tokens.grid[0] * tokens.grid[1], self.stage)
        if count >= current:
            return tokens
        scores = self.predictor(tokens.patches, tokens.x.new_ones(tokens.x.shape[0], current))[..., 0]
        return tokens.keep(scores.argsort(dim=1, descending=True)[:, :count])

    def draw(self, log_probs: Tensor) -> Tensor:
        """Hard 0/1 decisions (B, n) with straight-through gradients, one Gumbel sample a token."""
        return F.gumbel_softmax(log_probs, tau=1.0, hard=True)[..., 0]


class DynamicViT(Method):
    """DynamicViT: three predictors, trained with the backbone, choose the patches that go on."""

    name = "dynamicvit"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", "2106.02034", "NeurIPS 2021"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    windowed: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0, "fall": 0.0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": Recipe(
            epochs=30,
            lr=1e-3,
            lr_batch=1024,
            min_lr=1e-6,
            start="dense",
            teacher="dense",
            backbone_lr=0.01,
            backbone_wait=5,
            frozen=("cls_token", "pos_embed"),
            ema=0.9999,
            source="arXiv 2106.02034, section 4 and its released settings; augmentation as DeiT's",
        ),
        "swin": Recipe(
            epochs=120,
            batch=4096,
            lr=4e-3,
            lr_batch=4096,
            min_lr=1e-6,
            warmup_epochs=20,
            drop_path=0.2,
            repeats=1,
            start="dense",
            teacher="dense",
            backbone_lr=0.2,
            backbone_wait=5,
            ema=0.9999,
            source="the released settings of arXiv 2207.01580 for Swin-T and S (drop_path 0.5 for B)",
        ),
    }
    derived: ClassVar[tuple[str, ...]] = (".attn_mask", ".relative_position_index")
    in_training: ClassVar[frozenset[str]] = frozenset(
        {"ratio_weight", "distill_weight", "class_weight", "token_mse", "batch_ratio"}
    )
    notes = (
        "keep_rate counts from the initial tokens: int(n0 * keep_rate^stage). On Swin no token is dropped: in the "
        "third stage those scored low take one linear layer in place of the MLP."
    )
    reported = (
        Reported(
            "deit_s", {"keep_rate": 0.7}, 79.32, 2.9, True, "30 epochs", 22.774, reason="its 2.9 is 2.981 cut off"
        ),
        Reported("deit_b", {"keep_rate": 0.7}, 81.43, None, True, "30 epochs", 89.453),
        Reported("lvvit_s", {"keep_rate": 0.7}, 83.08, 4.6, True, "30 epochs", reason="its 4.6 is 4.650 cut off"),
        Reported("lvvit_s", {"keep_rate": 0.5}, 81.97, 3.7, True, "30 epochs", reason="its 3.7 is 3.790 cut off"),
        Reported("lvvit_m", {"keep_rate": 0.7}, 83.82, 8.5, True, "30 epochs", reason="it seems to be 8.59 cut off"),
        Reported("swin_t", {"keep_rate": 0.7}, 80.91, 4.0, True, "120 epochs; DynamicSwin"),
        Reported(
            "swin_s", {"keep_rate": 0.7}, 83.21, 6.9, True, "120 epochs; DynamicSwin", reason="with norms it is 6.877"
        ),
        Reported("swin_b", {"keep_rate": 0.7}, 83.43, 12.1, True, "120 epochs; DynamicSwin"),
    )

    keep_rate: float = Field(
        0.7, gt=0, le=1, description="share of the initial patches kept at each stage, compounding (Swin: at the first)"
    )
    fall: float = Field(0.2, ge=0, description="Swin: by how much the share falls at each further stage")
    blocks: Places | None = Field(
        None, description="blocks that drop; a quarter, half, three quarters (Swin: early in stage 3) if unset"
    )
    ratios: Shares | None = later(
        None, description="share of the initial patches that is left after each stage, in place of keep_rate and fall"
    )
    ratio_weight: float | None = Field(
        None,
        ge=0,
        description="training: weight of the keep-ratio loss; if unset 2, from the width of DeiT-B on 5, on Swin 10",
    )
    distill_weight: float = Field(0.5, ge=0, description="training: weight of the two distillation losses")
    class_weight: float = Field(1.0, ge=0, description="training: weight of the classification loss")
    token_mse: bool = Field(True, description="training: token distillation by squared error; otherwise by KL")
    batch_ratio: bool = Field(False, description="training: hold the keep ratio over the batch, not in every image")

    @field_validator("ratios")
    @classmethod
    def _falling(cls, ratios: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if ratios is not None and (not ratios or any(a < b for a, b in pairwise(ratios))):
            raise ValueError("should be shares of the initial patches that do not rise, such as 0.8/0.6/0.4")
        return ratios

    def rate(self, stage: int) -> float:
        """The share of the initial patches that is left after a stage, counted from 0."""
        return self.keep_rate ** (stage + 1) if self.ratios is None else self.ratios[stage]

    def asymmetric_rate(self, stage: int) -> float:
        """Swin: the share of the tokens that goes through the MLPs after a stage, counted from 0."""
        return self.keep_rate - self.fall * stage if self.ratios is None else self.ratios[stage]

    def count(self, initial: int, stage: int) -> int:
        """How many of the initial patches are left after a stage."""
        return max(1, int(initial * self.rate(stage)))

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone whose width divides by 4; Swin with a third stage."""
        if isinstance(vit, Swin):
            if len(vit.stages) <= STAGE:
                return f"it works in the third stage, and this backbone has {len(vit.stages)}"
            blocks = places(vit, self.blocks)
            if self.ratios is not None and len(self.ratios) != len(blocks):
                return self._uneven(blocks)
            if self.asymmetric_rate(len(blocks) - 1) <= 0:
                return f"keep_rate={self.keep_rate:g} less fall={self.fall:g} a stage leaves nothing at the last"
            return outside_third_stage(vit, blocks)
        if vit.dim % 4:
            return f"its predictors need a width that divides by 4, and this one is {vit.dim}"
        blocks = quarters(self.blocks, vit)
        if self.ratios is not None and len(self.ratios) != len(blocks):
            return self._uneven(blocks)
        return outside(blocks, vit)

    def _uneven(self, blocks: Sequence[int]) -> str:
        listed = "/".join(map(str, blocks))
        return f"it has {len(self.ratios or ())} ratios and {len(blocks)} blocks ({listed}), and each stage needs both"

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One predictor a stage."""
        if isinstance(vit, Swin):
            dim = vit.vit.layers[STAGE].blocks[0].dim
            return {block: [Choose(stage, Predictor(dim))] for stage, block in enumerate(places(vit, self.blocks))}
        return {block: [Score(stage, vit.dim)] for stage, block in enumerate(quarters(self.blocks, vit))}

    def wrap(self, vit: Backbone) -> Backbone:
        """A Swin with fast paths in its third stage; any other backbone as it is."""
        return AsymmetricSwin(vit, min(places(vit, self.blocks))) if isinstance(vit, Swin) else vit

    def pyramid(self, vit: Backbone) -> Backbone:
        """The Swin with its fast paths, on images of any size."""
        return AnySizeAsymmetricSwin(vit) if isinstance(vit, AsymmetricSwin) else super().pyramid(vit)

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Section 3.4: classification, keep ratio, and with a teacher KL on logits and distillation of kept tokens.

        On Swin all tokens are kept.
        """
        terms = {"class": self.class_weight * F.cross_entropy(out.logits, target), **self.token_losses(out.tokens)}
        if teacher is not None:
            alive = out.tokens.alive
            prefix = out.tokens.prefix
            mask = out.logits.new_ones(out.features.shape[0], out.tokens.count - prefix) if alive is None else alive
            pair, squared = (out.features[:, prefix:], teacher.features[:, prefix:]), self.token_mse
            if out.patches is not None and teacher.patches is not None:  # LV-ViT
                pair, squared = (out.patches, teacher.patches), False
            terms["distill_logits"] = self.distill_weight * divergence(out.logits, teacher.logits)
            terms["distill_tokens"] = self.distill_weight * token_loss(*pair, mask, squared)
        return terms

    def token_losses(self, tokens: Tokens) -> dict[str, Tensor]:
        """The keep ratio's."""
        decisions = tokens.decisions
        stays = tokens.alive is None and len(decisions) > 0  # decisions that no longer hold: nothing was dropped
        rates = [self.asymmetric_rate(stage) if stays else self.rate(stage) for stage in range(len(decisions))]
        usual = 10.0 if stays else 5.0 if tokens.x.shape[-1] >= BASE else 2.0
        weight = usual if self.ratio_weight is None else self.ratio_weight
        return {"ratio": weight * ratio_loss(decisions, rates, self.batch_ratio) / max(1, len(decisions))}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By the predictors beside a DeiT's or in a Swin's third stage; the keep rate only where options are stored."""
        layout = "raoyongming/DynamicViT"
        if not any(re.match(r"(layers\.2\.)?score_predictor\.", name) for name in stored.tensors):
            return None
        run = suite(stored, "dyvit")
        if run is not None:
            return run.compounding(stored)
        if "base_rate" in stored.options:
            return Release(layout, {"keep_rate": stored.options["base_rate"]})
        return Release(layout, unknown=("keep_rate",))

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Predictors are counted by stage there, and by block here."""
        if any(name.startswith(("vit.layers.", "layers.")) for name in names):
            return released(names)
        found = super().published(names)
        parts = {name: re.fullmatch(r"blocks\.(\d+)\.reducers\.\d+\.predictor\.(.+)", name) for name in names}
        stages = sorted({int(part[1]) for part in parts.values() if part})
        return found | {n: f"score_predictor.{stages.index(int(p[1]))}.{p[2]}" for n, p in parts.items() if p}


def ratio_loss(decisions: Sequence[Tensor], rates: Sequence[float], over_batch: bool = False) -> Tensor:
    """Sum over stages of the squared distance of the kept share from its rate (equation 13), decisions (B, n)."""
    shares = [d.mean() if over_batch else d.mean(dim=1) for d in decisions]
    return torch.stack([((share - rate) ** 2).mean() for share, rate in zip(shares, rates, strict=True)]).sum()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of the teacher's softmax from the student's over the last dimension (M, K), mean over M."""
    return F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True)


def token_loss(student: Tensor, teacher: Tensor, mask: Tensor, mse: bool = True) -> Tensor:
    """Distance of the student's tokens (B, n, C) from the teacher's over those kept to the end, mask (B, n)."""
    if mask.sum() < 0.1:
        return student.new_zeros(())
    kept_rows = mask > 0.5
    student, teacher = student[kept_rows], teacher[kept_rows]
    return F.mse_loss(student, teacher) if mse else divergence(student, teacher)
