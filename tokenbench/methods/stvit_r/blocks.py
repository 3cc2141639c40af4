"""The parts of STViT-R that are no Swin block: another patch embedding, and blocks between two maps.

Written from the paper (arXiv 2303.08685) and from outputs of the published model, which they reproduce.
Parameters are named as in the released weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, trunc_normal_, use_fused_attn
from timm.models.swin_transformer import get_relative_position_index
from torch import Tensor, nn

from tokenbench.backbones.swin import SwinTurn, laid
from tokenbench.core.attention import Attn
from tokenbench.core.block import Block
from tokenbench.core.borrowed import unmeddled
from tokenbench.core.pooling import highest
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair, crops, cut, lay, own, spread

REACH = 3  # windows of 7 look at 10x10 tokens


class Stem(nn.Module):
    """Patch embedding in two steps: convolution of stride 2, BatchNorm and Hardswish, twice."""

    def __init__(self, img_size: Pair, in_chans: int, dim: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.grid_size = (-(-img_size[0] // 4), -(-img_size[1] // 4))
        self.proj = nn.Sequential(Step(in_chans, dim // 2), nn.Hardswish(), Step(dim // 2, dim), nn.Hardswish())

    def forward(self, images: Tensor) -> Tensor:
        """A map (B, rows, columns, C) of images (B, channels, H, W), laid out so in memory too."""
        x: Tensor = self.proj(images.contiguous(memory_format=torch.channels_last))
        return x.permute(0, 2, 3, 1)


class Step(nn.Module):
    """Convolution of stride 2, without bias, and BatchNorm, which in eval mode goes into the convolution."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.c = nn.Conv2d(in_chans, dim, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.published = False  # whether BatchNorm runs by itself, as it was published

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H/2, W/2) of (B, channels, H, W)."""
        c, bn = self.c, self.bn
        if (
            self.published
            or bn.training
            or type(bn) is not nn.BatchNorm2d
            or bn.running_var is None
            or bn.running_mean is None
        ):
            y: Tensor = bn(c(x))
            return y
        gain = bn.weight * (bn.running_var + bn.eps).rsqrt()
        weight = (c.weight * gain[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, bn.bias - bn.running_mean * gain, c.stride, c.padding)


class Cross(nn.Module):
    """Attention of one set of tokens to another, or to itself with relative positions on a grid of `side`."""

    def __init__(self, dim: int, heads: int, side: Pair | None = None) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (dim // heads) ** -0.5
        self.fused_attn = use_fused_attn()
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table: nn.Parameter | None = None
        if side is not None:
            table = torch.zeros((2 * side[0] - 1) * (2 * side[1] - 1), heads)
            self.relative_position_bias_table = nn.Parameter(trunc_normal_(table, std=0.02))
            self.register_buffer("index", get_relative_position_index(*side), persistent=False)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Attn]:
        """(B, M, C) of queries x (B, M, C), keys y (B, N, C)."""
        return self.mix(x, self.kv(y))

    def mix(self, x: Tensor, kv: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Attn]:
        """As `forward`, with keys and values (B, N, 2C) projected before; `hidden` is added to the logits."""
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = kv.unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = hidden
        if self.relative_position_bias_table is not None:
            index: Any = self.index
            bias = self.relative_position_bias_table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1)[None]
        out = self.proj(self.attend(q, k, v, bias).transpose(1, 2).flatten(2))
        return out, Attn(q, k, v, self.scale, 0, bias)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Values v (B, H, N, d) mixed for queries q (B, H, M, d); `bias` is added to the logits (B, H, M, N)."""
        if self.fused_attn:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        out: Tensor = (logits if bias is None else logits + bias).softmax(dim=-1) @ v
        return out


