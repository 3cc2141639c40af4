"""DTEM: ToMe's merging by an embedding of its own, which a relaxed merging trains (NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places
from tokenbench.methods.recipe import DEIT, Recipe
from tokenbench.methods.released import Release, Stored
from tokenbench.methods.tome import ToMe, bipartite, schedule

TAKING_PART = "dtem.taking_part"
WIDE = 1024  # width from which the embedding has two heads' width
NAME = r".attn.qkv.metric_layer."


def relaxed(scores: Tensor, r: int, partners: int, tau_first: float, tau: float) -> Tensor:
    """Soft choice of r pairs (B, A, B'), rows of which sum to 1 or less.

    Each of A keeps its best partners in B'; r times a softmax over all pairs is added up, and what a row gave is taken
    off its logits. The divisor that holds rows to 1 has no gradient.

    Args:
        scores: (B, A, B') similarities.
        r: pairs to choose.
        partners: partners each row keeps.
        tau_first: what similarities are divided by before the first choice.
        tau: temperature of each choice.
    """
    best, place = scores.topk(min(partners, scores.shape[2]), dim=2)
    logits = best / tau_first
    chosen = torch.zeros_like(best)
    for _ in range(r):
        once = (logits / tau).flatten(1).softmax(dim=1).unflatten(1, best.shape[1:])
        chosen = chosen + once
        left = 1 - once.sum(2, keepdim=True)
        logits = logits + left.clamp(min=torch.finfo(torch.float32).eps).log()
    over = (chosen.sum(2, keepdim=True) - 1).clamp(min=0).detach()
    share = chosen / (over + 1)  # autocast takes the softmax in float32
    return share.new_zeros(scores.shape).scatter(2, place, share)


class Decoupled(Reducer):
    """Merge r tokens by an embedding of the block's normalised tokens."""

    def __init__(self, index: int, dim: int, width: int) -> None:
        super().__init__()
        self.index = index
        self.metric = nn.Linear(dim, width)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP; in training none is removed."""
        r = self.method.merged(self.training, self.index)
        if attn is None or attn.y is None or r <= 0:
            return tokens
        if self.training:
            return self.soft(tokens, F.normalize(self.metric(attn.y.detach()), dim=-1), r)
        r = min(r, (tokens.count - tokens.prefix) // 2)
        match = bipartite(self.metric(attn.y), r, range(tokens.prefix))
        return tokens.group(match.assign[:, tokens.prefix :] - tokens.prefix, match.count - tokens.prefix)

    def soft(self, tokens: Tokens, metric: Tensor, r: int) -> Tokens:
        """Every second of those taking part gives itself to the others, in shares; then they are sorted by size."""
        p, device = tokens.prefix, tokens.x.device
        n = tokens.state.get(TAKING_PART, tokens.count)
        r = min(r, (n - p) // 2)
        if r <= 0:
            return tokens
        a, b = torch.arange(p, n, 2, device=device), torch.arange(p + 1, n, 2, device=device)
        scores = metric[:, a] @ metric[:, b].transpose(1, 2)
        share = relaxed(scores, r, self.method.partners, self.method.tau_first, self.method.tau)
        size = tokens.sizes().unsqueeze(-1)  # (B, N, 1)
        given, had = size[:, a], size[:, b]
        has = had + share.transpose(1, 2) @ given
        x = (had * tokens.x[:, b] + share.transpose(1, 2) @ (given * tokens.x[:, a])) / has
        left = 1 - share.sum(2, keepdim=True)
        left = given * (left + (left.clamp(0, 1) - left).detach())
        left = left.clamp(min=torch.finfo(left.dtype).tiny)  # its logarithm is added to logits
        joined = torch.cat([left, has], dim=1)
        order = joined.detach().squeeze(-1).argsort(dim=1, descending=True, stable=True)
        order = order.unsqueeze(-1)
        mixed = torch.cat([tokens.x[:, a], x], dim=1)
        mixed = mixed.gather(1, order.expand_as(mixed))
        sizes = torch.cat([size[:, :p], joined.gather(1, order), size[:, n:]], dim=1)
        features = torch.cat([tokens.x[:, :p], mixed, tokens.x[:, n:]], dim=1)
        return replace(tokens, x=features, size=sizes.squeeze(-1)).store(TAKING_PART, n - r)


class Weighted(Reducer):
    """Training of models whose attention is not proportional afterwards: sizes weigh keys here all the same."""

    where: ClassVar = "attention"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Any:
        """Adds the log of sizes to the logits."""
        if attn is None or not self.training or tokens.size is None:
            return tokens, attn
        return tokens, replace(attn, bias=tokens.size.log()[:, None, None])


class DTEM(Method):
    """DTEM: ToMe with a linear layer a block in place of the keys, trained while the model stays as it is."""

    name = "dtem"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "none given"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "Learning to Merge Tokens via Decoupled Embedding for Efficient Vision Transformers",
        "2412.10569",
        "NeurIPS 2024",
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    trial: ClassVar[Mapping[str, Any]] = {"r": 2}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "modular": DEIT.change(
            {
                "epochs": 30,
                "lr": 1e-4,
                "lr_batch": 1024,
                "min_lr": 1e-6,
                "weight_decay": 1e-4,
                "clip_grad": 5.0,
                "warmup_epochs": 0,
                "start": "dense",
                "backbone_lr": 0.0,
                "knobs": {"train_r": 16},
                "source": "the paper's modular training: only the embeddings learn; augmentation as DeiT's",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"train_r", "partners", "tau_first", "tau"})
    notes = "One trained model serves every r. On MAE weights set prop_attn=false, as for ToMe."

    r: int | Places = Field(13, description="tokens merged in each block: one number, or one a block (8/8/4)")
    prop_attn: bool = Field(True, description="add the log of token sizes to the attention logits")
    train_r: int | Places | None = Field(None, description="training: tokens merged in each block, if other than r")
    partners: int = Field(3, ge=1, description="training: partners that each token keeps")
    tau_first: float = Field(0.1, gt=0, description="training: what similarities are divided by")
    tau: float = Field(0.1, gt=0, description="training: temperature of each choice of a pair")

    @field_validator("r", "train_r", mode="before")
    @classmethod
    def _whole(cls, r: Any) -> Any:
        return r if r is None else ToMe(r=r).r

    @property
    def proportional(self) -> bool:
        """Proportional attention, unless switched off."""
        return self.prop_attn

    def merged(self, training: bool, index: int) -> int:
        """Tokens to merge in a block."""
        r = self.train_r if training and self.train_r is not None else self.r
        return schedule(r, 0.0, index + 1)[index]

    def supports(self, vit: Backbone) -> str | None:
        """As ToMe."""
        return ToMe(r=self.r).supports(vit)

    def caveat(self, vit: Backbone) -> str | None:
        """As ToMe."""
        return ToMe(r=self.r).caveat(vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """An embedding in every block, whatever r is there."""
        head: int = vit.vit.blocks[0].attn.head_dim
        width = 2 * head if vit.dim >= WIDE else head
        weighted: list[Reducer] = [] if self.prop_attn else [Weighted()]
        return {i: [Decoupled(i, vit.dim, width), *weighted] for i in range(vit.depth)}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By its layers inside attention."""
        named = any(NAME in name for name in stored.tensors)
        return Release("movinghoon/DTEM", unknown=("r",)) if named else None

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Both layers stand inside attention there."""
        found = super().published(names)
        return {
            own: theirs.replace(".attn.qkv.", ".attn.qkv.qkv_layer.").replace(".reducers.0.metric.", NAME)
            for own, theirs in found.items()
        }
