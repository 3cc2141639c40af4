"""Tiny random models, one of each family, with the proportions of real ones: 12 blocks, 6x6 patches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from tokenbench.backbones.lvvit import LVViT

CLASSES = 10


def tiny_vit(seed: int = 0, **options: Any) -> VisionTransformer:
    """A random model of 12 blocks and 6x6 patches."""
    torch.manual_seed(seed)
    size = dict(img_size=48, patch_size=8, embed_dim=32, depth=12, num_heads=2, num_classes=CLASSES)
    return VisionTransformer(**{**size, **options}).eval()


def tiny_swin(seed: int = 0, **options: Any) -> SwinTransformer:
    """A random model of 9 blocks, whose third stage has six of them and 2x2 windows of 5x5 tokens."""
    torch.manual_seed(seed)
    size = dict(img_size=160, window_size=5, embed_dim=8, depths=(1, 1, 6, 1), num_heads=(1, 1, 2, 2))
    return SwinTransformer(**{"num_classes": CLASSES, **size, **options}).eval()


def tiny_lvvit(seed: int = 0, **options: Any) -> LVViT:
    """A random model of 12 blocks and 6x6 patches, with a head on the patches."""
    torch.manual_seed(seed + 2)  # at which random predictors drop some
    size = dict(img_size=48, patch_size=8, embed_dim=32, depth=12, num_heads=2, num_classes=CLASSES, stem_width=8)
    return LVViT(**{**size, **options}).eval()


def tiny_eva(seed: int = 0, **options: Any) -> Eva:
    """A random model of 12 blocks and 6x6 patches with RoPE and registers, as DINOv3 has."""
    torch.manual_seed(seed)
    size = dict(img_size=48, patch_size=8, embed_dim=32, depth=12, num_heads=2, num_classes=CLASSES, init_values=0.5)
    kind = dict(use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3", rope_rotate_half=True)
    return Eva(**{**size, **kind, "num_reg_tokens": 2, "global_pool": "token", **options}).eval()


def tiny_beit(seed: int = 0, **options: Any) -> Beit:
    """A random model of 12 blocks and 6x6 patches, whose tables of relative positions are not 0."""
    torch.manual_seed(seed)
    size = dict(img_size=48, patch_size=8, embed_dim=32, depth=12, num_heads=2, num_classes=CLASSES, init_values=0.5)
    model = Beit(**{**size, "use_abs_pos_emb": False, "use_rel_pos_bias": True, **options}).eval()
    for block in model.blocks:
        torch.nn.init.normal_(block.attn.relative_position_bias_table)
    return model


FAMILIES: dict[str, Callable[..., Any]] = dict(
    vit=tiny_vit, swin=tiny_swin, lvvit=tiny_lvvit, eva=tiny_eva, beit=tiny_beit
)
