"""Adapters for timm families: how a model embeds images, which blocks the loop runs, and how its head reads tokens.

Every timm VisionTransformer with plain blocks is served: DeiT (distilled and III too), AugReg, DINOv2 with and without
registers, CLIP and SigLIP image towers, MAE, at any image size. What cannot be served is refused with the reason.
"""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from timm.layers import Attention, PatchDropout
from timm.models import register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from tokenbench.errors import BadSetting, UnknownName, Unsupported
from tokenbench.tokens import Tokens

SHORT_NAMES = {
    "deit_nano": "deit_nano",
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "deit_t_distilled": "deit_tiny_distilled_patch16_224",
    "deit_s_distilled": "deit_small_distilled_patch16_224",
    "deit_b_distilled": "deit_base_distilled_patch16_224",
    "deit3_s": "deit3_small_patch16_224",
    "deit3_b": "deit3_base_patch16_224",
    "vit_ti": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
    "vit_l": "vit_large_patch16_224",
    "mae_b": "vit_base_patch16_224.mae",
    "dinov2_s": "vit_small_patch14_dinov2",
    "dinov2_b": "vit_base_patch14_dinov2",
    "dinov2_reg_s": "vit_small_patch14_reg4_dinov2",
    "dinov2_reg_b": "vit_base_patch14_reg4_dinov2",
    "clip_b": "vit_base_patch16_clip_224",
    "siglip_b": "vit_base_patch16_siglip_224",
}


@register_model  # type: ignore[untyped-decorator]
def deit_nano(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """DeiT in miniature: 28x28 grey images, patch 2, so 14x14 = 196 tokens and 12 blocks as DeiT has; width 64.

    `pretrained` is ignored: the weights ship with tokenbench, not with a hub (`tokenbench.checkpoints.load`).
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


class Backbone:
    """A timm VisionTransformer as the block loop sees it.

    Args:
        vit: the timm model, used in place.
        name: what to call it in messages and rows.

    Raises:
        Unsupported: the model is not a VisionTransformer with plain blocks; the message says what differs.
    """

    def __init__(self, vit: nn.Module, name: str | None = None) -> None:
        self.name = name or type(vit).__name__
        reason = _refusal(vit)
        if reason:
            raise Unsupported(f"{self.name} cannot be served: {reason}. See `tokenbench list --backbones`.")
        self.vit: Any = vit

    @property
    def dim(self) -> int:
        """Width C."""
        return int(self.vit.embed_dim)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.vit.blocks)

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

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches at the model's own image size."""
        rows, cols = self.vit.patch_embed.grid_size
        return int(rows), int(cols)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        height, width = self.vit.patch_embed.img_size
        return int(self.vit.in_chans), int(height), int(width)

    @property
    def config(self) -> dict[str, Any]:
        """timm's `pretrained_cfg`, with the input size the model has now; only that of a model not made by timm."""
        return {**getattr(self.vit, "pretrained_cfg", {}), "input_size": self.input_size}

    def blocks(self) -> list[nn.Module]:
        """The blocks, in order."""
        return list(self.vit.blocks)

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of images (B, channels, H, W)."""
        x = self.vit.patch_embed(images)
        rows, cols = x.shape[1:3] if self.vit.dynamic_img_size else self.vit.patch_embed.grid_size
        x = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(x)))
        return Tokens(x, self.prefix, (int(rows), int(cols)))

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C).

        With all prefix tokens and no sizes this is timm's own head. Otherwise mean pooling weighs tokens by their
        size (ToMe), and a model whose prefix tokens are gone is read through the mean of what is left (STViT).
        """
        vit = self.vit
        features = vit.norm(tokens.x)
        sized = tokens.size is not None and vit.global_pool in ("avg", "avgmax") and vit.attn_pool is None
        if tokens.prefix == self.prefix and not sized:
            return vit.forward_head(features), features
        if vit.attn_pool is not None:
            pooled = vit.attn_pool(features)
        else:
            start = 0 if vit.pool_include_prefix else tokens.prefix
            weights = tokens.sizes()[:, start:, None]
            pooled = (features[:, start:] * weights).sum(1) / weights.sum(1)
            if vit.global_pool == "avgmax":
                pooled = 0.5 * (pooled + features[:, start:].amax(1))
        return vit.head(vit.head_drop(vit.fc_norm(pooled))), features


def full_name(name: str) -> str:
    """timm's name for a short one; raises `UnknownName` for a name timm does not know either."""
    full = SHORT_NAMES.get(name, name)
    architecture = full.removeprefix("hf-hub:").split(".")[0]
    if not full.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(architecture):
        raise UnknownName("backbone", name, [*SHORT_NAMES, *timm.list_models()], "`tokenbench list --backbones`")
    return full


def create(name: str, image_size: tuple[int, int] | None = None, classes: int | None = None) -> Backbone:
    """A backbone with random weights by short or timm name.

    Args:
        name: a short name (`deit_s`) or any timm name.
        image_size: height and width, if other than the model's own.
        classes: number of classes, if other than the model's own.
    """
    full = full_name(name)
    kwargs: dict[str, Any] = {}
    if image_size is not None:
        kwargs["img_size"] = image_size
    if classes is not None:
        kwargs["num_classes"] = classes
    try:
        return Backbone(timm.create_model(full, pretrained=False, **kwargs), name)
    except TypeError as error:
        raise Unsupported(f"{name} cannot be served: it takes no {', '.join(kwargs)} ({error}).") from None
    except (AssertionError, RuntimeError, ValueError) as error:
        raise BadSetting(f"{name} cannot be built at that size: {_first_line(error)}.") from None


def _refusal(vit: nn.Module) -> str | None:
    """Why a model cannot be served, as a clause; None if it can."""
    if not isinstance(vit, VisionTransformer):
        return f"{type(vit).__name__} is not a timm VisionTransformer"
    if type(vit) not in (VisionTransformer, VisionTransformerDistilled):
        return f"{type(vit).__name__} has a forward pass of its own"
    if isinstance(vit.patch_drop, PatchDropout):
        return "it drops patches at random in training, which hides which patch a token is"
    for block in vit.blocks:
        if type(block) is not Block:
            return f"its blocks are {type(block).__name__}, not plain pre-norm blocks"
        if type(block.attn) is not Attention:
            return f"its attention is {type(block.attn).__name__}, not plain attention"
    return None


def _first_line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error).splitlines()[0] if str(error) else type(error).__name__).rstrip(".")


def random_images(backbone: Backbone, batch: int, seed: int = 0) -> Tensor:
    """Standard-normal images (B, channels, H, W) for counting and timing."""
    return torch.randn(batch, *backbone.input_size, generator=torch.Generator().manual_seed(seed))
