"""SiT: slimming modules make a few tokens of all, and training recovers all from the few (arXiv 2111.12624)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods import soft
from tokenbench.methods.base import Counts, Kind, Method, Paper, Places, Reported, quarters
from tokenbench.methods.dynamicvit.dynamicvit import divergence
from tokenbench.methods.recipe import DEIT, Recipe
from tokenbench.methods.released import Release, Stored

RECOVERED = "sit.recovered"


class Slim(Reducer):
    """Each new token is a weighted sum of all, its weights a softmax over the tokens of a small MLP (equation 2)."""

    where: ClassVar = "before"

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, count))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block, on the tokens after the prefix."""
        weights = (self.weight(tokens.patches) * self.scale).softmax(dim=1)  # (B, N, K), over the tokens
        return tokens.condense(weights.transpose(1, 2))


class Recover(Reducer):
    """Training: what all P tokens after a block would be, from the few there are (section 3.2); read by the loss."""

    rate: ClassVar[float] = 5.0

    def __init__(self, count: int, patches: int, dim: int, last: bool) -> None:
        super().__init__()
        self.where = "after" if last else "before"  # type: ignore[misc]
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-5), nn.LayerNorm(dim, eps=1e-5)
        self.mlp1 = _mlp(count, 4 * patches, patches)
        self.mlp2 = _mlp(dim, 4 * dim, dim)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the next block, once that has slimmed; after the last."""
        if not self.training:
            return tokens
        z = self.mlp1(self.norm1(tokens.patches).transpose(1, 2)).transpose(1, 2)
        z = z + self.mlp2(self.norm2(z))
        return tokens.store(RECOVERED, (*tokens.state.get(RECOVERED, ()), z))


def _mlp(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, hidden), nn.GELU(), nn.Linear(hidden, outside))


class SiT(Method):
    """SiT: three slimming modules make ever fewer soft tokens, each a weighted sum of all that there were."""

    name = "sit"
    kind: ClassVar[Kind | None] = "condenses"
    licence: ClassVar[str] = "MIT and Apache-2.0"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper("Self-Slimmed Vision Transformer", "2111.12624", "ECCV 2022")
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"blocks": ()}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": soft.COMPARED,
        "distil": DEIT.change(
            {
                "epochs": 125,
                "lr": 2e-4,
                "warmup_epochs": 0,
                "start": "dense",
                "teacher": "dense",
                "knobs": {"reverse": True},
                "source": "arXiv 2111.12624, section 4: feature recycling; augmentation as DeiT's",
            }
        ),
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"reverse", "token_weight", "logit_weight"})
    notes = (
        "keep_rate counts from the initial patches, compounding; keep_rate=1 still mixes them. blocks are those in "
        "front of which tokens are made; the paper's LV-ViTs make them after the block before."
    )

    reported = tuple(
        Reported(name, {"keep_rate": 0.5, "blocks": blocks}, top1, gmacs, True, "125 epochs", reason=reason)
        for name, blocks, top1, gmacs, reason in (
            ("lvvit_4c_t", (1, 2, 3), 80.1, 1.0, ""),
            ("lvvit_4c_s", (1, 2, 3), 81.2, 1.5, ""),
            ("lvvit_4c_s", (9, 12, 14), 83.1, 4.0, ""),
            ("lvvit_4c_m", (10, 14, 17), 84.2, 8.1, "it is 8.02 by its own code"),
        )
    )

    keep_rate: float = Field(0.7, gt=0, le=1, description="tokens made at each stage as a share of the initial patches")
    tokens: Counts | None = Field(None, description="number of tokens made at each stage, in place of keep_rate")
    blocks: Places | None = Field(
        None, description="blocks in front of which tokens are made; a quarter, half, three quarters if unset"
    )
    reverse: bool = Field(
        False, description="training: modules that recover all tokens after each block, held to a dense teacher's"
    )
    token_weight: float = Field(2.0, ge=0, description="training: weight of the distance of recovered tokens")
    logit_weight: float = Field(2.0, ge=0, description="training: weight of the divergence from a teacher's logits")

    def supports(self, vit: Backbone) -> str | None:
        """Any plain backbone of even width; tokens may not grow."""
        if vit.dim % 2:
            return f"its modules need an even width, and this one is {vit.dim}"
        return soft.impossible(vit, self.tokens, self.blocks)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A module a stage; with `reverse` one more for each block whose tokens are fewer."""
        places = soft.stages(vit, self.keep_rate, self.tokens, self.blocks, lambda count: Slim(count, vit.dim))
        return self._recovering(places, vit) if self.reverse and places else places

    def lean(self) -> SiT:
        """Without the reverse modules."""
        return self.model_copy(update={"reverse": False})

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Cross-entropy; with reverse modules and a teacher the recycling of its features (equations 5 to 8)."""
        terms = super().losses(out, target, teacher)
        recovered = out.tokens.state.get(RECOVERED)
        if teacher is None or recovered is None:
            return terms
        plain = [step.patches for step in out.trace[: len(out.trace) - len(recovered)]]
        pairs = zip((*plain, *recovered), teacher.trace, strict=True)
        distances = [F.mse_loss(own, step.x[:, step.prefix :]) for own, step in pairs]
        return terms | {
            "tokens": self.token_weight * torch.stack(distances).mean(),
            "logits": self.logit_weight * divergence(out.logits, teacher.logits),
        }

    def _recovering(self, places: dict[int, Sequence[Reducer]], vit: Backbone) -> dict[int, Sequence[Reducer]]:
        at = quarters(self.blocks, vit)
        made = dict(zip(at, soft.counts(self.keep_rate, self.tokens, vit, len(at)), strict=True))
        patches, found = math.prod(vit.grid), dict(places)
        count = made[at[0]]
        for block in range(max(0, at[0] - 1), vit.depth):
            count, last = made.get(block + 1, count), block + 1 == vit.depth
            where = block if last else block + 1
            found[where] = [*found.get(where, ()), Recover(count, patches, vit.dim, last)]
        return found

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training."""
        return soft.compared(stored, "sit")

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Modules are counted by stage there."""
        return super().published(names) | soft.clusters(names, "")
