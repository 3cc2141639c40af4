"""Swin: stages of windowed blocks on a grid that patch merging halves (arXiv 2103.14030)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from timm.models import register_model
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock, WindowAttention
from torch import Tensor, nn

from tokenbench.backbones.base import Backbone
from tokenbench.core.attention import Attn, heads, mixed
from tokenbench.core.block import Block, Reducer
from tokenbench.core.borrowed import thirds, unmeddled
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair, cut, lay, spread

ONCE = "once"  # in `Tokens.state`: keys that several windows look at are projected once, and not in each window
STAGE = 2  # the third, which holds most blocks and where semantic tokens are made


@register_model  # type: ignore[untyped-decorator]
def swin_nano(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin in miniature, width 32, for training from nothing in minutes; `pretrained` is ignored, for there is none."""
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    size = dict(img_size=224, window_size=7, embed_dim=32, depths=(2, 2, 6, 2), num_heads=(1, 2, 4, 8))
    model = SwinTransformer(**{**size, **kwargs})
    config: Any = {
        "architecture": "swin_nano",
        "input_size": (3, 224, 224),
        "num_classes": 1000,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    model.pretrained_cfg = model.default_cfg = config
    return model


@dataclass(frozen=True)
class Stage:
    """A stage of windowed blocks: the blocks, their width, rows and columns of a window and of the map."""

    blocks: Sequence[Any]
    dim: int
    window: Pair
    layout: Pair


class SwinTurn(Block):
    """A turn on Swin: patch merging if the block is the first of a later stage, then timm's block.

    Tokens that `ask` a context attend to it by the block's own weights without relative positions, each window to its
    view. Semantic tokens, whose map is smaller than the stage's, attend in the windows `semantic_window` gives.
    """

    def __init__(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer] = ()) -> None:
        super().__init__(block, reducers)
        self.borrowed = (block, merging)
        self.halvings = halvings

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """The MLP, and patch merging with the embedding."""
        block, merging = self.borrowed[:2]
        return [("mlp", block.mlp), *([] if merging is None else [("embed", merging)])]

    def enter(self, tokens: Tokens) -> Tokens:
        """Merge patches at the start of a stage."""
        merging = self.borrowed[1]
        if merging is None:
            return tokens
        return tokens.halve(merging(tokens.x.unflatten(1, laid(tokens))).flatten(1, 2))

    def whole(self, tokens: Tokens) -> Tokens:
        """timm's block as it is on the stage's own map; on a map of semantic tokens its parts."""
        block, layout = self.borrowed[0], laid(tokens)
        if layout == halved(tokens.grid, self.halvings):
            return tokens.with_x(block(tokens.x.unflatten(1, layout)).flatten(1, 2))
        unmeddled(block, block.attn)
        window = semantic_window(layout, block.window_size)
        out = shifted(block.attn, block.norm1(tokens.x), layout, window, any(block.target_shift_size))
        return self.mlp(tokens.with_x(tokens.x + self.dropped(1, out, tokens)))

    def attended(self, tokens: Tokens) -> Tensor:
        """(B, N, C) after timm's attention within windows, on the stage's own map, and its residual."""
        block = self.borrowed[0]
        unmeddled(block)
        out = block._attn(block.norm1(tokens.x).unflatten(1, laid(tokens)))
        x: Tensor = tokens.x + block.drop_path1(out.flatten(1, 2))
        return x

    def attention(self, tokens: Tokens) -> tuple[Tokens, Attn]:
        """Cross-attention to the context.

        Raises:
            ValueError: there is no context, or a reducer wants to change attention, which it cannot on Swin.
        """
        block, context, views, layout = self.borrowed[0], tokens.context, tokens.views, laid(tokens)
        if context is None or self._at("attention"):
            raise ValueError("Attention within windows cannot be asked for; let a reducer stand before or after.")
        unmeddled(block, block.attn)
        y, keys, window = block.norm1(tokens.x), block.norm1(context.x), layout
        if views is not None:
            whole = halved(tokens.grid, self.halvings)
            side = self.window
            window = (layout[0] * side[0] // whole[0], layout[1] * side[1] // whole[1])
            y = cut(y, layout, window)
        out, attn = self.cross(y, keys, views, ONCE in tokens.state)
        x = tokens.x + self.dropped(1, out if views is None else lay(out, layout, window), tokens)
        if context.source is not None:
            weights = attn.weights()
            if views is not None:
                weights = spread(weights, views, layout, window, context.count)
            made = context.mix(weights, x)
            tokens = replace(tokens, source=made.source, fused=made.fused)
        return tokens.with_x(x), attn

    def mlp(self, tokens: Tokens) -> Tokens:
        """The tokens after the MLP and its residual."""
        block = self.borrowed[0]
        return tokens.with_x(tokens.x + self.dropped(2, block.mlp(block.norm2(tokens.x)), tokens))

    @property
    def window(self) -> Pair:
        """Rows and columns of the block's windows."""
        rows, cols = self.borrowed[0].window_size
        return int(rows), int(cols)

    def cross(self, y: Tensor, keys: Tensor, views: Tensor | None, once: bool) -> tuple[Tensor, Attn]:
        """Cross-attention by the block's projections, as the function `asking` has it."""
        attn = self.borrowed[0].attn
        q, k, v = asking(attn, y, keys, views, once)
        return _out(attn, q, k, v, None), Attn(q, k, v, attn.scale, 0)

    def dropped(self, branch: int, x: Tensor, tokens: Tokens) -> Tensor:
        """What stochastic depth leaves of a residual branch, 1 or 2, of these tokens."""
        block = self.borrowed[0]
        return block.drop_path1(x) if branch == 1 else block.drop_path2(x)  # type: ignore[no-any-return]


class Swin(Backbone):
    """A timm SwinTransformer of any width, depth, image size and window, with timm's own blocks."""

    family: ClassVar[str] = "swin"
    served: ClassVar[str] = "SwinTransformer"
    windowed: ClassVar[bool] = True

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """A SwinTransformer or a subclass; not Swin V2, which timm keeps apart."""
        return isinstance(vit, SwinTransformer)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Anything but timm's own blocks in timm's own forward pass."""
        if type(vit) is not SwinTransformer or "forward" in vars(vit):
            return f"{type(vit).__name__} has a forward pass of its own"
        for stage in vit.layers:
            if type(stage.downsample) not in (PatchMerging, nn.Identity):
                return f"its stages are joined by {type(stage.downsample).__name__}, not patch merging"
            for block in stage.blocks:
                if type(block) is not SwinTransformerBlock or type(block.attn) is not WindowAttention:
                    return f"its blocks are {type(block).__name__}, not plain Swin blocks"
        return None

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(len(stage.blocks) for stage in self.vit.layers)

    @property
    def depth(self) -> int:
        """Number of blocks of all stages."""
        return sum(self.stages)

    def stage(self, index: int) -> Stage:
        """What is known of a stage."""
        blocks = self.vit.layers[index].blocks
        rows, cols = blocks[0].window_size
        return Stage(list(blocks), int(blocks[0].dim), (int(rows), int(cols)), halved(self.grid, index))

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A timm block, after the patch merging of its stage if it is the first."""
        stage, halvings = self.vit.layers[0], 0
        for stage in self.vit.layers:
            halvings += not isinstance(stage.downsample, nn.Identity)
            if index < len(stage.blocks):
                break
            index -= len(stage.blocks)
        first = index == 0 and not isinstance(stage.downsample, nn.Identity)
        return self.step(stage.blocks[index], stage.downsample if first else None, halvings, reducers)

    def step(self, block: Any, merging: nn.Module | None, halvings: int, reducers: Sequence[Reducer]) -> Block:
        """The turn of one block on a grid that has been halved `halvings` times, merging first if given."""
        return SwinTurn(block, merging, halvings, reducers)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W)."""
        return patches(self.vit.patch_embed(images))

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C): timm's own norm and head."""
        features = self.vit.norm(tokens.x)
        return self.vit.head(features.unflatten(1, laid(tokens))), features


