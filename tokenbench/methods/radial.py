"""Radial patterns: keep the patches near the middle of the image, whatever it shows (arXiv 2308.04657)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, outside, quarters
from tokenbench.methods.released import SUITE, Release, Stored, suite, with_told
from tokenbench.methods.topk import STUDY

Norm = Literal["l1", "l2", "linf"]
NEAR = 1e-9  # relative: a radius that floats put a hair below a ring


def radii(grid: tuple[int, int], norm: Norm) -> list[int]:
    """How far each patch is from the middle, row by row, in half patches: whole numbers, for l2 their squares."""
    rows, cols = (range(1 - side, side, 2) for side in grid)
    if norm == "l2":
        return [y * y + x * x for y in rows for x in cols]
    return [abs(y) + abs(x) if norm == "l1" else max(abs(y), abs(x)) for y in rows for x in cols]


def nearest_ring(radius: Sequence[int], count: int) -> int:
    """The radius within which as many patches lie as come nearest to `count`; the smaller of two that are as near."""
    return min(sorted(set(radius)), key=lambda ring: (abs(sum(r <= ring for r in radius) - count), ring))


def shrinking(grid: tuple[int, int], norm: Norm, stages: int, least: float) -> list[float]:
    """Radii of so many stages, on a line from the corner's to `least`, both left out.

    Lengths are published in patches times P/(P - 1), so that the corner of P x P patches is at (P/2, P/2).
    """
    half = [side / 2 for side in grid]
    corner = sum(half) if norm == "l1" else max(half) if norm == "linf" else sum(h * h for h in half) ** 0.5
    unit = max(side / 2 / max(1, side - 1) for side in grid)
    line = [(corner + (least - corner) * i / (stages + 1)) / unit for i in range(1, stages + 1)]
    return [r * r for r in line] if norm == "l2" else line


class Within(Reducer):
    """Keep the patches within a radius, of those within the radius of the stage before."""

    where: ClassVar = "before"

    def __init__(self, stage: int, stages: int) -> None:
        super().__init__()
        self.stage, self.stages = stage, stages

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block."""
        radius = radii(tokens.grid, self.method.norm)
        limits = [float("inf"), *self.method.limits(tokens.grid, self.stages)]
        before = [r for r in radius if r <= limits[self.stage] * (1 + NEAR)]
        stay = [i for i, r in enumerate(before) if r <= limits[self.stage + 1] * (1 + NEAR)]
        return tokens if len(stay) == len(before) else tokens.keep(torch.tensor(stay, device=tokens.x.device))


class Radial(Method):
    """Radial: three times, keep the patches within a radius around the middle, a baseline that looks at no image."""

    name = "radial"
    kind: ClassVar[Kind | None] = "prunes"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs of TokenReduction's code"
    paper: ClassVar[Paper | None] = STUDY
    main: ClassVar[str | None] = "keep_rate"
    neutral: ClassVar[Mapping[str, Any] | None] = {"keep_rate": 1.0}
    notes = "Whole rings are kept: those whose patches come nearest to int(n0 * keep_rate^stage)."

    norm: Norm = Field("l2", description="what a ring is: a diamond (l1), a circle (l2) or a square (linf)")
    keep_rate: float = Field(
        0.7,
        gt=0,
        le=1,
        description="share of the initial patches kept at each stage, compounding, as near as rings allow",
    )
    contiguous: bool = Field(False, description="shrink evenly in every block from the first to the last of blocks")
    least: float = Field(1.0, ge=0, description="contiguous: the radius, in patches, that shrinking would end at")
    blocks: Places | None = Field(None, description="blocks before which patches go; at each quarter if unset")

    def supports(self, vit: Backbone) -> str | None:
        """Any backbone with patches on both sides of the middle."""
        if self.contiguous and self.keep_rate != type(self).model_fields["keep_rate"].default:
            return "contiguous shrinking has no keep_rate; it goes from the corner to least"
        if self.contiguous and min(self.limits(vit.grid, len(self.places(vit))), default=0.0) < min(
            radii(vit.grid, self.norm)
        ):
            return f"least={self.least:g} leaves no patch"
        return outside(self.places(vit), vit)

    def places(self, vit: Backbone) -> tuple[int, ...]:
        """The blocks before which patches go."""
        blocks = quarters(self.blocks, vit)
        return tuple(range(min(blocks), max(blocks) + 1)) if self.contiguous and blocks else blocks

    def limits(self, grid: tuple[int, int], stages: int) -> list[float]:
        """The radius of each stage, as `radii` measures."""
        if self.contiguous:
            return shrinking(grid, self.norm, stages, self.least)
        radius, total = radii(grid, self.norm), grid[0] * grid[1]
        return [float(nearest_ring(radius, int(total * self.keep_rate ** (stage + 1)))) for stage in range(stages)]

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's, by the options of its training; the tensors have a DeiT's names."""
        run, options = suite(stored, "heuristic"), stored.options
        if run is None:
            return None
        if options.get("not_contiguous"):
            return with_told(run.compounding(stored), stored, {"norm": "heuristic_pattern"})
        release = Release(SUITE, {"contiguous": True, "blocks": run.blocks})
        return with_told(release, stored, {"norm": "heuristic_pattern", "least": "min_radius"})

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One a stage."""
        blocks = self.places(vit)
        return {block: [Within(stage, len(blocks))] for stage, block in enumerate(blocks)}