class Positions(nn.Module):
    """Position encoding by a depthwise convolution on a grid of tokens, with a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, 1, 1, groups=dim))

    def forward(self, x: Tensor, layout: Pair) -> Tensor:
        """(B, N, C) of tokens x (B, N, C) that lie in `layout`."""
        grid = x.transpose(1, 2).unflatten(2, layout)
        out: Tensor = self.proj(grid) + grid
        return out.flatten(2).transpose(1, 2)


class Scales(nn.Module):
    """LayerScale of a Swin block's attention and MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-5))


class ScaledTurn(SwinTurn):
    """Swin's turn with LayerScale."""

    def __init__(self, block: Any, merging: nn.Module | None, halvings: int, scales: Scales) -> None:
        super().__init__(block, merging, halvings)
        self.borrowed = (block, merging, scales)

    def whole(self, tokens: Tokens) -> Tokens:
        """timm's block with its two branches scaled."""
        block, _, scales = self.borrowed
        unmeddled(block)
        x = tokens.x.unflatten(1, laid(tokens))
        x = x + block.drop_path1(scales.layer_scale_1 * block._attn(block.norm1(x)))
        x = x + block.drop_path2(scales.layer_scale_2 * block.mlp(block.norm2(x)))
        return tokens.with_x(x.flatten(1, 2))


