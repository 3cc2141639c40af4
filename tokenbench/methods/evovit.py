"""Evo-ViT: attentive tokens are updated, the others wait and come back unchanged (arXiv 2108.01390)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported, outside
from tokenbench.methods.recipe import DEIT, Recipe
from tokenbench.methods.released import Release, Stored

EVOLVED = "evovit.attention"  # mark: the class token's attention so far
FAST = "evovit.fast"
ENTERED = "evovit.entered"
CLASS_LOGITS = "evovit.class_logits"


class Evolve(Reducer):
    """Keep the class token's attention, in sum over heads, of blocks so far."""

    def __init__(self, fresh: bool) -> None:
        super().__init__()
        self.fresh = fresh

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        if attn is None:
            return tokens
        new = F.pad(attn.class_rows().sum(1), (tokens.prefix, 0))
        old = tokens.marks.get(EVOLVED)
        share = 1.0 if self.fresh or old is None else self.method.tradeoff
        return tokens.mark(EVOLVED, new if old is None else (1 - share) * old + share * new)


class Part(Reducer):
    """Set the less attentive tokens aside, where a selection is due; with `update` stand in for them by one token."""

    where: ClassVar = "before"

    def __init__(self, stage: bool) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        if self.stage or self.method.layer_wise:
            patches = tokens.grid[0] * tokens.grid[1]
            score = tokens.marks[EVOLVED][:, tokens.prefix :]
            order, count = score.argsort(dim=1, descending=True), max(1, int(self.method.keep_rate * patches))
            tokens = tokens.keep(order[:, :count]).store(FAST, tokens.keep(order[:, count:]))
        fast: Tokens | None = tokens.state.get(FAST)
        if fast is None or not self.method.update:
            return tokens
        share = fast.marks[EVOLVED][:, fast.prefix :]
        stand_in = fast.without_prefix().mix((share / share.sum(1, keepdim=True)).unsqueeze(1))
        joined = tokens.join(stand_in)
        return joined.store(ENTERED, joined.x[:, -1:])


class Return(Reducer):
    """Bring back what was set aside, where it is due; with `update`, changed as the token was that stood in for it."""

    where: ClassVar = "after"

    def __init__(self, due: bool, last: bool) -> None:
        super().__init__()
        self.due, self.last = due, last

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the block."""
        fast: Tokens | None = tokens.state.get(FAST)
        if fast is None:
            return tokens
        if self.method.update:
            change = tokens.x[:, -1:] - tokens.state[ENTERED]
            fast = fast.with_x(fast.x + change)
            tokens = tokens.keep(torch.arange(tokens.count - tokens.prefix - 1, device=tokens.x.device))
            tokens = tokens.store(FAST, fast)
        if not (self.due or self.method.layer_wise):
            return tokens
        return (tokens if self.last and self.method.leave else tokens.join(fast)).store(FAST, None)


class ClassHead(Reducer):
    """Training only: a second head, on the class token."""

    where: ClassVar = "after"

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm_cls = nn.LayerNorm(dim, eps=1e-6)
        self.head_cls = nn.Linear(dim, classes)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the last block."""
        if not self.training:
            return tokens
        return tokens.store(CLASS_LOGITS, self.head_cls(self.norm_cls(tokens.x[:, 0])))


