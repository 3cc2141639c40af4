"""Adapters for timm families: how a model embeds images, which blocks the loop runs, and how its head reads tokens.

A family is a file here. What no family serves is refused with the reason.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import use_fused_attn
from torch import Tensor, nn

from tokenbench.backbones.base import Backbone
from tokenbench.backbones.swin import Swin
from tokenbench.backbones.vit import ViT
from tokenbench.errors import BadSetting, UnknownName, Unsupported, first_line

__all__ = ["SHORT_NAMES", "Backbone", "Swin", "ViT", "create", "full_name", "random_images"]

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
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
}


def full_name(name: str) -> str:
    """timm's name for a short one; raises `UnknownName` for a name timm does not know either."""
    full = SHORT_NAMES.get(name, name)
    architecture = full.removeprefix("hf-hub:").split(".")[0]
    if not full.startswith(("hf-hub:", "local-dir:")) and not timm.is_model(architecture):
        raise UnknownName("backbone", name, [*SHORT_NAMES, *timm.list_models()], "`tokenbench list --backbones`")
    return full


def create(
    name: str, image_size: tuple[int, int] | None = None, classes: int | None = None, drop_path: float = 0.0
) -> Backbone:
    """A backbone with random weights by short or timm name, its attention fused unless `TIMM_FUSED_ATTN=0`.

    Args:
        name: a short name (`deit_s`) or any timm name.
        image_size: height and width, if other than the model's own.
        classes: number of classes, if other than the model's own.
        drop_path: stochastic depth of the last block, falling to 0 in the first; for training.
    """
    full = full_name(name)
    kwargs: dict[str, Any] = {}
    if image_size is not None:
        kwargs["img_size"] = image_size
    if classes is not None:
        kwargs["num_classes"] = classes
    if drop_path:
        kwargs["drop_path_rate"] = drop_path
    try:
        return Backbone(_fused(timm.create_model(full, pretrained=False, **kwargs)), name)
    except TypeError as error:
        raise Unsupported(f"{name} cannot be served: it takes no {', '.join(kwargs)} ({error}).") from None
    except (AssertionError, RuntimeError, ValueError) as error:
        raise BadSetting(f"{name} cannot be built at that size: {first_line(error)}.") from None


def _fused(model: nn.Module) -> nn.Module:
    """Families whose fused attention timm holds to be experimental (Swin) are timed fused too, as the others are."""
    if use_fused_attn():
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", True)  # noqa: B010  mypy takes it for a submodule
    return model


def random_images(backbone: Backbone, batch: int, seed: int = 0) -> Tensor:
    """Standard-normal images (B, channels, H, W) for counting and timing."""
    return torch.randn(batch, *backbone.input_size, generator=torch.Generator().manual_seed(seed))
