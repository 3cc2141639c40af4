"""Adapters for timm families: how a model embeds images, which blocks the loop runs, and how its head reads tokens.

A family is a file here. What no family serves is refused with the reason.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import use_fused_attn
from torch import Tensor, nn

from tokenbench.backbones import hub
from tokenbench.backbones.base import Backbone
from tokenbench.backbones.swin import Swin
from tokenbench.backbones.vit import ViT
from tokenbench.errors import BadSetting, UnknownName, Unsupported, first_line, first_sentence

__all__ = ["SHORT_NAMES", "Backbone", "Swin", "ViT", "create", "full_name", "is_same", "random_images"]

# With the weights that papers began from, whatever timm's own default is: AugReg's (arXiv 2106.10270) and Swin's of
# ImageNet-1k, not those fine-tuned later or from more data.
SHORT_NAMES = {
    "deit_nano": "deit_nano",
    "deit_t": "deit_tiny_patch16_224.fb_in1k",
    "deit_s": "deit_small_patch16_224.fb_in1k",
    "deit_b": "deit_base_patch16_224.fb_in1k",
    "deit_t_distilled": "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit_s_distilled": "deit_small_distilled_patch16_224.fb_in1k",
    "deit_b_distilled": "deit_base_distilled_patch16_224.fb_in1k",
    "deit3_s": "deit3_small_patch16_224.fb_in1k",
    "deit3_b": "deit3_base_patch16_224.fb_in1k",
    "vit_ti": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_s": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_b": "vit_base_patch16_224.augreg_in21k_ft_in1k",
    "vit_l": "vit_large_patch16_224.augreg_in21k_ft_in1k",
    "mae_b": "vit_base_patch16_224.mae",
    "dinov2_s": "vit_small_patch14_dinov2.lvd142m",
    "dinov2_b": "vit_base_patch14_dinov2.lvd142m",
    "dinov2_reg_s": "vit_small_patch14_reg4_dinov2.lvd142m",
    "dinov2_reg_b": "vit_base_patch14_reg4_dinov2.lvd142m",
    "clip_b": "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    "siglip_b": "vit_base_patch16_siglip_224.v2_webli",
    "dinov3_s": "vit_small_patch16_dinov3.lvd1689m",
    "dinov3_b": "vit_base_patch16_dinov3.lvd1689m",
    "eva02_s": "eva02_small_patch14_336.mim_in22k_ft_in1k",
    "beit_b": "beit_base_patch16_224.in22k_ft_in22k_in1k",
    "swin_nano": "swin_nano",
    "swin3d_nano": "swin3d_nano",
    "swin3d_t": "swin3d_t",
    "swin3d_s": "swin3d_s",
    "swin3d_b": "swin3d_b",
    "lvvit_t": "lvvit_t",
    "lvvit_s": "lvvit_s",
    "lvvit_m": "lvvit_m",
    "lvvit_l": "lvvit_l",
    "swin_t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_s": "swin_small_patch4_window7_224.ms_in1k",
    "swin_b": "swin_base_patch4_window7_224.ms_in1k",
}


for module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(module.name)  # a family is registered when its file is imported

SOURCES = {"hf-hub": "hf-hub", "hf_hub": "hf-hub", "local-dir": "local-dir"}  # as timm has them before a colon


def full_name(name: str) -> str:
    """timm's name for a short one; raises `UnknownName` for a name timm does not know either."""
    source, colon, place = name.partition(":")
    if colon and source in SOURCES:
        return f"{SOURCES[source]}:{place}"
    full = SHORT_NAMES.get(name, name)
    if not timm.is_model(full.split(".")[0]):
        raise UnknownName("backbone", name, [*SHORT_NAMES, *timm.list_models()], "`tokenbench list --backbones`")
    return full


def is_same(one: str, other: str) -> bool:
    """Whether two names are of one model: a name without timm's tag goes with every tag."""
    first, second = full_name(one), full_name(other)
    bare = "." not in first or "." not in second
    return first == second or (bare and ":" not in first + second and first.split(".")[0] == second.split(".")[0])


def create(
    name: str,
    image_size: tuple[int, int] | None = None,
    classes: int | None = None,
    drop_path: float = 0.0,
    pool: str | None = None,
    pixels: Mapping[str, Any] | None = None,
) -> Backbone:
    """A backbone with random weights by short or timm name, its attention fused unless `TIMM_FUSED_ATTN=0`.

    Args:
        name: a short name (`deit_s`), any timm name, `local-dir:FOLDER` or `hf-hub:OWNER/NAME`.
        image_size: height and width, if other than the model's own.
        classes: number of classes, if other than the model's own.
        drop_path: stochastic depth of the last block, falling to 0 in the first; for training.
        pool: timm's `global_pool`, if other than the model's own.
        pixels: mean, std, crop_pct and interpolation, where other than the model's own.
    """
    full = full_name(name)
    kwargs: dict[str, Any] = {}
    if image_size is not None:
        kwargs["img_size"] = image_size
    if classes is not None:
        kwargs["num_classes"] = classes
    if drop_path:
        kwargs["drop_path_rate"] = drop_path
    if pool is not None:
        kwargs["global_pool"] = pool
    full, overlay = _located(full)
    try:
        model = timm.create_model(full, pretrained=False, **kwargs)
    except TypeError as error:
        raise Unsupported(f"{name} cannot be served: it takes no {', '.join(kwargs)} ({error}).") from None
    except FileNotFoundError:
        raise Unsupported(f"{name} cannot be served: there is no config.json in that folder.") from None
    except (AssertionError, RuntimeError, ValueError, KeyError) as error:
        raise BadSetting(f"{name} cannot be built at that size: {first_line(error)}.") from None
    made = Backbone(_fused(model), name)
    config = getattr(made.vit, "pretrained_cfg", {}) | overlay
    made.pixels = {key: value for key, value in (pixels or {}).items() if _differs(value, config.get(key))}
    if overlay or made.pixels:
        made.vit.pretrained_cfg = config | made.pixels
    return made


def _located(full: str) -> tuple[str, dict[str, Any]]:
    """A name that timm can build from without asking the hub again, and what that leaves out of its configuration.

    Raises:
        Unsupported: the hub does not have it, or does not answer.
    """
    if not full.startswith("hf-hub:"):
        return full, {}
    place = full.removeprefix("hf-hub:")
    repo, _, revision = place.partition("@")
    try:
        config = hub.from_hub(repo, ("config.json",), revision or None)
    except Exception as error:  # the hub's client raises the errors of three libraries
        raise Unsupported(
            f"{full} cannot be served: its config.json cannot be had ({first_sentence(error)}); give a model that timm "
            "has, or one in the cache."
        ) from None
    return f"local-dir:{config.parent}", {"source": "hf-hub", "hf_hub_id": place, "file": ""}


def _differs(given: Any, own: Any) -> bool:
    return tuple(given) != tuple(own) if isinstance(given, list | tuple) and own is not None else bool(given != own)


def _fused(model: nn.Module) -> nn.Module:
    """Families whose fused attention timm holds to be experimental (Swin) are timed fused too, as the others are."""
    if use_fused_attn():
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                setattr(module, "fused_attn", True)  # noqa: B010  mypy takes it for a submodule
    return model


def random_images(backbone: Backbone, batch: int, seed: int = 0) -> Tensor:
    """Standard-normal images (B, channels, H, W), or clips, for counting and timing."""
    return torch.randn(batch, *backbone.shape, generator=torch.Generator().manual_seed(seed))
