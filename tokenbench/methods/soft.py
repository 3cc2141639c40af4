"""What methods share that make a few soft tokens of all in stages: how many, where, and how they are trained."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from tokenbench.backbones import Backbone
from tokenbench.core.block import Reducer
from tokenbench.methods.base import outside, quarters
from tokenbench.methods.recipe import DEIT
from tokenbench.methods.released import SUITE, Release, Stored, places, slashed, suite
from tokenbench.methods.topk import kept

COMPARED = DEIT.change(
    {
        "epochs": 30,
        "lr": 1e-3,
        "lr_batch": 1024,
        "warmup_epochs": 20,
        "ema": 0.99996,
        "start": "dense",
        "source": "the comparison of arXiv 2308.04657: a trained DeiT fine-tuned, new modules and backbone at one rate",
    }
)


def counts(keep_rate: float, tokens: tuple[int, ...] | None, vit: Backbone, stages: int) -> tuple[int, ...]:
    """Tokens after each stage: as given, or int(P * keep_rate^(stage + 1)) of the initial P patches."""
    if tokens is not None:
        return tokens
    return tuple(kept(math.prod(vit.grid), keep_rate, stage) for stage in range(stages))


def stages(
    vit: Backbone,
    keep_rate: float,
    tokens: tuple[int, ...] | None,
    blocks: tuple[int, ...] | None,
    make: Callable[[int], Reducer],
) -> dict[int, Sequence[Reducer]]:
    """A reducer in front of each stage's block, made for its number of tokens."""
    at = quarters(blocks, vit)
    return {block: [make(count)] for block, count in zip(at, counts(keep_rate, tokens, vit, len(at)), strict=True)}


def impossible(vit: Backbone, tokens: tuple[int, ...] | None, blocks: tuple[int, ...] | None) -> str | None:
    """Why such stages cannot be, as a clause; None if they can."""
    at, patches = quarters(blocks, vit), math.prod(vit.grid)
    if tokens is not None and len(tokens) != len(at):
        return f"tokens gives {len(tokens)} numbers for {len(at)} stages"
    if tokens is not None and any(a < b for a, b in pairwise((patches, *tokens))):
        return f"of its {patches} patches tokens makes {slashed(tokens)}, more than are left"
    if vit.vit.global_pool == "":
        return "its head reads all tokens, and soft tokens lie in no grid"
    return outside(at, vit)


def compared(stored: Stored, model: str) -> Release | None:
    """TokenReduction's checkpoint of this method, by the options of its training."""
    run = suite(stored, model)
    if run is None or run.refusal:
        return None if run is None else Release(SUITE, refusal=run.refusal)
    release = run.compounding(stored)
    return release if release.refusal is None else Release(SUITE, {"tokens": run.counts} | places(run.blocks, stored))


def clusters(names: Sequence[str], module: str) -> dict[str, str]:
    """TokenReduction's names of tensors: modules are counted by stage there, and by block here."""
    parts = {name: re.fullmatch(rf"blocks\.(\d+)\.reducers\.0\.{module}(.+)", name) for name in names}
    stage = {block: i for i, block in enumerate(sorted({int(part[1]) for part in parts.values() if part}))}
    return {name: f"cluster_layers.{stage[int(part[1])]}.{part[2]}" for name, part in parts.items() if part}
