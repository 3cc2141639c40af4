"""DiffRate: prune and merge in every block, by counts that a search has found (arXiv 2305.17997)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Counts, Kind, Method, Paper, Reported, unscored

OWN = "its own counter leaves the similarities out"


@cache
def tables() -> dict[str, dict[str, list[int] | None]]:
    """The published counts, class token included, by model and GFLOPs: "deit_s-2.9" to "prune" and "merge"."""
    found: dict[str, dict[str, list[int] | None]] = json.loads(Path(__file__).with_name("rates.json").read_text())
    return found


class PruneMerge(Reducer):
    """Sort by class attention, drop the last, and merge the next to last into those most like them.

    Args:
        prune: tokens left after dropping, the class token included.
        merge: tokens left after merging.
    """

    def __init__(self, prune: int, merge: int) -> None:
        super().__init__()
        self.prune, self.merge = prune, merge

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        if attn is None:
            return tokens
        left = min(self.prune - 1, tokens.count - tokens.prefix)
        order = attn.class_row().argsort(dim=1, descending=True, stable=True)
        tokens = tokens.keep(order[:, :left])
        count = min(self.merge - 1, left)
        if count == left:
            return tokens
        unit = F.normalize(tokens.patches, dim=-1)
        similar, nearest = (unit[:, count:] @ unit[:, :count].transpose(1, 2)).max(dim=-1)
        own = torch.arange(count, device=order.device).expand(order.shape[0], -1)
        sizes = tokens.sizes()
        head, dst, src = sizes.split([tokens.prefix, count, left - count], dim=1)
        size = torch.cat([head, dst.scatter_add(1, nearest, src * similar).clamp(min=1.0)], dim=1)
        plain = torch.ones_like(tokens.patches[..., 0])
        return tokens.group(torch.cat([own, nearest], dim=1), count, weights=plain).sized(size)


class DiffRate(Method):
    """DiffRate: every block drops the least attended tokens and merges others, by counts that a search found."""

    name = "diffrate"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "none given"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", "2305.17997", "ICCV 2023"
    )
    main: ClassVar[str | None] = "table"
    neutral: ClassVar[Mapping[str, Any] | None] = {"prune": (37,) * 12, "merge": (37,) * 12}
    notes = (
        "Tables are its authors', of model and GFLOPs; on another number of patches they are scaled. Sizes are weighed "
        "by similarity, and are no numbers of patches."
    )
    reported = (
        Reported("deit_s", {"table": "deit_s-2.9"}, 79.54, 2.905, reason=OWN),
        Reported("deit_b", {"table": "deit_b-11.5"}, 81.50, 11.517, reason=OWN),
        Reported("mae_b", {"table": "mae_b-11.5"}, 82.86, 11.517, reason=OWN),
        Reported("deit_s", {"table": "deit_s-2.9"}, 79.8, 2.9, trained=True, note="fine-tuned"),
    )

    table: str = Field("deit_s-2.9", description="published counts, by the model and GFLOPs they were found for")
    prune: Counts | None = Field(
        None, description="tokens left after dropping in each block, class token included, in place of a table"
    )
    merge: Counts | None = Field(None, description="tokens left after merging in each block, likewise")

    def ladder(self, vit: Backbone) -> Sequence[Method]:
        """The published tables of the model that this setting's table is of, by their GFLOPs."""
        model = self.table.rpartition("-")[0]
        names = sorted(
            (n for n in tables() if n.rpartition("-")[0] == model), key=lambda n: -float(n.rpartition("-")[2])
        )
        found = [self.model_copy(update={"table": name, "prune": None, "merge": None}) for name in names]
        return [setting for setting in found if setting.refusal(vit) is None]

    @field_validator("table")
    @classmethod
    def _known(cls, table: str) -> str:
        if table not in tables():
            raise ValueError(f"should be one of {', '.join(tables())}")
        return table

    @model_validator(mode="after")
    def _both(self) -> DiffRate:
        if (self.prune is None) != (self.merge is None):
            raise ValueError("prune and merge go together: give both lists, or a table")
        if self.prune is not None and self.merge is not None:
            if len(self.prune) != len(self.merge):
                raise ValueError("prune and merge should list as many blocks")
            if min((*self.prune, *self.merge), default=2) < 2:
                raise ValueError("prune and merge should leave 2 tokens or more, the class token and a patch")
        return self

    @property
    def proportional(self) -> bool:
        """In all blocks."""
        return True

    def counts(self, vit: Backbone) -> list[tuple[int, int]]:
        """Tokens left after dropping and after merging in each block, one class token included."""
        if self.prune is not None and self.merge is not None:
            return list(zip(self.prune, self.merge, strict=True))
        found = tables()[self.table]
        prune, merge = found["prune"] or (), found["merge"] or ()
        here, there = vit.grid[0] * vit.grid[1], max((1, *prune)) - 1
        return [
            (max(1, round((p - 1) * here / there)) + 1, max(1, round((m - 1) * here / there)) + 1)
            for p, m in zip(prune, merge, strict=True)
        ]

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token, and counts for every block."""
        blocks = self.counts(vit) if self.prune is not None or tables()[self.table]["prune"] else None
        if blocks is None:
            return f"{self.table} is of a model with convolutions, and counts no class token"
        if len(blocks) != vit.depth:
            return f"it counts {len(blocks)} blocks, and this backbone has {vit.depth}"
        return unscored(vit)

    def caveat(self, vit: Backbone) -> str | None:
        """That a table is scaled."""
        prune, here = tables()[self.table]["prune"], vit.grid[0] * vit.grid[1]
        if self.prune is not None or prune is None or max(prune) == here + 1:
            return None
        return f"{self.table} counts {max(prune) - 1} patches, and is scaled to {here}"

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One in every block, for all of them sort; none where nothing goes."""
        counts, here = self.counts(vit), vit.grid[0] * vit.grid[1] + 1
        if all(min(pair) >= here for pair in counts):
            return {}
        return {block: [PruneMerge(*pair)] for block, pair in enumerate(counts)}
