"""Families whose blocks read where each token lies: RoPE (EVA-02, DINOv3) and relative positions (BEiT).

A mark follows each token and says where it lay at first; its angles, or its rows and columns of the table, are picked
by it. So tokens may be dropped and reordered, and come back; what is made of several would lie nowhere, and is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import AttentionRope, apply_rot_embed_cat
from timm.models.beit import Beit as TimmBeit
from timm.models.eva import Eva as TimmEva
from timm.models.eva import EvaAttention, EvaBlock
from torch import Tensor, nn

from tokenbench.backbones.vit import ViT
from tokenbench.core.attention import heads
from tokenbench.core.block import Block, Reducer
from tokenbench.core.borrowed import meddled
from tokenbench.core.tokens import PLACE, Tokens
from tokenbench.errors import Unsupported

ANGLES = "placed.angles"
FIRST = "placed.first"


def placed(tokens: Tokens) -> Tokens:
    """Tokens with their places marked, from 0, prefix included; and the mark itself, to tell whether any has moved."""
    place = torch.arange(tokens.count, device=tokens.x.device).expand(tokens.x.shape[0], -1)
    return tokens.mark(PLACE, place).store(FIRST, place)


def moved(tokens: Tokens) -> bool:
    """Whether tokens have been dropped, reordered or joined."""
    return tokens.marks[PLACE] is not tokens.state[FIRST]


class PlacedTurn(Block):
    """A block whose attention has biases of its own for queries and values, and LayerScale as plain parameters."""

    def project(
        self, tokens: Tokens, y: Tensor, keys: Tensor | None, late: bool, asking: int | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, all of them, keys and values; with RoPE turned by each token's angles."""
        attn = self.borrowed[0].attn
        q, k, v = self._projected(attn, y)
        q, k = (
            self._turned(tokens, getattr(attn, norm, nn.Identity())(t)) for norm, t in (("q_norm", q), ("k_norm", k))
        )
        return q if asking is None else q[:, :, :asking], k, None if late else v

    def queries(self, tokens: Tokens, y: Tensor) -> Tensor:
        """Queries of normalised tokens."""
        attn = self.borrowed[0].attn
        return self._turned(tokens, getattr(attn, "q_norm", nn.Identity())(self._projected(attn, y)[0]))

    def values(self, y: Tensor) -> Tensor:
        """Values of normalised tokens."""
        return self._projected(self.borrowed[0].attn, y)[2]

    def scaled(self, branch: int, x: Tensor) -> Tensor:
        """gamma times x, where there is one."""
        block = self.borrowed[0]
        gamma = block.gamma_1 if branch == 1 else block.gamma_2
        return x if gamma is None else gamma * x  # type: ignore[no-any-return]

    def angles(self, tokens: Tokens) -> Tensor | None:
        """RoPE's angles of the tokens after the prefix, as timm's block takes them; None without."""
        angles: Tensor | None = tokens.state.get(ANGLES)
        if angles is None or not moved(tokens):
            return angles
        return angles[tokens.marks[PLACE][:, tokens.prefix :] - tokens.prefix].unsqueeze(1)  # (B, 1, K, 2d)

    def _turned(self, tokens: Tokens, t: Tensor) -> Tensor:
        """Queries or keys (B, H, N, d), turned by their tokens' angles."""
        angles, p = self.angles(tokens), tokens.prefix
        if angles is None:
            return t
        turned = apply_rot_embed_cat(t[:, :, p:], angles, half=self.borrowed[0].attn.rotate_half)
        return torch.cat([t[:, :, :p], turned], dim=2).type_as(t)

    def _projected(self, attn: Any, y: Tensor) -> tuple[Tensor, ...]:
        if attn.qkv is None:
            return tuple(heads(layer(y), attn.num_heads, 1)[0] for layer in (attn.q_proj, attn.k_proj, attn.v_proj))
        if getattr(attn, "q_bias", None) is None:
            return heads(attn.qkv(y), attn.num_heads, 3)
        bias = torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
        if attn.qkv_bias_separate:
            return heads(attn.qkv(y) + bias, attn.num_heads, 3)
        if type(attn.qkv) is not nn.Linear or meddled(attn.qkv):
            raise Unsupported(
                f"timm's {type(attn).__name__} reads the weights of attn.qkv and does not call it, so what hangs on it "
                "would be passed over; merge it into the weights, or put it on attn.proj or mlp."
            )
        given = F.linear(y, attn.qkv.weight, bias)
        return heads(given, attn.num_heads, 3)


