"""GTP: the least important tokens of every block are spread over their neighbours in a graph (arXiv 2311.03035)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.rows import take
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper, Places, Reported
from tokenbench.methods.tome import schedule

GRAPH = "gtp.graph"


def grid_graph(grid: tuple[int, int], device: torch.device) -> Tensor:
    """(P, P) True where two cells of a grid touch, corners included."""
    cells = torch.cartesian_prod(*(torch.arange(side, device=device) for side in grid))  # (P, 2)
    apart = (cells[:, None] - cells[None]).abs().amax(-1)
    return apart == 1


def likeness_graph(x: Tensor, neighbours: int) -> Tensor:
    """(B, P, P) True at the other tokens most like each, by the cosine of x (B, P, C)."""
    x = F.normalize(x, dim=-1)
    likeness = x @ x.transpose(1, 2)
    place = max(1, x.shape[1] - neighbours)
    near = likeness >= likeness.kthvalue(place, dim=2, keepdim=True).values
    return near & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)


def normalised(graph: Tensor) -> Tensor:
    """D^-1/2 G D^-1/2 of a graph (B, P, P), D the number of each patch's neighbours."""
    root = graph.sum(2).clamp(min=1).rsqrt().diag_embed()
    return root @ graph @ root


class Graph(Reducer):
    """Which patches are neighbours, made once of the embedded patches."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the first block."""
        x, kind = tokens.patches, self.method.graph
        touching = grid_graph(tokens.grid, x.device).unsqueeze(0)
        if kind == "spatial":
            graph = touching.expand(x.shape[0], -1, -1)
        else:
            graph = likeness_graph(x, self.method.neighbours)
            graph = graph | touching if kind == "mixed" else graph
        return tokens.store(GRAPH, normalised(graph.to(x.dtype)))


class Thin(Reducer):
    """Leave the smallest entries of each head's attention out; the others stay as they are."""

    where: ClassVar = "attention"
    matrix: ClassVar[bool] = True

    def forward(self, tokens: Tokens, attn: Attn | None) -> Any:
        """Once attention is written out."""
        if attn is None or attn.matrix is None:
            return tokens, attn
        entries = attn.matrix.flatten(2)
        place = int(entries.shape[2] * (1 - self.method.sparsity))
        if place < 1:
            return tokens, attn
        least = entries.kthvalue(place, dim=2).values[..., None, None]
        return tokens, replace(attn, matrix=attn.matrix.masked_fill(attn.matrix < least, 0.0))


class Propagate(Reducer):
    """Spread the tokens of lowest score over those that stay, which go on in order of score."""

    def __init__(self, count: int, selection: str) -> None:
        super().__init__()
        self.count = count
        self.matrix = selection == "mixed"  # type: ignore[misc]

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Between attention and MLP."""
        left = tokens.count - tokens.prefix
        count = left - min(self.count, left - 1)
        if attn is None or count == left:
            return tokens
        if self.matrix and attn.matrix is not None:
            own = attn.matrix.diagonal(dim1=-2, dim2=-1).amax(1)
            scores = (own * attn.received().amax(1))[:, tokens.prefix :]
        else:
            scores = attn.class_row()
        order = scores.argsort(dim=1, descending=True)
        kept, gone = order[:, :count], order[:, count:]
        if GRAPH not in tokens.state:
            return tokens.keep(kept)
        if self.method.scale and tokens.size is None:
            tokens = replace(tokens, size=tokens.sizes())
        rows = take(tokens.state[GRAPH], kept)
        near, to = (rows.gather(2, places.unsqueeze(1).expand(-1, count, -1)) for places in (kept, gone))
        return tokens.keep(kept).absorb(tokens.keep(gone), self.method.alpha * to).store(GRAPH, near)


class GTP(Method):
    """GTP: in every block the tokens of lowest score go, and their neighbours take a share of what they were."""

    name = "gtp"
    kind: ClassVar[Kind | None] = "merges"
    licence: ClassVar[str] = "Apache-2.0"
    held: ClassVar[str] = "outputs of the published code"
    paper: ClassVar[Paper | None] = Paper(
        "GTP-ViT: Efficient Vision Transformers via Graph-based Token Propagation", "2311.03035", "WACV 2024"
    )
    main: ClassVar[str | None] = "p"
    neutral: ClassVar[Mapping[str, Any] | None] = {"p": 0}
    trial: ClassVar[Mapping[str, Any]] = {"p": 2}
    notes = (
        "sparsity and alpha are searched for each p by evaluation; the defaults are untuned. Thinning saves no GMACs."
    )
    reported = tuple(
        Reported("deit_b", {"p": p}, top1, note="sparsity and alpha tuned for each p, and not printed")
        for p, top1 in ((1, 81.93), (4, 81.76), (8, 81.46), (11, 81.04), (14, 80.11))
    )

    p: int | Places = Field(8, description="tokens that go in each block: one number, or one a block (8/8/4)")
    sparsity: float = Field(1.0, gt=0, le=1, description="share of each head's attention that is kept")
    alpha: float = Field(0.3, ge=0, description="how much of a token its neighbours take")
    selection: Literal["mixed", "class"] = Field(
        "mixed", description="scores: attention to itself times attention received, or the class token's attention"
    )
    graph: Literal["mixed", "spatial", "likeness", "none"] = Field(
        "mixed", description="neighbours: in the grid, most alike, or both; none spreads nothing"
    )
    neighbours: int = Field(8, ge=1, description="how many of the most alike are neighbours")
    scale: bool = Field(True, description="add the log of what tokens hold to the attention logits")

    @property
    def proportional(self) -> bool:
        """By what each token holds, unless switched off."""
        return self.scale

    def supports(self, vit: Backbone) -> str | None:
        """Enough patches; a class token where that scores."""
        counts, patches = self._counts(vit), vit.grid[0] * vit.grid[1]
        if min(counts) < 0:
            return "p must be 0 or more"
        if isinstance(self.p, tuple) and len(self.p) > vit.depth:
            return f"p lists {len(self.p)} blocks, and this backbone has {vit.depth}"
        if sum(counts) >= patches:
            return f"its blocks let {sum(counts)} tokens go, and it has {patches} patches"
        if self.selection == "class" and not vit.has_class_token:
            return "it scores patches by the attention of a class token, and this backbone has none"
        if self.graph in ("mixed", "likeness") and self.neighbours >= patches:
            return f"neighbours={self.neighbours} is more than the others of its {patches} patches"
        return None

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """One propagation a block, and the graph before the first."""
        counts = self._counts(vit)
        if not any(counts):
            return {}
        thin: list[Reducer] = [Thin()] if self.sparsity < 1 else []
        found: dict[int, Sequence[Reducer]] = {
            block: [*thin, *([Propagate(count, self.selection)] if count else [])] for block, count in enumerate(counts)
        }
        graph: list[Reducer] = [] if self.graph == "none" else [Graph()]
        return found | {0: [*graph, *found[0]]}

    def _counts(self, vit: Backbone) -> list[int]:
        return schedule(self.p, 0.0, vit.depth)
