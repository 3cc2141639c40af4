"""EViT: keep the attentive patches, fuse the rest into one (arXiv 2202.07800)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Counts, Kind, Method, Paper, Places, Reported, outside, quarters, unscored
from tokenbench.methods.recipe import DEIT, FINETUNE, Recipe
from tokenbench.methods.released import SUITE, Release, Stored, places, slashed, suite


class Attentive(Reducer):
    """Keep the tokens with the highest class attention; sum the others, weighted by it, into one fused token."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP. An earlier fused token competes like any other."""
        current, fixed = tokens.count - tokens.prefix, self.method.tokens
        count = math.ceil(self.method.keep_rate * current) if fixed is None else fixed[self.stage]
        if attn is None or count >= current:
            return tokens
        scores = attn.class_row()  # (B, n), not renormalised
        return tokens.keep(scores.topk(count, dim=1).indices, fuse=scores if self.method.fuse else None)


class EViT(Method):
    """EViT: three times, keep the patches the class token attends to most and fuse the others into one token."""

    name = "evit"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "Apache-2.0"
    held: ClassVar[str] = "outputs and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
        "2202.07800",
        "ICLR 2022",
    )
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "scratch": DEIT.change(
            {"knobs": {"shrink_start": 10, "shrink_epochs": 100}, "source": "arXiv 2202.07800, section 4: DeiT's"}
        ),
        "finetune": FINETUNE,
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"shrink_start", "shrink_epochs"})
    notes = "keep_rate counts from the current tokens, the fused one included: ceil(keep_rate * n)."
    reported = tuple(
        Reported("deit_s", {"keep_rate": rate}, top1, gmacs, True, "300 epochs")
        for rate, top1, gmacs in (
            (0.9, 79.8, 4.0),
            (0.8, 79.8, 3.5),
            (0.7, 79.5, 3.0),
            (0.6, 78.9, 2.6),
            (0.5, 78.5, 2.3),
        )
    )

    keep_rate: float = Field(0.7, gt=0, le=1, description="share of the current tokens kept at each stage")
    tokens: Counts | None = Field(None, description="number of tokens kept at each stage, in place of keep_rate")
    fuse: bool = Field(True, description="append the dropped tokens as one, weighted by class attention")
    blocks: Places | None = Field(None, description="blocks that drop; a quarter, half, three quarters if unset")
    shrink_start: float = Field(0.0, ge=0, description="training: epoch at which the keep rate starts to fall from 1")
    shrink_epochs: float = Field(
        0.0, ge=0, description="training: epochs over which it falls to keep_rate, on a cosine"
    )

    @property
    def blends(self) -> bool:
        """With a fused token."""
        return self.fuse and (self.keep_rate < 1 or self.tokens is not None)

    def supports(self, vit: Backbone) -> str | None:
        """Needs a class token."""
        if not vit.has_class_token:
            return unscored(vit)
        blocks = quarters(self.blocks, vit)
        if self.tokens is not None and len(self.tokens) != len(blocks):
            return f"tokens gives {len(self.tokens)} numbers for {len(blocks)} stages"
        if self.tokens is not None and any(a < b for a, b in pairwise((vit.grid[0] * vit.grid[1], *self.tokens))):
            return f"of its {vit.grid[0] * vit.grid[1]} patches tokens keeps {slashed(self.tokens)}, more than are left"
        return outside(blocks, vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One selection a stage."""
        return {block: [Attentive(stage)] for stage, block in enumerate(quarters(self.blocks, vit))}

    def at(self, epoch: float) -> EViT:
        """The scheduled keep rate (section 3.2): 1, then a cosine down to `keep_rate`, then `keep_rate`."""
        if epoch < self.shrink_start:
            rate = 1.0
        elif epoch >= self.shrink_start + self.shrink_epochs:
            rate = self.keep_rate
        else:
            done = (epoch - self.shrink_start) / self.shrink_epochs
            rate = self.keep_rate + (1 - self.keep_rate) * 0.5 * (1 + math.cos(math.pi * done))
        return self.model_copy(update={"keep_rate": rate})

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By the options of its training; the tensors have a DeiT's names."""
        options = stored.options
        if "base_keep_rate" in options and "dist_token" in stored.tensors:
            return Release("youweiliang/evit", refusal="its distillation token may be dropped as patches are")
        if "base_keep_rate" in options:
            blocks = tuple(int(block) for block in re.findall(r"\d+", str(options.get("drop_loc", "(3, 6, 9)"))))
            knobs = {"keep_rate": options["base_keep_rate"], "fuse": bool(options.get("fuse_token"))}
            return Release("youweiliang/evit", knobs | places(blocks, stored))
        run = suite(stored, "evit")
        if run is None:
            return None
        if run.refusal:
            return Release(SUITE, refusal=run.refusal)
        knobs = {"tokens": run.counts} | places(run.blocks, stored)
        given = ",".join(f"{knob}={slashed(value)}" for knob, value in knobs.items())
        name = (
            f"what is called EViT there keeps int(196 * rate^stage) tokens, here {slashed(run.counts)}, "
            f'and EViT does not; give --method "evit[{given}]" to read it as that'
        )
        return Release(SUITE, knobs, refusal=name)