class RotaryTurn(PlacedTurn):
    """A block of timm's Eva."""

    def whole(self, tokens: Tokens) -> Tokens:
        """timm's block, called as it is."""
        return tokens.with_x(self.borrowed[0](tokens.x, rope=self.angles(tokens)))


class RelativeTurn(PlacedTurn):
    """A block of BEiT: a bias for each pair of places, picked for the tokens that are left."""

    def _plain(self, tokens: Tokens) -> bool:
        return super()._plain(tokens) and not moved(tokens)

    def _bias(self, keys: Tokens) -> Tensor | None:
        """(B, H, N, N), or (1, H, N, N) while all tokens are in their places."""
        bias: Tensor = self.borrowed[0].attn._get_rel_pos_bias()
        if moved(keys):
            place = keys.marks[PLACE]
            bias = bias[0][:, place[:, :, None], place[:, None, :]].transpose(0, 1)
        other = super()._bias(keys)
        return bias if other is None else bias + other


class Rotary(ViT):
    """A timm Eva with RoPE, or with absolute positions only: EVA-02, DINOv3, the ViTs with RoPE of timm."""

    family: ClassVar[str] = "eva"
    served: ClassVar[str] = "Eva"
    placed: ClassVar[bool] = True

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """An Eva."""
        return isinstance(vit, TimmEva)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Post-norm blocks, angles of each block's own, and keys that several heads share."""
        if type(vit) is not TimmEva or "forward" in vars(vit):
            return f"{type(vit).__name__} has a forward pass of its own"
        if vit.rope_mixed:
            return "its RoPE has angles of its own in every block and head"
        if vit.patch_drop is not None:
            return "it drops patches at random in training, which hides which patch a token is"
        for block in vit.blocks:
            if type(block) is not EvaBlock:
                return f"its blocks are {type(block).__name__}, not pre-norm blocks"
            if type(block.attn) not in (EvaAttention, AttentionRope):
                return f"its attention is {type(block.attn).__name__}"
            if getattr(block.attn, "num_kv_groups", 1) > 1:
                return "several of its heads share keys"
        return None

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return self.vit.cls_token is not None

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A block that turns queries and keys by their tokens' angles."""
        return RotaryTurn(self.vit.blocks[index], reducers, proportional)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W), and what positions there are."""
        x = self.vit.patch_embed(images)
        rows, cols = x.shape[1:3] if self.vit.dynamic_img_size else self.vit.patch_embed.grid_size
        grid = (int(rows), int(cols))
        x, angles = self.vit._pos_embed(x)
        return placed(Tokens(self.vit.norm_pre(x), self.prefix, grid, layout=grid)).store(ANGLES, angles)


class Beit(ViT):
    """A timm BEiT or BEiT-v2."""

    family: ClassVar[str] = "beit"
    served: ClassVar[str] = "Beit"
    placed: ClassVar[bool] = True

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """A Beit."""
        return isinstance(vit, TimmBeit)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Models that share one table among blocks, or have none."""
        if type(vit) is not TimmBeit or "forward" in vars(vit):
            return f"{type(vit).__name__} has a forward pass of its own"
        if vit.rel_pos_bias is not None or any(b.attn.relative_position_bias_table is None for b in vit.blocks):
            return "its blocks have no table of relative positions each"
        return None

    @property
    def has_class_token(self) -> bool:
        """It has."""
        return True

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A block that reads the places of its tokens."""
        return RelativeTurn(self.vit.blocks[index], reducers, proportional)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of images (B, channels, H, W)."""
        vit = self.vit
        x = vit.patch_embed(images)
        x = torch.cat((vit.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = vit.pos_drop(x if vit.pos_embed is None else x + vit.pos_embed)
        return placed(Tokens(x, 1, self.grid, layout=self.grid))