class Semantic(nn.Module):
    """A transformer block whose queries and keys may differ: one LayerNorm for both, separate projections, LayerScale.

    Args:
        dim: width C.
        heads: number of heads.
        hidden: width of the MLP.
        drop_path: rate of stochastic depth.
        side: grid of relative positions, if it has any.
        conv_pos: whether pooled centres get positions by convolution.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        drop_path: float = 0.0,
        side: Pair | None = None,
        conv_pos: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Cross(dim, heads, side)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), 1e-5))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), 1e-5))
        self.drop_path = DropPath(drop_path)
        self.conv_pos = Positions(dim) if conv_pos else None
        self.published = False  # whether it runs in the form that was published, whose multiply-adds are counted
        self.apply(_initial)

    def look(self, x: Tensor, y: Tensor, weigh: bool) -> tuple[Tensor, Tensor | None]:
        """Scaled attention (B, M, C) of x (B, M, C) to y (B, N, C), without residual; its weights if asked for."""
        out, attn = self.attn(self.norm1(x), self.norm1(y))
        return self.layer_scale_1 * out, attn.weights() if weigh else None

    def think(self, x: Tensor) -> Tensor:
        """The MLP with its residual."""
        out: Tensor = x + self.drop_path(self.layer_scale_2 * self.mlp(self.norm2(x)))
        return out

    def forward(self, x: Tensor, y: Tensor | None = None, weigh: bool = False) -> tuple[Tensor, Tensor | None]:
        """The whole block: (B, M, C) of x (B, M, C), which looks at y (B, N, C) or at itself.

        With `weigh` its attention too, mean over heads: (B, M, N).
        """
        out, weights = self.look(x, x if y is None else y, weigh)
        return self.think(x + self.drop_path(out)), weights

    def generate(
        self,
        x: Tensor,
        layout: Pair,
        window: Pair,
        side: int,
        residual: bool,
        queries: Tensor | None = None,
        weigh: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Semantic tokens of an image map, `side` x `side` a window.

        Args:
            x: (B, N, C) image tokens.
            layout: their rows and columns.
            window: rows and columns of a window.
            side: semantic tokens along a window.
            residual: whether the pooled centres are added to what they found.
            queries: (B, M, C) what asks in place of pooled centres, row by row.
            weigh: whether to return attention.

        Returns:
            (B, M, C) row by row, and with `weigh` the attention of each window to [its centres; its enlarged window],
            mean over heads.
        """
        small = (side, side)
        whole = (layout[0] // window[0] * side, layout[1] // window[1] * side)
        if queries is None:
            centres = cut(x, layout, window).unflatten(1, window).permute(0, 3, 1, 2)
            centres = highest(centres, side).flatten(2).transpose(1, 2)  # (B * W, side * side, C)
        else:
            centres = cut(queries, whole, small)
        if self.conv_pos is not None:
            centres = self.conv_pos(centres, small)
        views = crops(layout, window, REACH, x.device)  # (W, 100)
        if self.published:
            out, weights = self.look(centres, torch.cat([centres, _seen(x, views)], dim=1), weigh)
        else:  # keys are projected once, and not in each window that looks at them
            asking = self.norm1(centres)
            kv = torch.cat([self.attn.kv(asking), _seen(self.attn.kv(self.norm1(x)), views)], dim=1)
            found, attn = self.attn.mix(asking, kv)
            out, weights = self.layer_scale_1 * found, attn.weights() if weigh else None
        return self.think(lay(centres + out if residual else out, whole, small)), weights


class Turn(Block):
    """A turn of the loop on a Semantic block, with or without semantic tokens kept beside the image's."""

    def __init__(self, block: Semantic, **options: Any) -> None:
        super().__init__(block)
        self.options: Mapping[str, Any] = options


class Generating(Turn):
    """Image tokens step back as the context of the semantic tokens made from them."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens, (B, windows * side * side, C)."""
        layout, window, side = laid(tokens), self.options["window"], self.options["side"]
        x, weights = self.borrowed[0].generate(
            tokens.x, layout, window, side, self.options["residual"], weigh=tokens.source is not None
        )
        whole = (layout[0] // window[0] * side, layout[1] // window[1] * side)
        made = tokens.ask(x, tokens, layout=whole)
        if weights is None:
            return made
        pooled, seen = weights.split([side * side, weights.shape[2] - side * side], dim=2)
        views = crops(layout, window, REACH, x.device)
        # a pooled centre stands for its window: the share it is given goes to the window's tokens alike
        whole_window = pooled.sum(2, keepdim=True).expand(-1, -1, window[0] * window[1]) / (window[0] * window[1])
        every = spread(seen, views, whole, (side, side), tokens.count)
        every = every + spread(whole_window, own(layout, window, x.device), whole, (side, side), tokens.count)
        mixed = tokens.mix(every, x)
        return replace(made, source=mixed.source, fused=mixed.fused)


class Refining(Turn):
    """Semantic tokens, with global centres if there are any, look at themselves and the image."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens, the image still beside them."""
        image, centres = image_of(tokens), self.options["centres"]
        asking = tokens.x if centres is None else tokens.x + centres
        both = tokens.settle().join(image)
        x, weights = self.borrowed[0](asking, both.x, both.source is not None)
        if weights is None:
            return tokens.with_x(x)
        mixed = both.mix(weights, x)
        return replace(tokens.with_x(x), source=mixed.source, fused=mixed.fused)


class Alone(Turn):
    """Semantic tokens among themselves, all or in the windows they came from."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens, the image still beside them."""
        window = self.options["window"]
        if window is None:
            return tokens.with_x(self.borrowed[0](tokens.x)[0])
        layout = laid(tokens)
        return tokens.with_x(lay(self.borrowed[0](cut(tokens.x, layout, window))[0], layout, window))


class Recovering(Turn):
    """The image tokens take from the semantic ones and go on alone."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Image tokens."""
        image = image_of(tokens)
        return image.with_x(self.borrowed[0](image.x, tokens.x)[0])


def image_of(tokens: Tokens) -> Tokens:
    """The image tokens that wait beside semantic ones; `ValueError` if there are none."""
    if tokens.context is None:
        raise ValueError("There are no image tokens beside these to recover; generate semantic tokens first.")
    return tokens.context


def _seen(x: Tensor, views: Tensor) -> Tensor:
    """What each window sees, (B * W, K, C), of a map x (B, N, C) by places (W, K)."""
    seen: Tensor = x.index_select(1, views.flatten()).unflatten(1, views.shape)
    return seen.flatten(0, 1)


def _initial(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
