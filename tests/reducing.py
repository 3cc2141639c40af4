"""Small methods with known costs and counts, for the tests of what is measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Method
from tokenbench.model import Model


class Half(Reducer):
    """Keeps the first half of the tokens; asks for the class row and does not use it."""

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        if attn is not None:
            attn.class_row()
        return tokens.keep(torch.arange((tokens.count - tokens.prefix) // 2, device=tokens.x.device))


class Scored(Reducer):
    """Keeps the better half by a linear layer of all tokens after the prefix."""

    where = "before"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        scores = self.score(tokens.patches).squeeze(-1)
        return tokens.keep(scores.topk((tokens.count - tokens.prefix) // 2).indices)


class Masked(Reducer):
    """Drops, in image i of the batch, the last i tokens by mask."""

    where = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        n, device = tokens.count - tokens.prefix, tokens.x.device
        kept = n - torch.arange(tokens.x.shape[0], device=device)
        return tokens.mask((torch.arange(n, device=device) < kept[:, None]).float())


def model(backbone: Backbone, reducers: dict[int, Sequence[Reducer]] | None = None) -> Model:
    """The backbone with these reducers, in eval mode."""

    class Given(Method):
        name = "given"

        def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
            return reducers or {}

    return Model(backbone, Given()).eval()
