"""STViT-R: semantic tokens do the work in Swin's third stage, and the full map is recovered from them, again and again.

arXiv 2303.08685; held to outputs of the published implementation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from tokenbench.backbones.swin import STAGE, Swin, halved, whole_windows
from tokenbench.methods.base import Method, Paper, Reducer, Reported
from tokenbench.methods.recovery import Alone, Generating, Recovering, Refining, ScaledTurn, Scales, Semantic, Stem
from tokenbench.methods.released import Release, Stored
from tokenbench.model import Block

if TYPE_CHECKING:
    from tokenbench.backbones import Backbone

UNIT = 6  # blocks: plain, generate, refine, within windows, among all, recover


class Stage(nn.Module):
    """Patch merging and the blocks of a stage."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[Any], scaled: bool, centres: Tensor | None) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.scales = nn.ModuleList(Scales(block.dim) for block in blocks) if scaled else None
        self.semantic_token2 = None if centres is None else nn.Parameter(centres)


class Parts(nn.Module):
    """A Swin's own modules, the patch embedding and most blocks of the third stage replaced."""

    def __init__(self, swin: Any, method: STViTR) -> None:
        super().__init__()
        self.in_chans, self.num_classes = swin.in_chans, swin.num_classes
        self.pretrained_cfg = getattr(swin, "pretrained_cfg", {})
        self.patch_embed = Stem(swin.patch_embed.img_size, swin.in_chans, swin.embed_dim)
        side, (rows, cols) = method.side, _windows(swin)
        whole = (rows * side, cols * side)
        stages = []
        for i, stage in enumerate(swin.layers):
            blocks, centres = list(stage.blocks), None
            if i == STAGE:
                for j, block in enumerate(blocks):
                    places = {3: (side, side), 4: whole}.get(j % UNIT) if method.relative_pos else None
                    if j % UNIT:
                        blocks[j] = _semantic(block, places, method.conv_pos and j % UNIT == 1)
                if method.use_global:
                    centres = nn.init.trunc_normal_(torch.zeros(1, whole[0] * whole[1], stage.blocks[0].dim), std=0.02)
            stages.append(Stage(stage.downsample, blocks, method.layer_scale and i != STAGE, centres))
        self.layers = nn.ModuleList(stages)
        self.norm, self.head = swin.norm, swin.head


class RecoveringSwin(Swin):
    """A Swin whose third stage works on semantic tokens."""

    def __init__(self, swin: Backbone, method: STViTR) -> None:
        self.name = swin.name
        self.method = method
        self.vit = Parts(swin.vit, method)

    def __new__(cls, swin: Backbone, method: STViTR) -> RecoveringSwin:  # type: ignore[misc]
        """An adapter around another."""
        return object.__new__(cls)

    @property
    def dim(self) -> int:
        """Width C of the first stage."""
        width: int = self.vit.layers[0].blocks[0].dim
        return width

    def turn(self, index: int, reducers: Sequence[Reducer], proportional: bool) -> Block:
        """Swin's own turn, but in the third stage."""
        before = sum(self.stages[:STAGE])
        place = index - before
        if not 0 <= place < self.stages[STAGE] or place % UNIT == 0:
            turn = super().turn(index, reducers, proportional)
            return self._scaled(index, turn) if self.method.layer_scale else turn
        stage = self.vit.layers[STAGE]
        block, window, side = stage.blocks[place], stage.blocks[0].window_size, self.method.side
        match place % UNIT:
            case 1:
                return Generating(block, window=window, side=side, residual=self.method.shortcut)
            case 2:
                return Refining(block, centres=stage.semantic_token2 if place == 2 else None)
            case 3:
                return Alone(block, window=(side, side))
            case 4:
                return Alone(block, window=None)
            case _:
                return Recovering(block)

    def _scaled(self, index: int, turn: Any) -> Block:
        """The turn with LayerScale where the stage has it: everywhere but in the third."""
        for stage in self.vit.layers:
            if index < len(stage.blocks):
                block, merging = turn.borrowed
                return turn if stage.scales is None else ScaledTurn(block, merging, turn.halvings, stage.scales[index])
            index -= len(stage.blocks)
        raise IndexError(index)


