"""Small methods with known costs and counts, for the tests of what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

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


class Above(Reducer):
    """Keep the patches whose first channel is above a threshold; before the block, or between by attention received."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where  # type: ignore[misc,assignment]

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        scores = tokens.patches[..., 0]
        if attn is not None:
            received = attn.received().mean(1)[:, tokens.prefix :]
            mean = received.sum(1, keepdim=True) / (tokens.counts - tokens.prefix)[:, None]
            scores = received / mean - 0.9
        return tokens.keep_where(scores > self.method.threshold, scores.abs() if self.method.fuse else None)


class Similar(Reducer):
    """Merge each token into the first before it that has nearly its value, so that clusters differ in number."""

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        near = (tokens.patches[..., 0][:, :, None] - tokens.patches[..., 0][:, None]).abs() < self.method.near
        if tokens.present is not None:
            near = near & tokens.present[:, None]
        return tokens.group(near.int().argmax(-1), None)


class Threshold(Method):
    """Tokens above a threshold stay."""

    name = "threshold"
    neutral: ClassVar[dict[str, Any]] = {"threshold": -1e9, "near": 0.0, "fuse": False}
    threshold: float = 0.0
    near: float = 0.3
    fuse: bool = False
    prop_attn: bool = True

    @property
    def proportional(self) -> bool:
        return self.prop_attn

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        found: dict[int, Sequence[Reducer]] = {2: [Above("before")], 5: [Above("between")]}
        return found | ({7: [Similar()]} if self.near else {})


def model(backbone: Backbone, reducers: dict[int, Sequence[Reducer]] | None = None) -> Model:
    """The backbone with these reducers, in eval mode."""

    class Given(Method):
        name = "given"

        def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
            return reducers or {}

    return Model(backbone, Given()).eval()