def patches(x: Tensor) -> Tokens:
    """The tokens of an embedded map (B, rows, columns, C)."""
    grid = (int(x.shape[1]), int(x.shape[2]))
    return Tokens(x.flatten(1, 2), 0, grid, layout=grid)


def official(name: str) -> str:
    """A parameter's name in Swin's own code: patch merging ends a stage there and begins one in timm, whose head is a
    module.
    """
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
    return name.replace("head.fc.", "head.")


def laid(tokens: Tokens) -> Pair:
    """Rows and columns the tokens lie in; `ValueError` if in no grid."""
    if tokens.layout is None:
        raise ValueError("Swin's windows need tokens that lie in a grid; give `ask` and `mix` their layout.")
    return tokens.layout


def halved(grid: Pair, times: int) -> Pair:
    """The grid after so many patch mergings, rounded up at each."""
    return (-(-grid[0] // 2**times), -(-grid[1] // 2**times))


def whole_windows(vit: Any, side: int) -> str | None:
    """The reason if the third stage is not whole windows of more than `side` tokens a side, else None."""
    if len(vit.stages) <= STAGE:
        return f"it works in the third stage, and this backbone has {len(vit.stages)}"
    if not getattr(vit.vit.patch_embed, "strict_img_size", True):
        return "it needs one image size, and this backbone takes any"
    grid, window = vit.stage(STAGE).layout, vit.stage(STAGE).window
    if grid[0] % window[0] or grid[1] % window[1]:
        return f"its windows of {window[0]}x{window[1]} tokens do not divide the third stage's map {grid[0]}x{grid[1]}"
    if side >= min(window):
        return f"{side * side} tokens are as many as a window of {window[0]}x{window[1]} has along a side, or more"
    return None


def semantic_window(layout: Pair, window: Pair) -> Pair:
    """The largest window no larger than the block's that divides a map of semantic tokens, so that none is padded."""
    rows, cols = (max(d for d in range(1, w + 1) if n % d == 0) for n, w in zip(layout, window, strict=True))
    return rows, cols


def asking(attn: Any, y: Tensor, keys: Tensor, views: Tensor | None, once: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B * W, H, M, d), keys and values (B * W, H, K, d) of cross-attention without relative positions.

    Args:
        attn: a module with one layer, `qkv`, for all three.
        y: (B * W, M, C) normalised tokens that ask, window by window.
        keys: (B, N, C) normalised tokens to attend to.
        views: (W, K) places among them that each window looks at; None: one window that looks at all.
        once: project them before windows take theirs, which gives the same for less; or after.
    """
    (q,) = heads(thirds(attn.qkv, y, 0, 1), attn.num_heads, 1)
    if views is None or once:
        k, v = heads(thirds(attn.qkv, keys, 1, 3), attn.num_heads, 2)
        if views is not None:
            k, v = (t[:, :, views].transpose(1, 2).flatten(0, 1) for t in (k, v))
        return q, k, v
    k, v = heads(thirds(attn.qkv, keys[:, views].flatten(0, 1), 1, 3), attn.num_heads, 2)
    return q, k, v


def shifted(attn: Any, y: Tensor, layout: Pair, window: Pair, shift: bool, always: bool = False) -> Tensor:
    """A `WindowAttention` in windows no larger than its own, which take the middle of its table of positions.

    Args:
        attn: timm's module.
        y: (B, N, C) normalised tokens.
        layout: rows and columns of the tokens.
        window: rows and columns of a window; divides the layout.
        shift: whether windows are shifted by half of their size, along sides of more than one window.
        always: along sides of one window too.
    """
    roll = [w // 2 if shift and (always or n > w) else 0 for n, w in zip(layout, window, strict=True)]
    grid: Tensor = y.unflatten(1, layout)
    if any(roll):
        grid = grid.roll((-roll[0], -roll[1]), (1, 2))
    windows = cut(grid.flatten(1, 2), layout, window)
    q, k, v = heads(attn.qkv(windows), attn.num_heads, 3)
    (h, w), area = window, window[0] * window[1]
    index: Tensor = attn.relative_position_index.reshape(*attn.window_size, *attn.window_size)[:h, :w, :h, :w]
    bias = attn.relative_position_bias_table[index.reshape(-1)].reshape(area, area, -1).permute(2, 0, 1)[None]
    if any(roll):
        apart = _apart(layout, window, roll, y.device)  # (W, area, area)
        bias = (bias + apart.to(bias.dtype).unsqueeze(1) * -100.0).repeat(y.shape[0], 1, 1, 1)
    grid = lay(_out(attn, q, k, v, bias), layout, window).unflatten(1, layout)
    if any(roll):
        grid = grid.roll((roll[0], roll[1]), (1, 2))
    return grid.flatten(1, 2)


def _apart(layout: Pair, window: Pair, roll: Sequence[int], device: torch.device) -> Tensor:
    """(W, area, area) whether two tokens of a shifted window come from opposite sides of the map."""
    sides = []
    for n, w, r in zip(layout, window, roll, strict=True):
        place = torch.arange(n, device=device)
        sides.append((place >= n - w).long() + (place >= n - r).long() * int(r > 0))
    regions = (sides[0][:, None] * 3 + sides[1]).flatten()[None, :, None]
    parts = cut(regions, layout, window).squeeze(-1)
    apart: Tensor = parts[:, :, None] != parts[:, None, :]
    return apart


def _out(attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = attn.proj_drop(attn.proj(mixed(attn, q, k, v, bias).transpose(1, 2).flatten(2)))
    return out