class STViTR(Method):
    """STViT with recovery: semantic tokens do the work in Swin's third stage, and the full map is recovered."""

    name = "stvit_r"
    paper: ClassVar[Paper | None] = Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View", "2303.08685", "CVPR 2023"
    )
    trained: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    recovers: ClassVar[bool] = True
    main: ClassVar[str | None] = "tokens"
    derived: ClassVar[tuple[str, ...]] = (".attn_mask", ".relative_position_index")
    notes = "Its patch embedding and most blocks of the third stage are its own, so dense weights fill the rest only."
    reported = (
        Reported("swin_s", {"tokens": 9}, 82.7, 5.826, True, "300 epochs; with norms, as fvcore counts"),
        Reported("swin_b", {"tokens": 9}, 83.2, 10.264, True, "300 epochs; with norms, as fvcore counts"),
    )

    tokens: int = Field(9, ge=1, description="semantic tokens a window, a square number")
    use_global: bool = Field(False, description="add learned global centres in the first unit")
    conv_pos: bool = Field(False, description="give pooled centres positions by a depthwise convolution")
    relative_pos: bool = Field(False, description="relative positions among semantic tokens")
    layer_scale: bool = Field(False, description="LayerScale in stages 1, 2 and 4 too; semantic blocks always have it")
    shortcut: bool = Field(False, description="add the pooled centres to what they found in their windows")

    @field_validator("tokens")
    @classmethod
    def _square(cls, tokens: int) -> int:
        if math.isqrt(tokens) ** 2 != tokens:
            raise ValueError("should be a square number such as 4, 9 or 16")
        return tokens

    @property
    def side(self) -> int:
        """Semantic tokens along a window."""
        return math.isqrt(self.tokens)

    def supports(self, vit: Backbone) -> str | None:
        """Needs a Swin whose third stage is units of six blocks on whole windows."""
        if not isinstance(vit, Swin):
            return "it works in the third stage of a Swin, and this is none"
        if len(vit.stages) <= STAGE or vit.stages[STAGE] % UNIT:
            return f"its units take {UNIT} blocks of the third stage each, and the stages have {vit.stages}"
        if tuple(vit.vit.patch_embed.patch_size) != (4, 4):
            return f"its patch embedding makes patches of 4x4, and this one's are {vit.vit.patch_embed.patch_size}"
        return whole_windows(vit, self.side)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """None: its blocks are its own."""
        return {}

    def wrap(self, vit: Backbone) -> Backbone:
        """The Swin with another patch embedding and third stage; stages 1, 2 and 4 are used in place."""
        return RecoveringSwin(vit, self)

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """By the convolutions that embed patches and the separate queries of the third stage."""
        semantic = f"layers.{STAGE}.blocks"
        if "patch_embed.proj.0.c.weight" not in stored.tensors or f"{semantic}.1.attn.q.weight" not in stored.tensors:
            return None
        places = stored.tensors.get(f"{semantic}.3.attn.relative_position_bias_table")
        knobs: dict[str, Any] = {
            "use_global": f"layers.{STAGE}.semantic_token2" in stored.tensors,
            "conv_pos": f"{semantic}.1.conv_pos.proj.0.weight" in stored.tensors,
            "relative_pos": places is not None,
            "layer_scale": "layers.0.blocks.0.layer_scale_1" in stored.tensors,
        }
        if places is not None:  # one row for each distance in the windows of `side` x `side` tokens
            knobs["tokens"] = ((math.isqrt(places.shape[0]) + 1) // 2) ** 2
        if "SHORTCUT" in stored.options:
            knobs["shortcut"] = stored.options["SHORTCUT"]
        unknown = tuple(knob for knob in ("tokens", "shortcut") if knob not in knobs)
        return Release("changsn/STViT-R", knobs, unknown)

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """Patch merging ends a stage there and begins one here; the head is a module here."""
        return {name: _released(name.removeprefix("vit.")) for name in names}


def _released(name: str) -> str:
    name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
    return name.replace(".scales.", ".blocks.").replace("head.fc.", "head.")


def _semantic(block: Any, side: tuple[int, int] | None, conv_pos: bool) -> Semantic:
    rate = getattr(block.drop_path1, "drop_prob", 0.0)
    return Semantic(block.dim, block.attn.num_heads, block.mlp.fc1.out_features, rate, side, conv_pos)


def _windows(swin: Any) -> tuple[int, int]:
    """Rows and columns of windows in the third stage."""
    block = swin.layers[STAGE].blocks[0]
    (rows, cols), (height, width) = halved(swin.patch_embed.grid_size, STAGE), block.window_size
    return rows // height, cols // width
