"""Cropr: after every block a learned query keeps the tokens that it scores highest (arXiv 2412.00965)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Output, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Kind, Method, Paper
from tokenbench.methods.recipe import DEIT, Recipe
from tokenbench.methods.released import Release, Stored

WAITING = "cropr.waiting"
GUESSES = "cropr.guesses"


class Router(Reducer):
    """Scores tokens by learned queries; in training with `heads` its attention feeds a classifier of its own."""

    where: ClassVar = "after"

    def __init__(self, drops: int, dim: int, classes: int, method: Cropr) -> None:
        super().__init__()
        self.drops = drops
        self.queries = nn.Parameter(torch.randn(1, method.queries, dim) * 0.02)
        self.attn_norm = nn.LayerNorm(dim, eps=1e-6) if method.norm else nn.Identity()
        self.k = nn.Linear(dim, dim) if method.project else nn.Identity()
        self.guess = Guess(dim, classes, method.query_heads, method.mlp_ratio) if method.heads else None

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """After the block's MLP; the gradients of a classifier stop here."""
        x = tokens.x.detach()
        keys = self.k(self.attn_norm(x))
        scores = (keys @ self.queries.transpose(1, 2)).sum(-1)[:, tokens.prefix :]  # of all heads and queries
        order = scores.argsort(dim=1, descending=True)
        count = max(1, order.shape[1] - self.drops)
        if self.guess is not None and self.training:
            guess = self.guess(self.queries, keys, x)
            tokens = tokens.store(GUESSES, (*tokens.state.get(GUESSES, ()), guess))
        kept = tokens.keep(order[:, :count])
        if not self.method.fusion:
            return kept
        return kept.store(WAITING, (*tokens.state.get(WAITING, ()), tokens.keep(order[:, count:])))


