"""What authors publish: checkpoints, known by the names of their tensors and the options beside them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from tokenbench.backbones import sizes

SUITE = "JoakimHaurum/TokenReduction"
CLUSTERING = "JoakimHaurum/ATC"  # trains as TokenReduction does
SUITE_PATCHES = 196  # its top-k and EViT count from a 14x14 grid whatever the image


@dataclass(frozen=True)
class Stored:
    """A checkpoint as it was published: tensors by name, and the options of the training run that some files hold."""

    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """What a method reads from a checkpoint that is its own.

    `knobs` are those the file tells; `unknown` names those that matter to the result and that it does not tell.
    `refusal` says, as a clause, why it cannot be read after all; setting all of `knobs` by hand overrules it.
    """

    layout: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True)
class Suite:
    """A run of TokenReduction (arXiv 2308.04657): the blocks that reduce, and the share of 14x14 patches after each."""

    blocks: tuple[int, ...]
    shares: tuple[float, ...]
    refusal: str | None = None
    layout: str = SUITE

    @property
    def counts(self) -> tuple[int, ...]:
        """Patches after each of the blocks."""
        return tuple(int(SUITE_PATCHES * share) for share in self.shares)

    def compounding(self, stored: Stored) -> Release:
        """The reading for methods that keep int(196 * rate^stage) patches, as top-k and DynamicViT do."""
        rate = self.shares[0] if self.shares else 1.0
        powers = tuple(int(SUITE_PATCHES * rate ** (stage + 1)) for stage in range(len(self.shares)))
        refusal = self.refusal
        if powers != self.counts:
            refusal = refusal or f"it keeps {slashed(self.counts)} patches, which no one keep_rate gives"
        return (
            Release(self.layout, refusal=refusal)
            if refusal
            else Release(self.layout, {"keep_rate": rate} | places(self.blocks, stored))
        )


def suite(stored: Stored, model: str) -> Suite | None:
    """The run of TokenReduction that made a checkpoint, if its model there is of that name (`topk`); else None."""
    if suite_model(stored) != model:
        return None
    blocks = tuple(stored.options["reduction_loc"])
    rates = tuple(stored.options.get("keep_rate") or stored.options.get("reduction_ratio") or ())
    positions = stored.tensors.get("pos_embed")
    if len(rates) == 1:
        rates = tuple(rates[0] ** (stage + 1) for stage in range(len(blocks)))
    refusal = None
    if len(rates) != len(blocks):
        refusal = f"it gives {len(rates)} keep rates for {len(blocks)} blocks"
    elif positions is not None and positions.shape[1] != SUITE_PATCHES + 1:
        refusal = f"its counts are those of {SUITE_PATCHES} patches, and it has {positions.shape[1] - 1}"
    return Suite(blocks, rates, refusal, CLUSTERING if "reduction_ratio" in stored.options else SUITE)


def with_told(release: Release | None, stored: Stored, options: Mapping[str, str]) -> Release | None:
    """A reading with the knobs that stored options tell, by knob the name of its option; those that they lack are
    unknown. Nothing changes where there is none, or it is a refusal.
    """
    if release is None or release.refusal:
        return release
    told = {knob: stored.options[name] for knob, name in options.items() if name in stored.options}
    lacking = tuple(knob for knob in options if knob not in told)
    return replace(release, knobs={**release.knobs, **told}, unknown=(*release.unknown, *lacking))


def suite_model(stored: Stored) -> str | None:
    """TokenReduction's name of the model in a checkpoint (`topk`); None for checkpoints of others."""
    if "reduction_loc" not in stored.options or "model" not in stored.options:
        return None
    match = re.fullmatch(r"([a-z]+)_(?:tiny|small|base)_patch16_224(?:_local)?", str(stored.options.get("model")))
    return match[1] if match else str(stored.options.get("model"))


def slashed(values: Iterable[int]) -> str:
    """Numbers as the command line takes them: 3/6/9."""
    return "/".join(map(str, values))


def places(blocks: tuple[int, ...], stored: Stored) -> dict[str, tuple[int, ...]]:
    """The knob that says which blocks reduce, left out where they are the usual ones, at each quarter of the depth."""
    depth = sizes.depth(stored.tensors)
    return {} if blocks == tuple(depth * i // 4 for i in (1, 2, 3)) else {"blocks": blocks}
