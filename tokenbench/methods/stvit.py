"""STViT: a few semantic tokens take the place of the patches (arXiv 2303.08685).

No code was published for the global form, so this is a reconstruction from the paper, and labelled so. Not the super
token ViT, which carries the same short name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from tokenbench.methods.base import Method, Paper, Reducer, Reported, outside
from tokenbench.model import Attn
from tokenbench.tokens import Tokens

if TYPE_CHECKING:
    from tokenbench.backbones import Backbone


class Patches(Reducer):
    """Drop the class token: STViT classifies the mean of its last tokens (section 3.2)."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the first block."""
        return tokens.without_prefix()


class Generate(Reducer):
    """The first generating block: centres ask the image tokens (equations 1 and 2)."""

    where: ClassVar = "before"

    def __init__(self, dim: int, tokens: int, pool: str, centres: str) -> None:
        super().__init__()
        self.side = math.isqrt(tokens)
        self.pool = LearnedPool(dim, self.side) if pool == "learned" and centres != "global" else None
        self.mode = pool
        self.centres = Centres(tokens, dim) if centres == "global" else None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block, whose attention then runs from the centres to the image tokens."""
        if self.centres is not None:
            return tokens.ask(self.centres().expand(tokens.x.shape[0], -1, -1), tokens)
        grid = tokens.x.transpose(1, 2).unflatten(2, tokens.grid)  # (B, C, rows, columns)
        if self.pool is not None:
            centres = self.pool(grid)
        else:
            pool = F.adaptive_max_pool2d if self.mode == "max" else F.adaptive_avg_pool2d
            centres = pool(grid, self.side)
        return tokens.ask(centres.flatten(2).transpose(1, 2), tokens)


class Refine(Reducer):
    """A further generating block: semantic tokens, with global centres added, ask themselves and the image tokens."""

    where: ClassVar = "before"

    def __init__(self, dim: int, tokens: int, centres: str) -> None:
        super().__init__()
        self.centres = Centres(tokens, dim) if centres == "both" else None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block (equation 3)."""
        if tokens.context is None:
            return tokens
        image = tokens.context.last(tokens.grid[0] * tokens.grid[1])  # without the semantic tokens of a block before
        queries = tokens.x if self.centres is None else tokens.x + self.centres()
        return tokens.ask(queries, tokens.settle().join(image))


class Settle(Reducer):
    """Leave the image tokens behind."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the first block on semantic tokens alone."""
        return tokens.settle()


class Centres(nn.Module):
    """Learned global centres G (tokens, C), drawn from a normal distribution at first."""

    def __init__(self, tokens: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(tokens, dim))

    def forward(self) -> Tensor:
        """G."""
        return self.weight


