"""What a block of DiffRate does at given counts (arXiv 2305.17997)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens


class PruneMerge(Reducer):
    """Sort by class attention, drop the last, and merge the next to last into those most like them.

    Args:
        prune: tokens left after dropping, the class token included.
        merge: tokens left after merging.
    """

    def __init__(self, prune: int, merge: int) -> None:
        super().__init__()
        self.prune, self.merge = prune, merge

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        if attn is None:
            return tokens
        left = min(self.prune - 1, tokens.count - tokens.prefix)
        order = attn.class_row().argsort(dim=1, descending=True, stable=True)
        tokens = tokens.keep(order[:, :left])
        count = min(self.merge - 1, left)
        if count == left:
            return tokens
        unit = F.normalize(tokens.patches, dim=-1)
        similar, nearest = (unit[:, count:] @ unit[:, :count].transpose(1, 2)).max(dim=-1)
        own = torch.arange(count, device=order.device).expand(order.shape[0], -1)
        sizes = tokens.sizes()
        head, dst, src = sizes.split([tokens.prefix, count, left - count], dim=1)
        size = torch.cat([head, dst.scatter_add(1, nearest, src * similar).clamp(min=1.0)], dim=1)
        plain = torch.ones_like(tokens.patches[..., 0])
        return tokens.group(torch.cat([own, nearest], dim=1), count, weights=plain).sized(size)
