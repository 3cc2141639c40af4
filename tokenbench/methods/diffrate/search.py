"""DiffRate's search: how many tokens each block leaves is learnt, while the weights stay (arXiv 2305.17997, section 3).

Each block has two vectors of scores over candidate counts, for dropping and for merging. Nothing is removed in
training: masks of 0 and 1 say which tokens are there, and pass the gradient of what the scores make likely.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.diffrate.reducer import PruneMerge

COST, LEFT = "gflops", "left"  # of the blocks so far; tokens that the last of them left


class Counted(nn.Module):
    """A number of patches that is learnt: the mean over candidates, `step` apart from all patches on."""

    candidates: Tensor

    def __init__(self, patches: int, step: int) -> None:
        super().__init__()
        self.register_buffer("candidates", torch.arange(patches, 0, -step).float(), persistent=False)
        self.selected_probability = nn.Parameter(torch.zeros_like(self.candidates))

    def forward(self) -> Tensor:
        """The count, class token included: rounded up, with the gradient of the mean."""
        mean = (self.selected_probability.softmax(0) * self.candidates).sum()
        return mean + (mean.ceil() - mean).detach() + 1

    def whole(self) -> int:
        """The count as it is used."""
        return round(float(self().detach()))

    def mask(self, left: int, of: int, total: int) -> Tensor:
        """(total,) 1 for patches that stay and 0 for those that go now, the last of `of` but the first `left`.

        The gradient is that of the probability of candidates which leave each patch.
        """
        place = torch.arange(total, device=self.candidates.device)
        soft = (place < self.candidates.unsqueeze(1)).float().T @ self.selected_probability.softmax(0)
        hard = ((place < left) | (place >= of)).float()
        return hard + soft - soft.detach()


def gflops(before: Any, after: Any, dim: int) -> Any:
    """Of a block whose attention has so many tokens before it, and whose MLP, four times as wide, so many after it."""
    return (4 * before * dim**2 + 2 * before**2 * dim + 8 * after * dim**2) / 1e9


class Search(Reducer):
    """Sort by class attention, mask the last, and merge the next to last in place, by counts that are being learnt.

    Args:
        patches: of the backbone.
        step: distance of candidates.
        dim: width.
        before: GFLOPs of the stem, the head and the blocks before, in the first of these; 0 in the others.
    """

    def __init__(self, patches: int, step: int, dim: int, before: float) -> None:
        super().__init__()
        self.prune_ddp, self.merge_ddp = Counted(patches, step), Counted(patches, step)
        self.dim, self.before = dim, before

    @property
    def full(self) -> int:
        """Tokens where nothing goes, class token included."""
        return int(self.prune_ddp.candidates[0]) + 1

    def counts(self) -> tuple[int, int]:
        """Tokens left after dropping and after merging, class token included: a patch stays in any case."""
        return max(2, self.prune_ddp.whole()), max(2, self.merge_ddp.whole())

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        if attn is None:
            return tokens
        if not self.training:
            fixed: Tokens = PruneMerge(*self.counts())(tokens, attn)
            return fixed
        tokens = tokens.keep(attn.class_row().argsort(dim=1, descending=True, stable=True))
        total = tokens.count - tokens.prefix
        alive = torch.ones_like(tokens.patches[..., 0]) if tokens.alive is None else tokens.alive
        here = round(alive[0].sum().item())
        left, last = (count - 1 for count in self.counts())
        left = min(here, left)
        if left < here:
            alive = alive * self.prune_ddp.mask(left, here, total)
        last = min(left, last)
        if last < left:
            tokens = merged_in_place(tokens, last, left)
            alive = alive * self.merge_ddp.mask(last, left, total)
        return self.charged(tokens.mask(alive), here, last)

    def charged(self, tokens: Tokens, here: int, last: int) -> Tokens:
        """With the cost of this block, whose MLP runs on `last` patches; its gradient goes to both counts alike."""
        counts = self.prune_ddp() + self.merge_ddp()
        after = tokens.prefix + last + counts - counts.detach()
        before = tokens.state.get(LEFT, tokens.prefix + here)
        cost = gflops(before, after, self.dim) + self.before
        return tokens.store(COST, tokens.state.get(COST, 0.0) + cost).store(LEFT, after)


def merged_in_place(tokens: Tokens, count: int, of: int) -> Tokens:
    """The first `count` patches take those after them, up to `of`, each the one most like it, and these stay in place.

    Means are plain, and sizes grow by those of what is taken times its likeness, 1 at the least.
    """
    x, prefix = tokens.patches, tokens.prefix
    unit = F.normalize(x[:, :of].detach(), dim=-1)
    similar, nearest = (unit[:, count:] @ unit[:, :count].transpose(1, 2)).max(dim=-1)
    sizes = tokens.sizes()
    head, dst, src, rest = sizes.split([prefix, count, of - count, sizes.shape[1] - prefix - of], dim=1)
    src = (src * similar).clamp(min=1.0)
    taken = torch.ones_like(dst).scatter_add(1, nearest, torch.ones_like(src)).unsqueeze(2)
    mean = x[:, :count].scatter_add(1, nearest.unsqueeze(2).expand(-1, -1, x.shape[2]), x[:, count:of]) / taken
    grown = dst.scatter_add(1, nearest, src)
    made = tokens.with_x(torch.cat([tokens.x[:, :prefix], mean, x[:, count:]], dim=1))
    return made.sized(torch.cat([head, grown, src, rest], dim=1))
