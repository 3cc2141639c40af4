"""IdleViT: in every block some patches idle, and may work again later; none is lost (arXiv 2310.05654)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, unscored
from tokenbench.methods.dynamicvit.dynamicvit import divergence
from tokenbench.methods.recipe import FINETUNE, Recipe
from tokenbench.methods.topk import kept

IDLE, CUT = "idle", "cut losses"


def cut_loss(logits: Tensor, active: Tensor) -> Tensor:
    """How much attention crosses between active and idle tokens (the token cut loss).

    Args:
        logits: (B, N, N) what attention's softmax is taken of, mean over heads; the class token first.
        active: (B, N) 1 or 0, 1 for the class token.
    """
    weights = logits.softmax(dim=-1)
    apart = (active.unsqueeze(2) - active.unsqueeze(1)).abs() * weights
    between = apart[:, :, 1:].sum(2) ** 2
    within = ((active.unsqueeze(2) * active.unsqueeze(1) * weights).sum(2) - active) ** 2
    return (between.mean(1) + within.mean(1)).mean()


class Idle(Reducer):
    """Run the block on the patches whose keys suit the class token's query best, and set the others aside."""

    where: ClassVar = "attention"
    values: ClassVar = "after"
    requery: ClassVar[bool] = True

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> tuple[Tokens, Attn | None]:
        """At attention."""
        prefix, total = tokens.prefix, tokens.count - tokens.prefix
        count = kept(tokens.grid[0] * tokens.grid[1], self.method.keep_rate, self.stage)
        if attn is None or count >= total:
            return tokens, attn
        scores = (attn.q[:, :, :1] @ attn.k[:, :, prefix:].transpose(2, 3)).mean(1).squeeze(1)
        order = scores.argsort(dim=1, descending=True, stable=True)
        active, idle = order[:, :count].sort(dim=1).values, order[:, count:].sort(dim=1).values
        lead = torch.arange(prefix, device=order.device).expand(order.shape[0], -1)
        rows = torch.cat([lead, active + prefix], dim=1)
        if self.training:
            working = torch.zeros_like(tokens.x[..., 0]).scatter(1, rows, 1.0)
            cut = cut_loss(attn.logits().mean(1), working)
            tokens = tokens.store(CUT, (*tokens.state.get(CUT, ()), cut))
            attn = replace(attn, q=_rows(attn.q, rows))
        aside = tokens.keep(idle), torch.cat([active, idle], dim=1).argsort(dim=1)
        return tokens.keep(active).store(IDLE, aside), replace(attn, k=_rows(attn.k, rows))


class Return(Reducer):
    """Put the patches that idled back where they were."""

    where: ClassVar = "after"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the block."""
        aside = tokens.state.get(IDLE)
        if aside is None:
            return tokens
        idle, order = aside
        return tokens.join(idle).keep(order).store(IDLE, None)


class IdleViT(Method):
    """IdleViT: each block runs on the patches that suit the class token best; the others pass by and may come back."""

    name = "idlevit"
    kind: ClassVar[Kind | None] = "skips"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "No Token Left Behind: Efficient Vision Transformer via Dynamic Token Idling", "2310.05654", "AJCAI 2023"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    whole: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": FINETUNE.change(
            {
                "lr": 1e-5,
                "min_lr": 1e-6,
                "teacher": "dense",
                "knobs": {"distill_weight": 10.0},
                "source": "the released settings of arXiv 2310.05654, which train blocks 4 to 11; the rest as EViT's",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"cut_weight", "distill_weight"})
    notes = (
        "Blocks are those of its evaluation script, 3 to 11 of 12; its training script has 4 to 11. The full map is "
        "there after every block."
    )

    keep_rate: float = Field(
        0.7,
        gt=0,
        le=1,
        description="share of the patches that a block runs on, compounding at each quarter of the depth",
    )
    blocks: Places | None = Field(
        None, description="blocks in which patches idle; from a quarter of the depth on if unset"
    )
    cut_weight: float = Field(20.0, ge=0, description="training: weight of the token cut loss")
    distill_weight: float = Field(5.0, ge=0, description="training: weight of the KL; 100 times it of class features")

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token."""
        if vit.family == "beit":
            return "patches ask after others have gone, and this backbone adds a bias of its own to each pair of places"
        return unscored(vit) or outside(self.places(vit), vit)

    def places(self, vit: Backbone) -> tuple[int, ...]:
        """The blocks in which patches idle."""
        return tuple(range(vit.depth // 4, vit.depth)) if self.blocks is None else self.blocks

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Two in each of them; the share falls after as many as are a quarter of the depth."""
        quarter = max(1, vit.depth // 4)
        places = self.places(vit) if self.keep_rate < 1 else ()
        return {block: [Idle(i // quarter), Return()] for i, block in enumerate(places)}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification, the mean cut loss of the blocks, and with a teacher KL and distance of class features."""
        terms = super().losses(out, target)
        if teacher is not None:
            own, theirs = (F.normalize(o.features[:, 0], dim=-1) for o in (out, teacher))
            terms["distill_logits"] = self.distill_weight * divergence(out.logits, teacher.logits)
            terms["distill_class"] = 100 * self.distill_weight * F.mse_loss(own, theirs)
        return terms

    def token_losses(self, tokens: Tokens) -> dict[str, Tensor]:
        """The cut loss of the blocks."""
        cuts = tokens.state.get(CUT, ())
        return {"cut": self.cut_weight * torch.stack(list(cuts)).mean()} if cuts else {}


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """(B, H, K, d) of (B, H, N, d) at rows (B, K)."""
    return values.gather(2, rows[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[3]))
