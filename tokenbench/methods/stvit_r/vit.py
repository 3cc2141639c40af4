"""STViT-R in a plain ViT: units of blocks that make semantic tokens, work on them, and give the patches back.

A reconstruction: neither code nor figures of this form were published (arXiv 2303.08685 has it in Swin only). Every
block keeps its own weights, and its attention runs between other tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokenbench.backbones import Backbone
from tokenbench.backbones.vit import ViT
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.stvit.semantic import Generate, Patches, Refine
from tokenbench.methods.stvit_r.blocks import image_of

MAKING = 2  # blocks of a unit that make semantic tokens: generate, refine


@dataclass(frozen=True)
class Units:
    """Where units sit: from block `base` to the last, `length` blocks each, the last of which recovers."""

    base: int
    length: int

    def place(self, index: int) -> int | None:
        """Which block of its unit a block is; None if it is in none."""
        return None if index < self.base else (index - self.base) % self.length

    def refusal(self, depth: int) -> str | None:
        """Why a model of that depth has no such units, as a clause."""
        if self.length <= MAKING:
            return f"a unit of {self.length} blocks is too short: {MAKING} make semantic tokens and one recovers"
        if self.base >= depth or (depth - self.base) % self.length:
            return f"{depth} blocks are not {self.base} plain ones and then units of {self.length}"
        return None

    def reducers(self, depth: int, dim: int, tokens: int, centres: bool) -> dict[int, Sequence[Reducer]]:
        """What makes semantic tokens, and drops the class token at the start; learned centres in the first unit."""
        found: dict[int, Sequence[Reducer]] = {}
        for i in range(self.base, depth, self.length):
            found[i] = [Generate(dim, tokens, "max", "spatial")]
            found[i + 1] = [Refine(dim, tokens, "both" if centres and i == self.base else "spatial")]
        return found | {0: [Patches(), *found.get(0, ())]}


class RecoveringViT(ViT):
    """A plain ViT that works on semantic tokens in units; its weights are used in place."""

    def __init__(self, vit: Backbone, units: Units) -> None:
        super().__init__(vit.vit, vit.name)
        self.units = units

    def __new__(cls, vit: Backbone, units: Units) -> RecoveringViT:  # type: ignore[misc]
        """An adapter around the same model."""
        return object.__new__(cls)

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """The block as it is, but where semantic tokens work alone and where patches are recovered."""
        place = self.units.place(index)
        if place is None or place < MAKING:
            return super().turn(index, reducers, proportional)
        kind = RecoveringTurn if place == self.units.length - 1 else AloneTurn
        return kind(self.vit.blocks[index], reducers)


class AloneTurn(Block):
    """Semantic tokens attend to themselves, the image tokens still beside them."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens."""
        return replace(super().forward(tokens.settle()), context=tokens.context)


class RecoveringTurn(Block):
    """Image tokens ask the semantic ones and go on alone; each stands for its own patch again."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Image tokens."""
        # a refining block has left its own keys, semantic tokens before the image's
        image = replace(image_of(tokens).last(math.prod(tokens.grid)), layout=tokens.grid)
        asked = super().forward(image.ask(image.x, tokens.settle(), layout=image.layout))
        return image.with_x(asked.x)
