"""STViT-R's blocks for maps of any size, as detection and segmentation need them (arXiv 2303.08685).

Maps are padded to whole windows, and windows look at neighbourhoods that may reach over the border. Places there are
zero before the LayerNorm and stay among the keys unless hidden, as in the published backbone.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenbench.backbones.anysize import filled
from tokenbench.backbones.swin import laid
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair, cut, lay
from tokenbench.methods.stvit_r.blocks import Semantic, Turn, image_of

HIDDEN = -1000.0  # added to the logits of hidden keys


def generate(
    block: Semantic,
    x: Tensor,
    layout: Pair,
    window: int,
    side: int,
    reach: int,
    queries: Tensor | None = None,
    hide: bool = False,
) -> Tensor:
    """Semantic tokens (B, rows * columns, C), `side` x `side` a window of the padded map, row by row.

    Args:
        block: its weights.
        x: (B, N, C) image tokens.
        layout: their rows and columns, of any size.
        window: image tokens along a window.
        side: semantic tokens along a window.
        reach: image tokens along a window's neighbourhood, its keys.
        queries: semantic tokens that ask, in place of pooled centres.
        hide: hide keys over the border, and padded ones the way the published code does when told to: only where
            padded rows and columns meet, and along the whole of an axis that has no padding.
    """
    grid, padded = filled(x.unflatten(1, layout), (window, window))
    whole = (padded[0] // window * side, padded[1] // window * side)
    if queries is None:
        windows = cut(grid.flatten(1, 2), padded, (window, window))
        centres = F.adaptive_max_pool2d(windows.transpose(1, 2).unflatten(2, (window, window)), side)
        asking = centres.flatten(2).transpose(1, 2)
    else:
        asking = cut(queries, whole, (side, side))
    if block.conv_pos is not None:
        asking = block.conv_pos(asking, (side, side))
    hidden = _corner(grid, padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    out = _look(block, asking, grid, window, reach, hidden)
    return block.think(lay(asking + block.drop_path(out), whole, (side, side)))


def recover(
    block: Semantic,
    x: Tensor,
    layout: Pair,
    semantic: Tensor,
    window: int,
    side: int,
    reach: int,
    hide: bool = False,
) -> Tensor:
    """Image tokens (B, N, C), each window of which has looked at its neighbourhood of the semantic map.

    Args:
        block: its weights.
        x: (B, N, C) image tokens.
        layout: their rows and columns, of any size.
        semantic: (B, M, C) semantic tokens of the padded map, row by row.
        window: image tokens along a window.
        side: semantic tokens along a window.
        reach: semantic tokens along a neighbourhood.
        hide: as in `generate`; the published code counts padded image tokens on the semantic map.
    """
    grid, padded = filled(x.unflatten(1, layout), (window, window))
    whole = (padded[0] // window * side, padded[1] // window * side)
    keys = semantic.unflatten(1, whole)
    asking = cut(grid.flatten(1, 2), padded, (window, window))
    hidden = _corner(keys, padded[0] - layout[0], padded[1] - layout[1]) if hide else None
    out = lay(_look(block, asking, keys, side, reach, hidden), padded, (window, window))
    out = out.unflatten(1, padded)[:, : layout[0], : layout[1]].flatten(1, 2)
    return block.think(x + block.drop_path(out))


def _look(block: Semantic, asking: Tensor, grid: Tensor, step: int, reach: int, hidden: Tensor | None) -> Tensor:
    """What each window (B * W, m, C) finds in its neighbourhood of a map (B, rows, columns, C), `step` apart.

    Keys and values are projected once, not again in each neighbourhood; so is the zero over the border.
    """
    index = _neighbourhoods((grid.shape[1], grid.shape[2]), step, reach, grid.device)
    keys = torch.cat([grid.flatten(1, 2), grid.new_zeros(grid.shape[0], 1, grid.shape[3])], dim=1)
    kv = block.attn.kv(block.norm1(keys))[:, index].flatten(0, 1)  # (B * W, reach * reach, 2C)
    bias = None
    if hidden is not None:
        beyond = F.pad(hidden.flatten(), (0, 1), value=HIDDEN)[index]  # (W, reach * reach)
        bias = beyond.repeat(grid.shape[0], 1)[:, None, None, :]
    out: Tensor = block.layer_scale_1 * block.attn.mix(block.norm1(asking), kv, bias)[0]
    return out


def _neighbourhoods(layout: Pair, step: int, reach: int, device: torch.device) -> Tensor:
    """Places (W, reach * reach) on a map of the squares around its windows; over the border rows * columns."""
    before = (reach - step) // 2
    spans = []
    for length in layout:
        starts = torch.arange(length // step, device=device) * step - before
        spans.append(starts[:, None] + torch.arange(reach, device=device))  # (windows, reach)
    rows, cols = spans[0][:, None, :, None], spans[1][None, :, None, :]
    inside = (rows >= 0) & (rows < layout[0]) & (cols >= 0) & (cols < layout[1])
    places = torch.where(inside, rows * layout[1] + cols, layout[0] * layout[1])
    return places.flatten(2).flatten(0, 1)


def _corner(grid: Tensor, below: int, right: int) -> Tensor:
    """(rows, columns) of a map: `HIDDEN` in the last `below` rows of the last `right` columns; 0 means all of them."""
    hidden = grid.new_zeros(grid.shape[1], grid.shape[2])
    hidden[-below:, -right:] = HIDDEN
    return hidden


class DenseGenerating(Turn):
    """Image tokens step back as the context of the semantic tokens made from them, whatever the size of their map."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens of the padded map."""
        layout, window, side = laid(tokens), self.options["window"], self.options["side"]
        x = generate(self.borrowed[0], tokens.x, layout, window, side, 2 * window, hide=True)
        return tokens.ask(x, tokens, layout=(-(-layout[0] // window) * side, -(-layout[1] // window) * side))


class DenseRefining(Turn):
    """Semantic tokens look at a larger neighbourhood of the image."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Semantic tokens, the image still beside them."""
        image, window = image_of(tokens), self.options["window"]
        block, side = self.borrowed[0], self.options["side"]
        return tokens.with_x(generate(block, image.x, laid(image), window, side, 3 * window, tokens.x, hide=True))


class DenseRecovering(Turn):
    """The image tokens take from the semantic ones around them and go on alone."""

    def forward(self, tokens: Tokens) -> Tokens:
        """Image tokens."""
        image, window, side = image_of(tokens), self.options["window"], self.options["side"]
        x = recover(self.borrowed[0], image.x, laid(image), tokens.x, window, side, 9 * side, hide=True)
        return image.with_x(x)
