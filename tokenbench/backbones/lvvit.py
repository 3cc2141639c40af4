"""LV-ViT, which timm does not have: a convolutional stem, damped residuals, and a second head on the patches.

arXiv 2104.10858. Names of parameters are those of its authors' checkpoints, which load as they are. The stem of four
convolutions (`lvvit_4c_*`) is that of SiT's LV-ViTs (arXiv 2111.12624), which do not read the second head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp, calculate_drop_path_rates, to_2tuple, trunc_normal_
from timm.models import register_model
from torch import Tensor, nn

from tokenbench.backbones.base import Backbone
from tokenbench.core.block import Block, Reducer
from tokenbench.core.tokens import Tokens

Box = tuple[int, int, int, int]  # rows from and to, columns from and to
SIZES: dict[str, dict[str, Any]] = {
    "lvvit_t": dict(embed_dim=240, depth=12, num_heads=4, skip_lam=1.0),
    "lvvit_s": dict(embed_dim=384, depth=16, num_heads=6, skip_lam=2.0),
    "lvvit_m": dict(embed_dim=512, depth=20, num_heads=8, skip_lam=2.0),
    "lvvit_l": dict(embed_dim=768, depth=24, num_heads=12, skip_lam=3.0, stem_width=128),
    "lvvit_4c_t": dict(embed_dim=320, depth=14, num_heads=5, skip_lam=2.0, p_emb="4c"),
    "lvvit_4c_s": dict(embed_dim=384, depth=16, num_heads=6, skip_lam=2.0, p_emb="4c"),
    "lvvit_4c_m": dict(embed_dim=512, depth=20, num_heads=8, skip_lam=2.0, p_emb="4c"),
    "lvvit_4c_l": dict(embed_dim=768, depth=24, num_heads=12, skip_lam=3.0, p_emb="4c", img_size=288),
}


class Divide(nn.Module):
    """A residual branch divided by a number."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        """x / by."""
        return x / self.by


class Stem(nn.Module):
    """Images (B, channels, H, W) to a map (B, C, rows, columns), by three convolutions and a projection, or by four."""

    dynamic_img_pad = False

    def __init__(self, img_size: Any, patch: int, inside: int, width: int, dim: int, p_emb: str) -> None:
        super().__init__()
        self.img_size, self.patch_size = to_2tuple(img_size), to_2tuple(patch)
        self.grid_size = self.img_size[0] // patch, self.img_size[1] // patch
        self.four = p_emb == "4c"
        if self.four:
            shapes = [(dim // 8, 3, 2, 1), (dim // 4, 3, 2, 1), (dim // 2, 3, 2, 1), (dim, 3, 2, 1)]
        else:
            shapes = [(width, 7, 2, 3), (width, 3, 1, 1), (width, 3, 1, 1)]
            self.proj = nn.Conv2d(width, dim, patch // 2, patch // 2)
        self.count = len(shapes)
        for i, (out, kernel, stride, padding) in enumerate(shapes, 1):
            self.add_module(f"conv{i}", nn.Conv2d(inside, out, kernel, stride, padding, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(out))
            inside = out

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        for i in range(1, self.count + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if not self.four:
                x = F.relu(x)
            elif i < self.count:
                x = F.gelu(x)
        return x if self.four else self.proj(x)


class LVBlock(nn.Module):
    """A pre-norm block whose residual branches are divided by `skip_lam`."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, skip_lam: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = Attention(dim, heads)
        self.ls1, self.drop_path1 = Divide(skip_lam), DropPath(drop_path) if drop_path else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.ls2, self.drop_path2 = Divide(skip_lam), DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


