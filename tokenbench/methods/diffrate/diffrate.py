"""DiffRate: prune and merge in every block, by counts that a search has found (arXiv 2305.17997)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.lvvit import LV
from tokenbench.core.block import Output, Reducer
from tokenbench.methods.base import Counts, Kind, Method, Paper, Reported, unscored
from tokenbench.methods.diffrate.reducer import PruneMerge
from tokenbench.methods.diffrate.search import COST, Search, gflops
from tokenbench.methods.recipe import DEIT, FINETUNE, Recipe

OWN = "its own counter leaves the similarities out"


@cache
def tables() -> dict[str, dict[str, list[int] | None]]:
    """The published counts, class token included, by model and GFLOPs: "deit_s-2.9" to "prune" and "merge"."""
    found: dict[str, dict[str, list[int] | None]] = json.loads(Path(__file__).with_name("rates.json").read_text())
    return found


class DiffRate(Method):
    """DiffRate: every block drops the least attended tokens and merges others, by counts that a search found."""

    name = "diffrate"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "none given"
    held: ClassVar[str] = "outputs of the published code, and the gradients of its search"
    paper: ClassVar[Paper | None] = Paper(
        "DiffRate: Differentiable Compression Rate for Efficient Vision Transformers", "2305.17997", "ICCV 2023"
    )
    main: ClassVar[str | None] = "table"
    neutral: ClassVar[Mapping[str, Any] | None] = {"prune": (37,) * 12, "merge": (37,) * 12}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "search": DEIT.change(
            {
                "epochs": 3,
                "lr": 1e-2,
                "lr_batch": 1024,
                "min_lr": 1e-3,
                "warmup_epochs": 0,
                "weight_decay": 0.0,
                "drop_path": 0.0,
                "start": "dense",
                "backbone_lr": 0.0,
                "knobs": {"search": True},
                "source": "arXiv 2305.17997 and its released settings: only counts are learnt; augmentation as DeiT's",
            }
        ),
        "finetune": FINETUNE,
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"search", "step", "target", "target_weight"})
    notes = (
        "Tables are its authors', of model and GFLOPs; on another number of patches they are scaled. Sizes are weighed "
        "by similarity, and are no numbers of patches. What its search ends with has the counts it found as knobs."
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
    search: bool = Field(
        False, description="training: counts are learnt, from even scores of all, and no table is read"
    )
    step: int = Field(4, ge=1, description="training: distance of the counts that the search chooses from")
    target: float = Field(2.9, gt=0, description="training: GFLOPs that the search aims at")
    target_weight: float = Field(5.0, ge=0, description="training: weight of the squared distance from them")

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
        if self.search:
            if isinstance(vit, LV):
                return "its search counts the FLOPs of a stem of one convolution"
            return unscored(vit)
        blocks = self.counts(vit) if self.prune is not None or tables()[self.table]["prune"] else None
        if blocks is None:
            return f"{self.table} is of a model with convolutions, and counts no class token"
        if len(blocks) != vit.depth:
            return f"it counts {len(blocks)} blocks, and this backbone has {vit.depth}"
        return unscored(vit)

    def caveat(self, vit: Backbone) -> str | None:
        """That a table is scaled."""
        prune, here = tables()[self.table]["prune"], vit.grid[0] * vit.grid[1]
        if self.search or self.prune is not None or prune is None or max(prune) == here + 1:
            return None
        return f"{self.table} counts {max(prune) - 1} patches, and is scaled to {here}"

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One in every block, for all of them sort; none where nothing goes."""
        here = vit.grid[0] * vit.grid[1] + 1
        if self.search:
            stem = here * vit.vit.patch_embed.proj.weight.numel()  # as published, with the class token as a patch
            first = (stem + vit.dim * vit.vit.num_classes) / 1e9 + gflops(here, here, vit.dim)
            found: dict[int, Sequence[Reducer]] = {0: [PruneMerge(here, here)]}
            for block in range(1, vit.depth):
                found[block] = [Search(here - 1, self.step, vit.dim, first if block == 1 else 0.0)]
            return found
        counts = self.counts(vit)
        if all(min(pair) >= here for pair in counts):
            return {}
        return {block: [PruneMerge(*pair)] for block, pair in enumerate(counts)}

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Classification; in the search also the squared distance of its GFLOPs from the target."""
        terms, cost = super().losses(out, target, teacher), out.tokens.state.get(COST)
        if cost is not None:
            terms["target"] = self.target_weight * (cost - self.target) ** 2
        return terms

    def learnt(self, blocks: Sequence[nn.Module]) -> DiffRate:
        """With the counts that a search found, as they fall from block to block."""
        searches = [module for block in blocks for module in block.modules() if isinstance(module, Search)]
        if not searches:
            return self
        prune, merge = [searches[0].full], [searches[0].full]
        for dropped, merged in (search.counts() for search in searches):
            prune.append(min(merge[-1], dropped))
            merge.append(min(prune[-1], merged))
        return self.model_copy(update={"search": False, "prune": tuple(prune), "merge": tuple(merge)})

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """The scores of a search are named by their block there."""
        return {n: re.sub(r"\.reducers\.\d+\.", ".", name) for n, name in super().published(names).items()}
