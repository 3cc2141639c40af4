"""SPViT: predictors over heads drop tokens, and what they drop goes on in one package (arXiv 2112.13890).

Written from the equations alone: its code names no licence. HeatViT (arXiv 2211.08110) is the same in 8 bits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters
from tokenbench.methods.dynamicvit.dynamicvit import divergence, ratio_loss, token_loss
from tokenbench.methods.recipe import DEIT, Recipe
from tokenbench.methods.released import Release, Stored

Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, ...], BeforeValidator(lambda v: tuple(v.split("/")) if isinstance(v, str) else v)]


class HeadPredictor(nn.Module):
    """Scores of each token, a mean over heads: one small network reads the slice of every head (section 3.2)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        width = dim // heads
        self.heads = heads
        self.senet = nn.Sequential(nn.Linear(heads, heads // 2), nn.GELU(), nn.Linear(heads // 2, heads), nn.Sigmoid())
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )

    def forward(self, x: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the heads' log-probabilities and probabilities (B, n, 2), channel 0 = keep.

        Args:
            x: (B, n, C).
            alive: (B, n) 1 for tokens that count in the mean that each token is compared with.
        """
        slices = x.unflatten(2, (self.heads, -1))  # (B, n, H, d)
        local, rest = self.in_conv(slices).chunk(2, dim=-1)
        weights = alive[:, :, None, None]
        pooled = (rest * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        logits = self.out_conv(torch.cat([local, pooled.expand_as(local)], dim=-1))  # (B, n, H, 2)
        gates = self.senet(slices.mean(-1)).unsqueeze(-1)
        whole = gates.sum(2)
        score: Tensor = (gates * logits.log_softmax(-1)).sum(2) / whole
        soft: Tensor = (gates * logits.softmax(-1)).sum(2) / whole
        return score, soft


class Package(Reducer):
    """Drop what scores lower as kept than as dropped, and append its sum, weighted by the probability to keep."""

    where: ClassVar = "before"

    def __init__(self, stage: int, dim: int, heads: int) -> None:
        super().__init__()
        self.stage = stage
        self.predictor = HeadPredictor(dim, heads)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block; packages of earlier stages are scored and stay."""
        x = tokens.patches
        here = torch.ones_like(x[..., 0]) if tokens.present is None else tokens.present.to(x.dtype)
        alive = here if tokens.alive is None else tokens.alive
        score, soft = self.predictor(x, alive)
        stays = here.flip(1).cumsum(1).flip(1) <= self.stage  # packages are an image's last tokens
        if self.training:
            kept = torch.where(stays, 1.0, self.draw(score) * alive)
            return tokens.mask(kept, fuse=soft[..., 0])
        kept = stays | (score[..., 0] >= score[..., 1])
        return tokens.keep_where(kept, fuse=soft[..., 0], always=True)

    def draw(self, score: Tensor) -> Tensor:
        """Hard 0/1 decisions (B, n) with straight-through gradients, one Gumbel sample a token."""
        return F.gumbel_softmax(score, tau=1.0, hard=True)[..., 0]


class SPViT(Method):
    """SPViT: three predictors drop as many patches as each image needs, and package each stage's in one token."""

    name = "spvit"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "none given"
    held: ClassVar[str] = "outputs, losses and gradients of the published code, with its noise at 0 in evaluation"
    paper: ClassVar[Paper | None] = Paper(
        "SPViT: Enabling Faster Vision Transformers via Latency-Aware Soft Token Pruning", "2112.13890", "ECCV 2022"
    )
    trained: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = {"blocks": ()}
    trial: ClassVar[Mapping[str, Any]] = {"blocks": (3,), "shares": (0.7,)}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": DEIT.change(
            {
                "epochs": 30,
                "start": "dense",
                "teacher": "dense",
                "backbone_lr": 0.01,
                "backbone_wait": 5,
                "source": "arXiv 2112.13890 and its released settings (60 epochs for DeiT-B); augmentation as DeiT's",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"shares", "ratio_weight", "distill_weight", "token_mse"})
    notes = (
        "Counts differ by image, and GMACs are a mean over images; shares are what training aims at over a batch. The "
        "published evaluation draws noise, and here it draws none."
    )

    blocks: Places | None = Field(None, description="blocks in front of which patches go; each quarter if unset")
    shares: Shares = Field(
        (0.617, 0.369, 0.137), description="training: shares of the patches that stages keep in the mean over a batch"
    )
    ratio_weight: float = Field(2.0, ge=0, description="training: weight of the distance from these shares")
    distill_weight: float = Field(0.5, ge=0, description="training: weight of the two distillation losses")
    token_mse: bool = Field(True, description="training: token distillation by squared error; otherwise by KL")

    @property
    def blends(self) -> bool:
        """Always."""
        return True

    def supports(self, vit: Backbone) -> str | None:
        """Needs a share for each stage, and heads wide enough."""
        blocks, heads = quarters(self.blocks, vit), _heads(vit)
        if blocks and len(self.shares) != len(blocks):
            return f"shares gives {len(self.shares)} numbers for {len(blocks)} stages"
        if vit.dim // heads % 4 or heads < 2:
            what = f"{heads} heads of width {vit.dim // heads}"
            return f"its predictors need two heads or more, of a width that divides by 4, and these are {what}"
        return outside(blocks, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One predictor a stage."""
        heads = _heads(vit)
        return {block: [Package(stage, vit.dim, heads)] for stage, block in enumerate(quarters(self.blocks, vit))}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification, shares, and with a teacher KL on logits and distillation of the patches kept to the end."""
        terms, tokens = super().losses(out, target, teacher), out.tokens
        patches = math.prod(tokens.grid)
        if tokens.decisions:
            decisions = [decision[:, :patches] for decision in tokens.decisions]
            terms["ratio"] = self.ratio_weight * ratio_loss(decisions, self.shares, True) / len(decisions)
        if teacher is None or tokens.alive is None:
            return terms
        first, last = tokens.prefix, tokens.prefix + patches
        pair, squared = (out.features[:, first:last], teacher.features[:, first:last]), self.token_mse
        if out.patches is not None and teacher.patches is not None:  # LV-ViT
            pair, squared = (out.patches[:, :patches], teacher.patches[:, :patches]), False
        terms["distill_logits"] = self.distill_weight * divergence(out.logits, teacher.logits)
        terms["distill_tokens"] = self.distill_weight * token_loss(*pair, tokens.alive[:, :patches], squared)
        return terms

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By the gates of its heads."""
        named = any(re.fullmatch(r"score_predictor\.\d+\.senet\.0\.weight", name) for name in stored.tensors)
        return Release("PeiyanFlying/SPViT") if named else None

    @classmethod
    def translate(cls, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The network that all heads share is there once for each."""
        again = re.compile(r"score_predictor\.\d+\.(in|out)_conv\.[1-9]")
        return {name: value for name, value in tensors.items() if not again.match(name)}

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Predictors are counted by stage there, and their networks by head."""
        found = super().published(names)
        parts = {name: re.fullmatch(r"blocks\.(\d+)\.reducers\.\d+\.predictor\.(.+)", name) for name in names}
        stages = sorted({int(part[1]) for part in parts.values() if part})
        for name, part in parts.items():
            if part:
                rest = re.sub(r"^(in|out)_conv\.", r"\1_conv.0.", part[2])
                found[name] = f"score_predictor.{stages.index(int(part[1]))}.{rest}"
        return found


def _heads(vit: Backbone) -> int:
    return int(vit.vit.blocks[0].attn.num_heads)
