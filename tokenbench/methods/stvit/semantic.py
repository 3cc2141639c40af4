"""What makes semantic tokens (arXiv 2303.08685): pooling, the generating blocks, and their windows on Swin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import ONCE
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.pooling import highest
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair, crops, cut, lay, own


@dataclass(frozen=True)
class Local:
    """Windows in which semantic tokens are made: where they lie, and what of the map each looks at."""

    layout: Pair  # rows and columns of the image tokens
    window: Pair  # of one window's image tokens
    side: int  # semantic tokens along a window
    keys: str  # "global": enlarged windows first, then all; "enlarged" or "own": these in every generating block
    reach: int  # by how many tokens an enlarged window is longer
    once: bool = False  # whether keys are projected once for all windows

    @property
    def whole(self) -> Pair:
        """Rows and columns of all semantic tokens."""
        return self.layout[0] // self.window[0] * self.side, self.layout[1] // self.window[1] * self.side

    def told(self, tokens: Tokens) -> Tokens:
        """The tokens, with that for their block."""
        return tokens.store(ONCE, True) if self.once else tokens

    def views(self, device: torch.device, with_semantic: bool = False) -> Tensor | None:
        """Keys (W, K) of each window among the image tokens, or among semantic and image tokens; None for all."""
        reach = 0 if self.keys == "own" else self.reach
        image = crops(self.layout, self.window, reach, device)
        if not with_semantic:
            return image
        if self.keys == "global":
            return None
        small = own(self.whole, (self.side, self.side), device)
        return torch.cat([small, image + math.prod(self.whole)], dim=1)


class Patches(Reducer):
    """Drop the class token: STViT classifies the mean of its last tokens (section 3.2)."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the first block."""
        return tokens.without_prefix()


class Generate(Reducer):
    """The first generating block: centres ask the image tokens (equations 1 and 2)."""

    where: ClassVar = "before"

    def __init__(self, dim: int, tokens: int, pool: str, centres: str, local: Local | None = None) -> None:
        super().__init__()
        self.local = local
        self.side = math.isqrt(tokens)
        self.pool = LearnedPool(dim, self.side) if pool == "learned" and centres != "global" else None
        self.mode = pool
        count = tokens if local is None else math.prod(local.whole)
        self.centres = Centres(count, dim) if centres == "global" else None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block, whose attention then runs from the centres to the image tokens."""
        local = self.local
        views, layout = (None, None) if local is None else (local.views(tokens.x.device), local.whole)
        if self.centres is not None:
            queries = self.centres().expand(tokens.x.shape[0], -1, -1)
            asked = tokens.ask(queries, tokens, views, layout)
            return asked if local is None else local.told(asked)
        if local is None:
            return tokens.ask(self._pooled(tokens.x, tokens.grid), tokens)
        windows = self._pooled(cut(tokens.x, local.layout, local.window), local.window)
        queries = lay(windows, local.whole, (self.side, self.side))
        return local.told(tokens.ask(queries, tokens, views, layout))

    def _pooled(self, x: Tensor, layout: Pair) -> Tensor:
        """Centres (B, side * side, C) of a map x (B, N, C)."""
        grid = x.transpose(1, 2).unflatten(2, layout)  # (B, C, rows, columns)
        if self.pool is not None:
            centres: Tensor = self.pool(grid)
        else:
            centres = (highest if self.mode == "max" else F.adaptive_avg_pool2d)(grid, self.side)
        return centres.flatten(2).transpose(1, 2)


class Refine(Reducer):
    """A further generating block: semantic tokens, with global centres added, ask themselves and the image tokens."""

    where: ClassVar = "before"

    def __init__(self, dim: int, tokens: int, centres: str, local: Local | None = None) -> None:
        super().__init__()
        self.local = local
        count = tokens if local is None else math.prod(local.whole)
        self.centres = Centres(count, dim) if centres == "both" else None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the block (equation 3)."""
        if tokens.context is None:
            return tokens
        local, device = self.local, tokens.x.device
        # without the semantic tokens of a block before
        image = tokens.context.last(math.prod(tokens.grid if local is None else local.layout))
        queries = tokens.x if self.centres is None else tokens.x + self.centres()
        views = None if local is None else local.views(device, with_semantic=True)
        return tokens.ask(queries, tokens.settle().join(image), views, tokens.layout)


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


def _positions(length: int, bins: int, points: int, like: Tensor) -> Tensor:
    """(bins, points) positions of `points` cells centred in each of `bins` windows of a line of `length` cells."""
    centres = (torch.arange(bins, device=like.device) + 0.5) * length / bins - 0.5
    return centres[:, None] + torch.arange(points, device=like.device) - (points - 1) / 2


def no_mean(vit: Backbone, tokens: int) -> str | None:
    """Why a plain ViT cannot be read through the mean of its tokens, or has too few patches for so many semantic."""
    if vit.distilled:
        return "it drops class tokens, and a distilled model's two heads read theirs"
    if vit.vit.global_pool not in ("token", "avg", "token_and_max"):
        return f"it classifies the mean of its tokens, and this backbone pools by '{vit.vit.global_pool}'"
    if math.isqrt(tokens) > min(vit.grid):
        return f"{tokens} tokens need {math.isqrt(tokens)} patches a side, and this grid is {vit.grid}"
    return None