class LVViT(nn.Module):
    """The model, with the attributes that timm's VisionTransformer has."""

    num_prefix_tokens = 1
    has_class_token = True
    attn_pool = None

    def __init__(
        self,
        img_size: Any = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 16,
        num_heads: int = 6,
        mlp_ratio: float = 3.0,
        skip_lam: float = 2.0,
        p_emb: str = "4_2",
        stem_width: int = 64,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans, self.num_classes, self.embed_dim = in_chans, num_classes, embed_dim
        self.patch_embed = Stem(img_size, patch_size, in_chans, stem_width, embed_dim, p_emb)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.patch_embed.grid_size) + 1, embed_dim))
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        self.blocks = nn.ModuleList(LVBlock(embed_dim, num_heads, mlp_ratio, skip_lam, rate) for rate in rates)
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5)
        self.head = nn.Linear(embed_dim, num_classes)
        self.aux_head = nn.Linear(embed_dim, num_classes)
        self.reads_patches = p_emb != "4c"
        self.aux_head.requires_grad_(self.reads_patches)  # published with the other stem too, and not read there
        self.global_pool = "token_and_max" if self.reads_patches else "token"
        for tensor in (self.cls_token, self.pos_embed):
            trunc_normal_(tensor, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        """Parameters without weight decay."""
        return {"pos_embed", "cls_token"}

    def laid(self, grid: Tensor) -> Tensor:
        """The tokens (B, 1 + P, C) of a map (B, C, rows, columns), with their positions."""
        x = grid.flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed

    def read(self, features: Tensor) -> Tensor:
        """Logits (B, classes) of normed tokens: the class token's, and half the highest of the patches by class."""
        logits: Tensor = self.head(features[:, 0])
        return logits + 0.5 * self.aux_head(features[:, 1:]).amax(1) if self.reads_patches else logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W)."""
        x = self.laid(self.patch_embed(images))
        for block in self.blocks:
            x = block(x)
        return self.read(self.norm(x))

    def labelled(self, images: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        """Token labelling's training pass: class logits (B, classes), and those of patches (B, P, classes).

        Cells in `box` of the embedded map come from the flipped batch (MixToken), and their logits are swapped back.
        """
        top, bottom, left, right = box
        grid = self.patch_embed(images)
        mixed = grid.clone()
        mixed[:, :, top:bottom, left:right] = grid.flip(0)[:, :, top:bottom, left:right]
        x = self.laid(mixed)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        given = self.aux_head(x[:, 1:]).unflatten(1, self.patch_embed.grid_size)
        back = given.clone()
        back[:, top:bottom, left:right] = given.flip(0)[:, top:bottom, left:right]
        return self.head(x[:, 0]), back.flatten(1, 2)


def random_box(grid: tuple[int, int], generator: torch.Generator | None = None) -> Box:
    """A box whose share of the grid is a Beta(1, 1) draw, around a cell drawn at random, and cut at the border."""
    side = torch.rand((), generator=generator).sqrt().item()
    middles = [int(torch.randint(n, (), generator=generator)) for n in grid]
    bounds = [
        (max(0, m - int(n * side) // 2), min(n, m + int(n * side) // 2)) for m, n in zip(middles, grid, strict=True)
    ]
    return (*bounds[0], *bounds[1])


def label_loss(
    logits: Tensor, patches: Tensor, target: Tensor, labels: Tensor, box: Box, weight: float = 0.5
) -> Tensor:
    """Token labelling's loss: soft cross-entropy of the class token, and `weight` times that of the patches.

    Args:
        logits: (B, classes), and
        patches: (B, P, classes), of `LVViT.labelled`.
        target: (B, classes) soft labels of the images, mixed here by the share of the box.
        labels: (B, P, classes) soft labels of the patches, which are not mixed.
        box: that of the pass.
        weight: of the patches' loss.
    """
    kept = 1 - (box[1] - box[0]) * (box[3] - box[2]) / patches.shape[1]
    mixed = kept * target + (1 - kept) * target.flip(0)
    whole = F.cross_entropy(logits, mixed)
    return whole + weight * F.cross_entropy(patches.flatten(0, 1), labels.flatten(0, 1))


def _registered(name: str) -> Callable[..., LVViT]:
    def make(pretrained: bool = False, **options: Any) -> LVViT:
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            options.pop(key, None)
        if options.pop("global_pool", "token") not in ("token", "token_and_max"):
            raise TypeError("its head reads the class token")
        model = LVViT(**{**SIZES[name], **options})
        side: Any = model.patch_embed.img_size
        model.pretrained_cfg = model.default_cfg = {  # type: ignore[assignment]
            "architecture": name,
            "input_size": (model.in_chans, *side),
            "num_classes": model.num_classes,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "license": "apache-2.0",
        }
        return model

    make.__name__ = make.__qualname__ = name
    make.__module__ = __name__
    globals()[name] = make
    return register_model(make)  # type: ignore[no-any-return]


for _name in SIZES:
    _registered(_name)


class LV(Backbone):
    """An LV-ViT. Its head reads the class token and the patches that are left; without a class token, their mean."""

    family: ClassVar[str] = "lvvit"
    served: ClassVar[str] = "LVViT of tokenbench"

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """An `LVViT`."""
        return isinstance(vit, LVViT)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """None: what is made here can be served."""
        return None

    @property
    def prefix(self) -> int:
        """The class token."""
        return 1

    @property
    def has_class_token(self) -> bool:
        """It has."""
        return True

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A block, as it is."""
        return Block(self.vit.blocks[index], reducers, proportional)

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of images (B, channels, H, W)."""
        grid = self.vit.patch_embed.grid_size
        return Tokens(self.vit.laid(self.vit.patch_embed(images)), 1, grid, layout=grid)

    @property
    def patch_head(self) -> nn.Module | None:
        """The second head, where it is read."""
        return self.vit.aux_head if self.vit.reads_patches else None

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) and final-norm features (B, N, C)."""
        features = self.vit.norm(tokens.x)
        if tokens.prefix == 1:
            return self._read(features, tokens.present if tokens.alive is None else tokens.alive > 0.5), features
        weights = tokens.sizes().unsqueeze(-1)
        weights = weights if tokens.present is None else weights * tokens.present.unsqueeze(-1)
        return self.vit.head((features * weights).sum(1) / weights.sum(1)), features

    def _read(self, features: Tensor, seen: Tensor | None) -> Tensor:
        """As `LVViT.read`, of the patches (B, N - 1) that are there."""
        if seen is None or not self.vit.reads_patches:
            return self.vit.read(features)  # type: ignore[no-any-return]
        hints = self.vit.aux_head(features[:, 1:]).masked_fill(~seen.unsqueeze(-1), float("-inf")).amax(1)
        return self.vit.head(features[:, 0]) + 0.5 * hints.where(hints.isfinite(), 0)  # type: ignore[no-any-return]
