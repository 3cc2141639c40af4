"""Plain vision transformers: every timm VisionTransformer with plain blocks.

DeiT (distilled and III too), AugReg, DINOv2 with and without registers, CLIP and SigLIP image towers, MAE, at any
image size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import Attention, AttentionPoolLatent, PatchDropout
from timm.models import register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tokenbench.backbones.base import Backbone
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens


@register_model  # type: ignore[untyped-decorator]
def deit_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT in miniature: 28x28 grey images, patch 2, so 14x14 = 196 tokens and 12 blocks as DeiT has; width 64.

    `pretrained` is ignored: the weights ship with tokenbench, not with a hub (`tokenbench.weights.checkpoints.load`).
    """
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    size = dict(img_size=28, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=12, num_heads=2)
    model = VisionTransformer(**{**size, **kwargs})
    config: Any = {
        "architecture": "deit_nano",
        "input_size": (1, 28, 28),
        "num_classes": 10,
        "mean": (0.2860,),
        "std": (0.3530,),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "license": "apache-2.0",
    }
    model.pretrained_cfg = model.default_cfg = config
    return model


class ViT(Backbone):
    """A timm VisionTransformer with plain blocks."""

    family: ClassVar[str] = "vit"
    served: ClassVar[str] = "VisionTransformer"

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """A VisionTransformer or a subclass."""
        return isinstance(vit, VisionTransformer)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Anything but plain pre-norm blocks in timm's own forward pass."""
        if type(vit) not in (VisionTransformer, VisionTransformerDistilled) or "forward" in vars(vit):
            return f"{type(vit).__name__} has a forward pass of its own"
        if isinstance(vit.patch_drop, PatchDropout):
            return "it drops patches at random in training, which hides which patch a token is"
        for block in vit.blocks:
            if type(block) is not TimmBlock:
                return f"its blocks are {type(block).__name__}, not plain pre-norm blocks"
            if type(block.attn) is not Attention:
                return f"its attention is {type(block.attn).__name__}, not plain attention"
        return None

    @property
    def prefix(self) -> int:
        """Number of class, distillation and register tokens."""
        return int(self.vit.num_prefix_tokens)

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is a class token."""
        return bool(self.vit.has_class_token)

    @property
    def distilled(self) -> bool:
        """Whether a second head reads a distillation token."""
        return isinstance(self.vit, VisionTransformerDistilled)

    def pooled(self) -> Backbone:
        """The same model, with a head that reads the mean of its patches."""
        made = PooledViT(self.vit, self.name)
        made.__dict__.update(self.__dict__)
        return made

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A timm block, as it is."""
        return Block(self.vit.blocks[index], reducers, proportional)

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of images (B, channels, H, W)."""
        x = self.vit.patch_embed(images)
        rows, cols = x.shape[1:3] if self.vit.dynamic_img_size else self.vit.patch_embed.grid_size
        x = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(x)))
        grid = (int(rows), int(cols))
        return Tokens(x, self.prefix, grid, layout=grid)

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C).

        With all prefix tokens, no sizes and no padding this is timm's own head. Otherwise mean pooling weighs tokens by
        their size (ToMe), no pooling sees padding, and a model whose prefix tokens are gone is read through the mean of
        what is left (STViT).
        """
        vit = self.vit
        features = vit.norm(tokens.x)
        pool = getattr(vit, "attn_pool", None)
        sized = tokens.size is not None and vit.global_pool in ("avg", "avgmax") and pool is None
        padded = tokens.real is not None and vit.global_pool not in ("", "token")
        if tokens.prefix == self.prefix and not sized and not padded:
            return vit.forward_head(features), features
        start = 0 if getattr(vit, "pool_include_prefix", False) else tokens.prefix
        read = features[:, start:]
        real = None if tokens.real is None else tokens.real[:, start:]
        if pool is not None:
            pooled = pool(read) if real is None else _asked(pool, read, real)
        elif vit.global_pool == "max" and tokens.prefix == self.prefix:
            pooled = _highest(read, real)
        else:
            weights = tokens.sizes()[:, start:, None]
            weights = weights if real is None else weights * real.unsqueeze(-1)
            pooled = (read * weights).sum(1) / weights.sum(1)
            if vit.global_pool == "avgmax":
                pooled = 0.5 * (pooled + _highest(read, real))
        return vit.head(vit.head_drop(vit.fc_norm(pooled))), features


class PooledViT(ViT):
    """A ViT whose head reads the norm of the mean of its patches, whatever timm's own reads."""

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C)."""
        vit = self.vit
        weights = tokens.sizes()[:, tokens.prefix :, None]
        weights = weights if tokens.present is None else weights * tokens.present.unsqueeze(-1)
        pooled = vit.fc_norm(vit.norm((tokens.patches * weights).sum(1) / weights.sum(1)))
        return vit.head(vit.head_drop(pooled)), vit.norm(tokens.x)


def _asked(pool: nn.Module, x: Tensor, real: Tensor) -> Tensor:
    """Attention pooling (B, C) of the tokens x (B, N, C) that are no padding."""
    if isinstance(pool, AttentionPoolLatent):
        hidden = torch.zeros_like(x[:, None, None, :, 0]).masked_fill(~real[:, None, None, :], float("-inf"))
        pooled: Tensor = pool(x, hidden)
        return pooled
    return torch.cat([pool(image[here][None]) for image, here in zip(x, real, strict=True)])


def _highest(x: Tensor, real: Tensor | None) -> Tensor:
    """The highest value of each channel, (B, C), over the tokens x (B, N, C) that are no padding."""
    return (x if real is None else x.masked_fill(~real.unsqueeze(-1), float("-inf"))).amax(1)
