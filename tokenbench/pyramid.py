"""Feature pyramids of images of any size, as heads for detection and segmentation take them."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbench.model import Model


class Pyramid(nn.Module):
    """The backbone of a model for dense tasks: one map for each stage, each with a LayerNorm of its own.

        model = tokenbench.build("stvit_r", "swin_s")
        backbone = tokenbench.Pyramid(model)
        maps = backbone(images)  # {"0": (B, 96, H/4, W/4), ..., "3": (B, 768, H/32, W/32)}, rounded up
        fpn = torchvision.ops.FeaturePyramidNetwork(backbone.out_channels, 256)

    Images may have any size, each batch another; those of one batch are padded to one size. The model's weights are
    used in place, and parameters are named as in `model.vit`, with `norm0` to `norm3` besides; so a state dict of a
    classifier loads with `strict=False`.

    Args:
        model: `dense` or `stvit_r` on a Swin.

    Raises:
        Unsupported: this method or backbone has no pyramid; the message gives the reason.
    """

    recompute = False  # as `Model.recompute`

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.backbone = backbone = model.method.pyramid(model.backbone)
        self.patch_embed, self.layers = backbone.vit.patch_embed, backbone.vit.layers
        self.blocks = nn.ModuleList(backbone.turn(i, (), False) for i in range(backbone.depth))
        self.ends = [end - 1 for end in accumulate(backbone.stages)]
        self.out_channels = [int(stage.blocks[0].dim) for stage in self.layers]
        like = next(self.layers.parameters())
        for level, width in enumerate(self.out_channels):
            self.add_module(f"norm{level}", nn.LayerNorm(width).to(like))
        self.recompute = model.recompute
        self.train(model.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps (B, C, rows, columns) by level, finest first, of images (B, channels, H, W), already normalised."""
        maps: dict[str, Tensor] = OrderedDict()
        tokens = self.backbone.embed(images)
        for index, block in enumerate(self.blocks):
            again = self.recompute and self.training
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
            if index in self.ends:
                level = self.ends.index(index)
                x = self.get_submodule(f"norm{level}")(tokens.x)
                maps[str(level)] = x.unflatten(1, tokens.layout).permute(0, 3, 1, 2).contiguous()
        return maps