class EvoViT(Method):
    """Evo-ViT: in two stages half of the patches, the attentive ones, are updated, and the others wait."""

    name = "evovit"
    kind: ClassVar[Kind | None] = "skips"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer", "2108.01390", "AAAI 2022"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "keep_rate"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "scratch": DEIT.change(
            {
                "knobs": {"heads": True, "layer_wise_epochs": 200.0},
                "source": "arXiv 2108.01390, section 4: DeiT's (drop_path 0 for T)",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"heads", "layer_wise_epochs"})
    notes = (
        "The head reads the mean of the patches, so plain DeiT weights fit, but say nothing: it wants weights of its "
        "own. update=true is what the paper and its LeViT have and its DeiT has not."
    )
    reported = tuple(
        Reported(name, {}, top1, None, True, "300 epochs")
        for name, top1 in (("deit_t", 72.0), ("deit_s", 79.4), ("deit_b", 81.3))
    )

    keep_rate: float = Field(0.5, gt=0, le=1, description="share of the patches that are updated")
    blocks: Places | None = Field(
        None, description="blocks in front of which tokens are parted; a third and two thirds if unset"
    )
    tradeoff: float = Field(0.5, ge=0, le=1, description="what a block's own class attention counts against the past's")
    update: bool = Field(False, description="one token stands in for those that wait, which change as it does")
    leave: bool = Field(False, description="those that wait at the last block do not come back")
    layer_wise: bool = Field(False, description="part anew in front of each block, and bring back after each")
    layer_wise_epochs: float = Field(0.0, ge=0, description="training: epochs in which layer_wise holds, at first")
    heads: bool = Field(False, description="training: a second head, on the class token")

    @property
    def blends(self) -> bool:
        """With a token that stands in for those that wait."""
        return self.update

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token to score, and a head that is read in the plain way."""
        if not vit.has_class_token:
            return "it scores patches by the attention of a class token, and this backbone has none"
        if vit.family != "vit" or vit.distilled or vit.vit.global_pool not in ("token", "avg"):
            return "its head reads the mean of the patches, and this backbone's head reads more"
        places = self._places(vit)
        if places and places[0] == 0:
            return "block 0 has no attention before it to part tokens by"
        return outside(places, vit)

    def wrap(self, vit: Backbone) -> Backbone:
        """The head reads the mean of the patches."""
        return vit.pooled()

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Attention is followed from the first block on; from the first stage on tokens are parted and come back."""
        places, last = self._places(vit), vit.depth - 1
        first = min(places, default=vit.depth)
        found: dict[int, Sequence[Reducer]] = {}
        for block in range(vit.depth if places and self.keep_rate < 1 else 0):
            due = block == last or block + 1 in places
            own = [] if block < first else [Part(block in places), Return(due, block == last)]
            found[block] = [Evolve(block < first), *own]
        head = [ClassHead(vit.dim, int(vit.vit.num_classes))] if self.heads else []
        return found | ({last: [*found.get(last, ()), *head]} if head else {})

    def at(self, epoch: float) -> EvoViT:
        """Layer by layer at first."""
        early = epoch < self.layer_wise_epochs
        return self.model_copy(update={"layer_wise": True}) if early else self

    def lean(self) -> EvoViT:
        """Without the second head."""
        return self.model_copy(update={"heads": False})

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Cross-entropy; with two heads, half of each."""
        logits = out.tokens.state.get(CLASS_LOGITS)
        if logits is None:
            return super().losses(out, target, teacher)
        return {
            "class": 0.5 * F.cross_entropy(out.logits, target),
            "class_token": 0.5 * F.cross_entropy(logits, target),
        }

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By its layers, which stand beside the blocks."""
        if "qks.0.qk.weight" not in stored.tensors:
            return None
        return Release("YifanXu74/Evo-ViT")

    @classmethod
    def translate(cls, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Queries and keys are apart from values there, and with norms and projections beside the blocks."""
        found = {}
        for name, value in tensors.items():
            if match := re.fullmatch(r"qks\.(\d+)\.qk\.(weight|bias)", name):
                values = tensors[f"vs.{match[1]}.v.{match[2]}"]
                found[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = torch.cat([value, values])
            elif match := re.fullmatch(r"(norms|projs)\.(\d+)\.(weight|bias)", name):
                part = {"norms": "norm1", "projs": "attn.proj"}[match[1]]
                found[f"blocks.{match[2]}.{part}.{match[3]}"] = value
            elif not name.startswith(("vs.", "head_cls.", "norm_cls.")):
                found[name] = value
        return found

    def _places(self, vit: Backbone) -> tuple[int, ...]:
        return self.blocks if self.blocks is not None else (vit.depth // 3, 2 * vit.depth // 3)