class LearnedPool(nn.Module):
    """Intra- and inter-window pooling (section 3.2): a light branch gives a mask within each window and an offset
    that moves the window, so that a centre may lie across window borders.
    """

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.point = nn.Conv2d(dim, 3, 1)  # mask, vertical and horizontal offset

    def forward(self, grid: Tensor) -> Tensor:
        """Centres (B, C, side, side) of a map (B, C, rows, columns)."""
        batch, _, rows, cols = grid.shape
        z = self.norm(self.depthwise(grid).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        z = self.point(F.gelu(z))  # (B, 3, rows, columns)
        offset = F.adaptive_avg_pool2d(z[:, 1:], self.side).tanh()  # (B, 2, side, side), up to one window
        height, width = math.ceil(rows / self.side), math.ceil(cols / self.side)
        y = _positions(rows, self.side, height, grid)[None, :, None, :, None] + offset[:, 0, :, :, None, None] * height
        x = _positions(cols, self.side, width, grid)[None, None, :, None, :] + offset[:, 1, :, :, None, None] * width
        y, x = torch.broadcast_tensors(y, x)  # (B, side, side, height, width)
        places = torch.stack([x * 2 / max(1, cols - 1) - 1, y * 2 / max(1, rows - 1) - 1], dim=-1)
        flat = places.reshape(batch, self.side * self.side, height * width, 2).to(grid.dtype)
        sampled = F.grid_sample(torch.cat([grid, z[:, :1]], dim=1), flat, align_corners=True, padding_mode="border")
        mask = sampled[:, -1:].softmax(dim=-1)  # (B, 1, side * side, height * width)
        centres: Tensor = (sampled[:, :-1] * mask).sum(-1)
        return centres.reshape(batch, -1, self.side, self.side)


class STViT(Method):
    """Semantic tokens: pooled centres attend to the patches and replace them, 16 in place of 196."""

    name = "stvit"
    paper: ClassVar[Paper | None] = Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View", "2303.08685", "CVPR 2023"
    )
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "tokens"
    notes = "Semantic-token ViT; a reconstruction, for no code of the global form was published."
    reported = (
        Reported("deit_t", {"tokens": 16}, 72.2, None, True, "300 epochs; -58 % GMAC"),
        Reported("deit_s", {"tokens": 16}, 79.8, None, True, "300 epochs; -58 % GMAC"),
        Reported("deit_b", {"tokens": 16}, 81.8, None, True, "300 epochs; -58 % GMAC"),
        Reported("deit_s", {"centres": "spatial"}, 79.4, None, True, "300 epochs"),
        Reported("deit_s", {"centres": "global"}, 78.7, None, True, "300 epochs"),
        Reported("deit_s", {"generating": 3}, 79.5, None, True, "300 epochs"),
        Reported("deit_s", {"generating": 4}, 79.6, None, True, "300 epochs"),
    )

    tokens: int = Field(16, ge=1, description="number of semantic tokens, a square number")
    base: int | None = Field(None, ge=0, description="plain blocks before the first generating block; a third if unset")
    generating: int = Field(2, ge=1, description="number of generating blocks")
    pool: Literal["max", "avg", "learned"] = Field("max", description="how spatial centres are pooled from the patches")
    centres: Literal["both", "spatial", "global"] = Field("both", description="which centres the tokens start from")

    @field_validator("tokens")
    @classmethod
    def _square(cls, tokens: int) -> int:
        if math.isqrt(tokens) ** 2 != tokens:
            raise ValueError("should be a square number such as 4, 9, 16, 25 or 36")
        return tokens

    def supports(self, vit: Backbone) -> str | None:
        """Needs a model read by its class token or by mean pooling, and more patches than semantic tokens."""
        if vit.distilled:
            return "it drops class tokens, and a distilled model's two heads read theirs"
        if vit.vit.global_pool not in ("token", "avg"):
            return f"it classifies the mean of its tokens, and this backbone pools by '{vit.vit.global_pool}'"
        if math.isqrt(self.tokens) > min(vit.grid):
            return f"{self.tokens} tokens need {math.isqrt(self.tokens)} patches a side, and this grid is {vit.grid}"
        return outside((self._base(vit) + self.generating - 1,), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Drop the class token, generate, refine, settle."""
        base = self._base(vit)
        places: dict[int, list[Reducer]] = {0: [Patches()]}
        places.setdefault(base, []).append(Generate(vit.dim, self.tokens, self.pool, self.centres))
        for i in range(base + 1, base + self.generating):
            places.setdefault(i, []).append(Refine(vit.dim, self.tokens, self.centres))
        places.setdefault(base + self.generating, []).append(Settle())
        return dict(places)

    def _base(self, vit: Backbone) -> int:
        return vit.depth // 3 if self.base is None else self.base


def _positions(length: int, bins: int, points: int, like: Tensor) -> Tensor:
    """(bins, points) positions of `points` cells centred in each of `bins` windows of a line of `length` cells."""
    centres = (torch.arange(bins, device=like.device) + 0.5) * length / bins - 0.5
    return centres[:, None] + torch.arange(points, device=like.device) - (points - 1) / 2
