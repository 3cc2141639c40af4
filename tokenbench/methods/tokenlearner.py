"""TokenLearner: a few tokens, each a sum over the map by a learned gate; a fuser lays them back (arXiv 2106.11297)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, outside
from tokenbench.methods.recipe import FINETUNE, Recipe

WHOLE = "tokenlearner.whole"


class Softmax(nn.Module):
    """Version 1.1: shares (B, K, N) of each token, a softmax over the map of a small MLP."""

    def __init__(self, count: int, dim: int, bottleneck: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _mlp(dim, bottleneck, count, dropout)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Of tokens x (B, N, C)."""
        shares: Tensor = self.mlp(self.norm(x)).softmax(dim=1).transpose(1, 2)
        return shares


class Gates(nn.Module):
    """Version 1.0, the paper's: gates (B, K, N) between 0 and 1, by convolutions over the grid."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        layers: list[nn.Module] = []
        for inside in (dim, count, count, count):
            layers += [nn.Conv2d(inside, count, 3, padding=1, bias=False), nn.GELU(approximate="tanh")]
        self.convs = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Of tokens x (B, N, C) that lie in a grid, row by row."""
        gates: Tensor = self.convs(self.norm(x).transpose(1, 2).unflatten(2, grid)).flatten(2)
        return gates


class Learn(Reducer):
    """Put the learned tokens in the place of all; the prefix is set aside."""

    where: ClassVar = "before"

    def __init__(self, dim: int, method: TokenLearner) -> None:
        super().__init__()
        self.gates: nn.Module = (
            Softmax(method.tokens, dim, method.bottleneck, method.dropout)
            if method.version == "1.1"
            else Gates(method.tokens, dim)
        )

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block; for a fuser the map is handed on."""
        gates = self.gates(tokens.patches, tokens.grid)
        x = gates @ tokens.patches
        if self.method.version == "1.0" and self.method.pool == "mean":
            x = x / gates.shape[2]
        # gates may take more of a patch than there is, which maps do not
        shares = gates / gates.sum(1, keepdim=True).clamp(min=1) if self.method.version == "1.0" else gates
        learned = tokens.condense(shares, x)
        return learned.store(WHOLE, tokens) if self.method.fuser else learned


class Fuser(nn.Module):
    """What learned tokens y (B, K, C) give to each token of a map x (B, N, C)."""

    def __init__(self, count: int, dim: int, bottleneck: int, dropout: float, norm: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-6) if norm else nn.Identity()
        self.mix = nn.Linear(count, count)
        nn.init.zeros_(self.mix.bias)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _mlp(dim, bottleneck, count, dropout)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """(B, N, C), to be added to x."""
        mixed = self.norm2(self.mix(self.norm1(y).transpose(1, 2)).transpose(1, 2))
        given: Tensor = self.mlp(self.norm(x)).sigmoid() @ mixed
        return given


class Fuse(Reducer):
    """Lay the learned tokens back on the map."""

    where: ClassVar = "after"

    def __init__(self, dim: int, method: TokenLearner) -> None:
        super().__init__()
        self.fuser = Fuser(method.tokens, dim, method.bottleneck, method.dropout)

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the block."""
        whole: Tokens = tokens.state[WHOLE]
        x = whole.patches + self.fuser(tokens.patches, whole.patches)
        return whole.with_x(torch.cat([tokens.x[:, : tokens.prefix], x], dim=1))


def _mlp(inside: int, bottleneck: int, outside: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inside, bottleneck), nn.GELU(approximate="tanh"), nn.Dropout(dropout), nn.Linear(bottleneck, outside)
    )


class TokenLearner(Method):
    """TokenLearner: in the middle of the model a few learned tokens take the place of all patches."""

    name = "tokenlearner"
    kind: ClassVar[Kind | None] = "condenses"
    licence: ClassVar[str] = "Apache-2.0"
    held: ClassVar[str] = "outputs and gradients of the published modules"
    paper: ClassVar[Paper | None] = Paper(
        "TokenLearner: What Can 8 Learned Tokens Do for Images and Videos?", "2106.11297", "NeurIPS 2021"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "tokens"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": FINETUNE.change({"lr": 5e-5, "weight_decay": 0.05, "source": "tokenbench's own; untuned"})
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"dropout"})
    notes = (
        "The published models pool over all tokens and have no class token; here a class token is set aside. Sums of "
        "version 1.0 are many times the features in scale."
    )

    tokens: int = Field(8, ge=1, description="number of learned tokens")
    block: int | None = Field(None, ge=0, description="block in front of which they are made; the middle if unset")
    version: Literal["1.1", "1.0"] = Field("1.1", description="softmax of an MLP, or the paper's gates by convolutions")
    pool: Literal["sum", "mean"] = Field("sum", description="version 1.0: sum over the map, or mean")
    fuser: bool = Field(
        False, description="lay tokens back on the map after the block, and so in every block from there"
    )
    bottleneck: int = Field(64, ge=1, description="hidden width of the MLPs")
    dropout: float = Field(0.0, ge=0, lt=1, description="training: dropout in the MLPs")

    def supports(self, vit: Backbone) -> str | None:
        """Any plain backbone with as many patches as tokens or more."""
        patches = vit.grid[0] * vit.grid[1]
        if self.tokens > patches:
            return f"of its {patches} patches it makes {self.tokens} tokens, more than there are"
        return outside((self._block(vit),), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One module; with a fuser a pair in every block from there on."""
        first = self._block(vit)
        if not self.fuser:
            return {first: [Learn(vit.dim, self)]}
        return {block: [Learn(vit.dim, self), Fuse(vit.dim, self)] for block in range(first, vit.depth)}

    def _block(self, vit: Backbone) -> int:
        return vit.depth // 2 if self.block is None else self.block
