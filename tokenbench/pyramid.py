"""Feature pyramids of images of any size, as heads for detection and segmentation take them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbench.backbones.anysize import AnySizeViT
from tokenbench.backbones.swin import laid
from tokenbench.backbones.vit import ViT
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported
from tokenbench.methods import making_pyramids
from tokenbench.methods.base import Method
from tokenbench.model import Model, use

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Seen:
    """A pass in training, for losses beside those of a head."""

    images: Tensor  # (B, channels, H, W), as they came
    maps: Mapping[str, Tensor]
    tokens: Tokens  # after the last block


class Body(nn.Module):
    """Blocks one after the other, and maps made of what they leave; what both kinds of pyramid are."""

    blocks: nn.ModuleList
    out_channels: list[int]
    keeps = False  # True: the last pass in training stays in `seen` until it is taken
    seen: Seen | None = None

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method: Method = model.method
        self.recompute = model.recompute  # as `Model.recompute`

    def use(self, method: Method) -> None:
        """As `Model.use`."""
        self.method = method
        use(self.blocks, method)

    def take(self) -> Seen | None:
        """The last pass in training, once; None if there was none since."""
        seen, self.seen = self.seen, None
        return seen

    def _after(self, block: nn.Module, tokens: Tokens) -> Tokens:
        again = self.recompute and self.training
        after: Tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
        return after

    def _given(self, images: Tensor, maps: dict[str, Tensor], tokens: Tokens) -> dict[str, Tensor]:
        if self.training and self.keeps:
            self.seen = Seen(images, maps, tokens)
        return maps


def pyramid(model: Model) -> Body:
    """The pyramid of a model, whatever its family: `Pyramid` on a Swin, `SimplePyramid` on a plain ViT.

    Raises:
        Unsupported: this method or backbone has none; the message gives the reason.
    """
    return SimplePyramid(model) if isinstance(model.backbone, ViT) else Pyramid(model)


class Pyramid(Body):
    """The backbone of a model for dense tasks: one map for each stage, each with a LayerNorm of its own.

        model = tokenbench.build("stvit_r", "swin_s")
        backbone = tokenbench.Pyramid(model)
        maps = backbone(images)  # {"0": (B, 96, H/4, W/4), ..., "3": (B, 768, H/32, W/32)}, rounded up
        fpn = torchvision.ops.FeaturePyramidNetwork(backbone.out_channels, 256)

    Images may have any size, each batch another; those of one batch are padded to one size. The model's weights are
    used in place, and parameters are named as in `model.vit`, with `norm0` to `norm3` besides, and those in `blocks`
    as in the model; so a state dict of a classifier loads with `strict=False`.

    Args:
        model: `dense`, or a method with a `pyramid`, such as `stvit_r` and `dynamicvit`, on a Swin.

    Raises:
        Unsupported: this method or backbone has no pyramid; the message gives the reason.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.backbone = backbone = model.method.pyramid(model.backbone)
        self.patch_embed, self.layers = backbone.vit.patch_embed, backbone.vit.layers
        reducers: list[Any] = [list(block.reducers) for block in model.blocks]  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(
            backbone.turn(i, here, model.method.proportional) for i, here in enumerate(reducers)
        )
        self.ends = [end - 1 for end in accumulate(backbone.stages)]
        self.out_channels = [int(stage.blocks[0].dim) for stage in self.layers]
        like = next(self.layers.parameters())
        for level, width in enumerate(self.out_channels):
            self.add_module(f"norm{level}", nn.LayerNorm(width).to(like))
        self.train(model.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, rows, columns) by level, finest first, of images (B, channels, H, W), already normalised."""
        maps: dict[str, Tensor] = OrderedDict()
        tokens = self.backbone.embed(images)
        for index, block in enumerate(self.blocks):
            tokens = self._after(block, tokens)
            if index in self.ends:
                level = self.ends.index(index)
                x = self.get_submodule(f"norm{level}")(tokens.x)
                maps[str(level)] = x.unflatten(1, laid(tokens)).permute(0, 3, 1, 2).contiguous()
        return self._given(images, maps, tokens)


class SimplePyramid(Body):
    """Four maps made of the last one of a plain ViT, as in ViTDet (arXiv 2203.16527): by deconvolutions and pooling.

    Images may have any size; position embeddings are resampled, and all blocks attend to the whole image. Maps have the
    strides 4, 8, 16 and 32, and a LayerNorm each.

    Args:
        model: `dense`, or a method with all tokens in their places at the end (`Method.whole`), on a ViT with patches
            of 8, 16 or 32.

    Raises:
        Unsupported: tokens are gone for good, or patches have another side.
    """

    topdown = False  # levels are of one map already, so no network has to bring the coarse to the fine

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        vit, method = model.vit, model.method
        if not method.whole:
            raise Unsupported(
                f"{method.label} makes no pyramid on {model.backbone.name}: a map needs a token for each patch in its "
                f"place, and here tokens are gone or out of theirs; {making_pyramids('plain ViTs')} have all."
            )
        patch = int(vit.patch_embed.patch_size[0])
        if tuple(vit.patch_embed.patch_size) not in ((8, 8), (16, 16), (32, 32)):
            raise Unsupported(
                f"{model.backbone.name} makes no pyramid: its patches have {patch} pixels, not 8, 16 or 32."
            )
        self.embed = AnySizeViT(vit, model.backbone.name).embed
        self.patch_embed, self.blocks, self.layers = vit.patch_embed, model.blocks, vit.blocks
        for name in ("cls_token", "reg_token", "pos_embed"):
            self.register_parameter(name, getattr(vit, name, None))
        dim = int(vit.embed_dim)
        made = [_scaled(dim, patch / stride) for stride in STRIDES]
        self.scales = nn.ModuleList(scale for scale, _ in made)
        self.out_channels = [width for _, width in made]
        like = next(self.layers.parameters())
        self.scales.to(like)
        for level, width in enumerate(self.out_channels):
            self.add_module(f"norm{level}", nn.LayerNorm(width).to(like))
        self.train(model.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, rows, columns) by level, finest first, of images (B, channels, H, W), already normalised."""
        tokens = self.embed(images)
        for block in self.blocks:
            tokens = self._after(block, tokens)
        last = tokens.x[:, tokens.prefix :].transpose(1, 2).unflatten(2, tokens.grid)
        maps: dict[str, Tensor] = OrderedDict()
        for level, scale in enumerate(self.scales):
            x = self.get_submodule(f"norm{level}")(scale(last).permute(0, 2, 3, 1))
            maps[str(level)] = x.permute(0, 3, 1, 2).contiguous()
        return self._given(images, maps, tokens)


def _scaled(dim: int, factor: float) -> tuple[nn.Module, int]:
    """From a map of that width to one of another size, and its width."""
    steps: list[Any] = []
    while factor > 1:
        steps += [*([LayerNorm2d(dim), nn.GELU()] if steps else []), nn.ConvTranspose2d(dim, dim // 2, 2, 2)]
        dim, factor = dim // 2, factor / 2
    if factor < 1:
        steps.append(nn.MaxPool2d(round(1 / factor), ceil_mode=True))
    return nn.Sequential(*steps), dim