class Guess(nn.Module):
    """Training only: class logits (B, classes) of what the queries find."""

    def __init__(self, dim: int, classes: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads, hidden = heads, int(dim * mlp_ratio)
        self.proj = nn.Linear(dim, dim) if heads > 1 else nn.Identity()
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.head = nn.Linear(dim, classes)

    def forward(self, queries: Tensor, keys: Tensor, x: Tensor) -> Tensor:
        """Queries (1, Q, C), keys and tokens (B, N, C); several queries are averaged."""
        split = [t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (queries, keys, x)]
        logits = split[0] @ split[1].transpose(2, 3) * split[0].shape[-1] ** -0.5  # (B, H, Q, N)
        y = self.proj((logits.softmax(dim=-1) @ split[2]).transpose(1, 2).flatten(2))
        y = y + self.mlp(self.mlp_norm(y))
        guess: Tensor = self.head(self.norm(y.mean(1)))
        return guess


class Fuse(Reducer):
    """Last-layer fusion: all dropped tokens, as they were when dropped, go through the last block."""

    where: ClassVar = "before"

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        """Before the last block."""
        for waiting in tokens.state.get(WAITING, ()):
            tokens = tokens.join(waiting)
        return tokens.store(WAITING, ())


class Cropr(Method):
    """Cropr: after every block a learned query keeps all but r tokens; before the last block all come back."""

    name = "cropr"
    kind: ClassVar[Kind | None] = "recovers"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "outputs, losses and gradients of the published code"
    paper: ClassVar[Paper | None] = Paper("Token Cropr: Faster ViTs for Quite a Few Tasks", "2412.00965", "CVPR 2025")
    trained: ClassVar[bool] = True
    main: ClassVar[str | None] = "r"
    neutral: ClassVar[Mapping[str, Any] | None] = {"r": 0}
    trial: ClassVar[Mapping[str, Any]] = {"r": 2, "heads": True}
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "finetune": DEIT.change(
            {
                "epochs": 30,
                "warmup_epochs": 5,
                "start": "dense",
                "knobs": {"heads": True},
                "source": "auxiliary heads of arXiv 2412.00965; epochs and augmentation are tokenbench's own, untuned",
            }
        )
    }
    in_training: ClassVar[frozenset[str]] = frozenset({"heads", "query_heads", "mlp_ratio"})
    notes = "The first module drops r + 1 tokens. Set drop-path to 0 in the last block when training."

    r: int = Field(8, ge=0, description="tokens dropped after each block; one more after the first")
    fusion: bool = Field(True, description="last-layer fusion: dropped tokens come back before the last block")
    queries: int = Field(1, ge=1, description="number of queries of each module")
    norm: bool = Field(False, description="normalise tokens before they are scored")
    project: bool = Field(False, description="score a linear layer's output in place of the tokens")
    heads: bool = Field(False, description="training: a classifier on each module, without which none learns")
    query_heads: int = Field(1, ge=1, description="training: attention heads of each module")
    mlp_ratio: float = Field(1.0, gt=0, description="training: width of each module's MLP, as a share of the model's")

    def supports(self, vit: Backbone) -> str | None:
        """Enough patches for all modules."""
        blocks, patches = self._blocks(vit), vit.grid[0] * vit.grid[1]
        if self.r and self.r * len(blocks) + 1 >= patches:
            return f"{len(blocks)} modules drop {self.r * len(blocks) + 1} tokens, and it has {patches} patches"
        if vit.dim % self.query_heads:
            return f"its width {vit.dim} does not divide by query_heads={self.query_heads}"
        return None

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """A module after every block but the last, or with fusion the last two."""
        if self.r == 0:
            return {}
        classes = int(vit.vit.num_classes)
        found: dict[int, Sequence[Reducer]] = {
            block: [Router(self.r + (block == 0), vit.dim, classes, self)] for block in self._blocks(vit)
        }
        return found | ({vit.depth - 1: [Fuse()]} if self.fusion else {})

    def lean(self) -> Cropr:
        """Without the classifiers."""
        return self.model_copy(update={"heads": False})

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """Cross-entropy of the model and, summed, of all classifiers."""
        terms, guesses = super().losses(out, target, teacher), out.tokens.state.get(GUESSES, ())
        if not guesses:
            return terms
        return terms | {"modules": torch.stack([F.cross_entropy(guess, target) for guess in guesses]).sum()}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By its queries; the file does not tell how many tokens they drop."""
        queries = stored.tensors.get("cropr.0.cross_attn.queries")
        if queries is None:
            return None
        knobs = {
            "queries": queries.shape[1],
            "project": "cropr.0.cross_attn.k.weight" in stored.tensors,
            "norm": "cropr.0.cross_attn.attn_norm.weight" in stored.tensors,
        }
        return Release("benbergner/cropr", knobs, ("r", "fusion"))

    @classmethod
    def translate(cls, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Without the classifiers, and without the norm that is there twice."""
        twice = "fc_norm." if "norm.weight" in tensors else ""
        aside = re.compile(r"cropr\.\d+\.(head|cross_attn\.(mlp|mlp_norm|proj))\.")
        return {k: v for k, v in tensors.items() if not aside.match(k) and not (twice and k.startswith(twice))}

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Modules are counted from the first there, which stands after block 0 as here."""
        parts = {"guess.head": "head.head", "guess.norm": "head.norm", "guess.": "cross_attn."}
        found = super().published(names)
        for own, theirs in found.items():
            match = re.fullmatch(r"blocks\.(\d+)\.reducers\.0\.(.+)", theirs)
            if match:
                rest = next((n + match[2].removeprefix(o) for o, n in parts.items() if match[2].startswith(o)), None)
                rest = rest or f"cross_attn.{match[2]}"
                rest = rest.replace(".mlp.0.", ".mlp.fc1.").replace(".mlp.2.", ".mlp.fc2.")
                found[own] = f"cropr.{match[1]}.{rest}"
        return found

    def _blocks(self, vit: Backbone) -> range:
        return range(max(0, vit.depth - (2 if self.fusion else 1)))
