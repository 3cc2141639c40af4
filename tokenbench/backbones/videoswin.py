"""Video Swin: Swin's stages on clips, with windows that reach over time (arXiv 2106.13230), as torchvision has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models import register_model
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock
from torchvision.models.video.swin_transformer import (
    PatchEmbed3d,
    ShiftedWindowAttention3d,
    SwinTransformer3d,
    shifted_window_attention_3d,
)

from tokenbench.backbones.base import Backbone
from tokenbench.backbones.swin import Stage, SwinTurn, asking, halved, laid, semantic_window
from tokenbench.core.attention import Attn
from tokenbench.core.block import Block, Reducer
from tokenbench.core.borrowed import unmeddled
from tokenbench.core.tokens import Tokens
from tokenbench.core.windows import Pair

WINDOW = (8, 7, 7)


class ClipSwin(SwinTransformer3d):  # type: ignore[misc]  # torchvision is not typed
    """torchvision's model with what timm's models have besides: an image size, a configuration, an initialisation."""

    in_chans = 3

    def __init__(self, depths: Sequence[int], heads: Sequence[int], dim: int, **kwargs: Any) -> None:
        size = kwargs.pop("img_size", 224)
        self_size = (size, size) if isinstance(size, int) else tuple(size)
        for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
            kwargs.pop(key, None)
        super().__init__(
            patch_size=[2, 4, 4],
            embed_dim=dim,
            depths=list(depths),
            num_heads=list(heads),
            window_size=list(WINDOW),
            stochastic_depth_prob=kwargs.pop("drop_path_rate", 0.0),
            **{"num_classes": 400, **kwargs},
        )
        self.img_size: Pair = self_size
        self.pretrained_cfg: dict[str, Any] = {
            "input_size": (3, *self_size),
            "num_classes": 400,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
        }

    def init_weights(self) -> None:
        """Swin's own initialisation, from torch's random state."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, ShiftedWindowAttention3d):
                nn.init.trunc_normal_(module.relative_position_bias_table, std=0.02)

    def no_weight_decay(self) -> list[str]:
        """The tables of relative positions."""
        return [name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")]


@register_model  # type: ignore[untyped-decorator]
def swin3d_nano(pretrained: bool = False, **kwargs: Any) -> ClipSwin:
    """Video Swin in miniature, width 32, for training from nothing in minutes; no weights exist of it."""
    return ClipSwin((2, 2, 6, 2), (1, 2, 4, 8), 32, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def swin3d_t(pretrained: bool = False, **kwargs: Any) -> ClipSwin:
    """Video Swin-T."""
    return ClipSwin((2, 2, 6, 2), (3, 6, 12, 24), 96, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def swin3d_s(pretrained: bool = False, **kwargs: Any) -> ClipSwin:
    """Video Swin-S."""
    return ClipSwin((2, 2, 18, 2), (3, 6, 12, 24), 96, **kwargs)


@register_model  # type: ignore[untyped-decorator]
def swin3d_b(pretrained: bool = False, **kwargs: Any) -> ClipSwin:
    """Video Swin-B."""
    return ClipSwin((2, 2, 18, 2), (4, 8, 16, 32), 128, **kwargs)


class ClipTurn(SwinTurn):
    """A turn on Video Swin: the frames of a clip are laid out together, and torchvision's block is called as it is.

    Tokens that `ask` a context do so frame by frame. Semantic tokens attend over time too, in windows of as many frames
    as the block's, by the middle of its table of relative positions.
    """

    @property
    def window(self) -> Pair:
        """Rows and columns of the block's windows."""
        _, rows, cols = self.borrowed[0].attn.window_size
        return int(rows), int(cols)

    def enter(self, tokens: Tokens) -> Tokens:
        """Merge patches at the start of a stage, in space only."""
        merging = self.borrowed[1]
        return tokens if merging is None else tokens.halve(folded(merging(clips(tokens.x, tokens))))

    def whole(self, tokens: Tokens) -> Tokens:
        """torchvision's block as it is on the stage's own map; on a map of semantic tokens its parts."""
        block, layout = self.borrowed[0], laid(tokens)
        if layout == halved(tokens.grid, self.halvings):
            return tokens.with_x(folded(block(clips(tokens.x, tokens))))
        unmeddled(block, block.attn)
        out = folded(smaller(block.attn, clips(block.norm1(tokens.x), tokens)))
        return self.mlp(tokens.with_x(tokens.x + self.dropped(1, out, tokens)))

    def cross(self, y: Tensor, keys: Tensor, views: Tensor | None, once: bool) -> tuple[Tensor, Attn]:
        """Cross-attention by the block's projections, as `asking` has it."""
        attn = self.borrowed[0].attn
        q, k, v = asking(attn, y, keys, views, once)
        asked = Attn(q, k, v, q.shape[-1] ** -0.5, 0)
        return attn.proj((asked.rows() @ v).transpose(1, 2).flatten(2)), asked

    def dropped(self, branch: int, x: Tensor, tokens: Tokens) -> Tensor:
        """What stochastic depth leaves of a residual branch: all frames of a clip, or none."""
        kept: Tensor = self.borrowed[0].stochastic_depth(x.unflatten(0, (-1, tokens.frames)))
        return kept.flatten(0, 1)


class VideoSwin(Backbone):
    """A torchvision SwinTransformer3d of any width, depth and window, on clips of any length and size."""

    family: ClassVar[str] = "swin3d"
    served: ClassVar[str] = "SwinTransformer3d"
    windowed: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    frames = 32  # of the clips it is counted and timed on; weights do not depend on it

    @classmethod
    def knows(cls, vit: nn.Module) -> bool:
        """A SwinTransformer3d or a subclass."""
        return isinstance(vit, SwinTransformer3d)

    @classmethod
    def refusal(cls, vit: Any) -> str | None:
        """Anything but torchvision's own blocks in torchvision's own forward pass."""
        if type(vit) not in (SwinTransformer3d, ClipSwin) or "forward" in vars(vit):
            return f"{type(vit).__name__} has a forward pass of its own"
        if type(vit.patch_embed) is not PatchEmbed3d:
            return f"its patches are made by {type(vit.patch_embed).__name__}"
        for index, stage in enumerate(vit.features):
            if index % 2 and type(stage) is not PatchMerging:
                return f"its stages are joined by {type(stage).__name__}, not patch merging"
            for block in () if index % 2 else stage:
                if type(block) is not SwinTransformerBlock or type(block.attn) is not ShiftedWindowAttention3d:
                    return f"its blocks are {type(block).__name__}, not plain Video Swin blocks"
        return None

    @property
    def dim(self) -> int:
        """Width C of the first block."""
        return int(self.vit.patch_embed.proj.out_channels)

    @property
    def stages(self) -> tuple[int, ...]:
        """Number of blocks of each stage."""
        return tuple(len(stage) for stage in self.vit.features[::2])

    @property
    def depth(self) -> int:
        """Number of blocks of all stages."""
        return sum(self.stages)

    def stage(self, index: int) -> Stage:
        """What is known of a stage; maps and windows of one frame."""
        blocks = list(self.vit.features[2 * index])
        _, rows, cols = blocks[0].attn.window_size
        return Stage(blocks, int(blocks[0].attn.qkv.in_features), (rows, cols), halved(self.grid, index))

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """A torchvision block, after the patch merging of its stage if it is the first."""
        stage = 0
        while index >= self.stages[stage]:
            index, stage = index - self.stages[stage], stage + 1
        merging = self.vit.features[2 * stage - 1] if stage and not index else None
        return ClipTurn(self.vit.features[2 * stage][index], merging, stage, reducers)

    def embed(self, images: Tensor) -> Tokens:
        """Patch embedding of clips (B, channels, frames, H, W); two frames make one of tokens, rounded up."""
        x: Tensor = self.vit.pos_drop(self.vit.patch_embed(images))  # (B, T', rows, columns, C)
        grid = (int(x.shape[2]), int(x.shape[3]))
        return Tokens(folded(x), 0, grid, layout=grid, frames=int(x.shape[1]))

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), of the mean over the clip, and final-norm features (B * T', N, C) of its frames."""
        vit = self.vit
        features = vit.norm(clips(tokens.x, tokens))
        pooled = vit.avgpool(features.permute(0, 4, 1, 2, 3)).flatten(1)
        return vit.head(pooled), folded(features)

    @property
    def grid(self) -> Pair:
        """Rows and columns of patches of a frame."""
        _, height, width = self.input_size
        _, rows, cols = self.vit.patch_embed.tuple_patch_size
        return -(-height // rows), -(-width // cols)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of a frame; 224x224 of a model that does not say it."""
        height, width = getattr(self.vit, "img_size", (224, 224))
        return int(self.vit.patch_embed.proj.in_channels), int(height), int(width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, frames, height and width of a clip."""
        channels, height, width = self.input_size
        return channels, self.frames, height, width

    @property
    def unseen(self) -> str | None:
        """Nothing: frames are padded to whole patches."""
        return None


def clips(x: Tensor, tokens: Tokens) -> Tensor:
    """Tokens x (B * T', N, C) as clips (B, T', rows, columns, C)."""
    laid_out: Tensor = x.unflatten(1, laid(tokens)).unflatten(0, (-1, tokens.frames))
    return laid_out


def folded(x: Tensor) -> Tensor:
    """Clips (B, T', rows, columns, C) as tokens (B * T', N, C)."""
    return x.flatten(2, 3).flatten(0, 1)


def smaller(attn: Any, x: Tensor) -> Tensor:
    """A `ShiftedWindowAttention3d` on a map (B, T', rows, columns, C) of fewer rows and columns than it was made for.

    Windows are the largest that divide the map, and positions are told by their true distances. torchvision reads the
    first entries of the index instead, which are those of other distances where there are fewer rows or columns.
    """
    (most, rows, cols), size = attn.window_size, x.shape[1:4]
    window = [min(most, size[0]), *semantic_window((size[1], size[2]), (rows, cols))]
    shift = [s and w // 2 if n > w else 0 for s, w, n in zip(attn.shift_size, window, size, strict=True)]
    (t, h, w), area = window, window[0] * window[1] * window[2]
    index: Tensor = attn.relative_position_index.reshape(*attn.window_size, *attn.window_size)
    places = index[:t, :h, :w, :t, :h, :w].reshape(-1)
    bias = attn.relative_position_bias_table[places].reshape(area, area, -1).permute(2, 0, 1)[None]
    out: Tensor = shifted_window_attention_3d(
        x,
        attn.qkv.weight,
        attn.proj.weight,
        bias,
        window,
        attn.num_heads,
        shift_size=shift,
        attention_dropout=attn.attention_dropout,
        dropout=attn.dropout,
        qkv_bias=attn.qkv.bias,
        proj_bias=attn.proj.bias,
        training=attn.training,
    )
    return out
