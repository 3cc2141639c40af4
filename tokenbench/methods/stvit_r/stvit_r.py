"""STViT-R: semantic tokens do the work, and the full map is recovered from them, again and again.

arXiv 2303.08685. In Swin's third stage it is held to outputs of the published implementation; in a plain ViT, for which
none was published, it is a reconstruction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from tokenbench.backbones import Backbone
from tokenbench.backbones.swin import STAGE, Swin, official, whole_windows
from tokenbench.core.block import Reducer
from tokenbench.errors import Unsupported
from tokenbench.methods.base import Kind, Method, Paper, Reported
from tokenbench.methods.released import Release, Stored
from tokenbench.methods.stvit.semantic import no_mean
from tokenbench.methods.stvit_r.swin import UNIT, AnySizeRecoveringSwin, Options, RecoveringSwin
from tokenbench.methods.stvit_r.vit import RecoveringViT, Units

SWIN_ONLY = ("conv_pos", "relative_pos", "layer_scale", "shortcut")
VIT_ONLY = ("base", "unit")
NORMS = "the paper counts norms too, as fvcore does, in train mode"
ONE_SIZE = ("use_global", "relative_pos", "layer_scale")  # options that the published dense backbone does not have


class STViTR(Method):
    """STViT with recovery: a few semantic tokens do the work of several blocks, and the full map is recovered."""

    name = "stvit_r"
    kind: ClassVar[Kind | None] = "recovers"
    licence: ClassVar[str] = "MIT"
    held: ClassVar[str] = "on Swin outputs of the published code; in a plain ViT a reconstruction"
    paper: ClassVar[Paper | None] = Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View", "2303.08685", "CVPR 2023"
    )
    trained: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    main: ClassVar[str | None] = "tokens"
    derived: ClassVar[tuple[str, ...]] = (".attn_mask", ".relative_position_index")
    notes = (
        "In Swin its patch embedding and most blocks of the third stage are its own, so dense weights fill the rest "
        "only. In a plain ViT it is a reconstruction, which uses the model's own blocks and classifies the mean."
    )
    reported = (
        Reported("swin_s", {"tokens": 9}, 82.7, 5.826, True, "300 epochs", 49.625518, 33, reason=NORMS),
        Reported("swin_b", {"tokens": 9}, 83.2, 10.264, True, "300 epochs", 87.812336, 33, reason=NORMS),
    )

    tokens: int = Field(
        9, ge=1, description="semantic tokens a window (plain ViT: for every 7x7 patches), a square number"
    )
    base: int | None = Field(
        None, ge=0, description="plain ViT: plain blocks before the first unit; a third of all if unset"
    )
    unit: int | None = Field(
        None, ge=1, description="plain ViT: blocks a unit, two make tokens and the last recovers; 4 if unset"
    )
    use_global: bool = Field(False, description="add learned global centres in the first unit")
    conv_pos: bool = Field(False, description="Swin: give pooled centres positions by a depthwise convolution")
    relative_pos: bool = Field(False, description="Swin: relative positions among semantic tokens")
    layer_scale: bool = Field(False, description="Swin: LayerScale in stages 1, 2 and 4 too")
    shortcut: bool = Field(False, description="Swin: add the pooled centres to what they found in their windows")

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
        """Needs a Swin whose third stage is units of six blocks on whole windows, or a ViT read by its mean."""
        swin = isinstance(vit, Swin)
        foreign = [
            k for k in (VIT_ONLY if swin else SWIN_ONLY) if getattr(self, k) != type(self).model_fields[k].default
        ]
        if foreign:
            return f"{foreign[0]} is a knob for {'plain ViTs' if swin else 'Swin'}"
        if not swin and vit.family != "vit":
            return f"it runs on Swin and on plain ViTs, and this is of the family {vit.family}"
        if not isinstance(vit, Swin):
            return no_mean(vit, self._count(vit)) or self._units(vit).refusal(vit.depth)
        if len(vit.stages) <= STAGE or vit.stages[STAGE] % UNIT:
            return f"its units take {UNIT} blocks of the third stage each, and the stages have {vit.stages}"
        if tuple(vit.vit.patch_embed.patch_size) != (4, 4):
            return f"its patch embedding makes patches of 4x4, and this one's are {vit.vit.patch_embed.patch_size}"
        return whole_windows(vit, self.side)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """In a plain ViT what makes semantic tokens; in Swin none, for its blocks are its own."""
        if isinstance(vit, Swin):
            return {}
        return self._units(vit).reducers(vit.depth, vit.dim, self._count(vit), self.use_global)

    def wrap(self, vit: Backbone) -> Backbone:
        """The Swin with another patch embedding and third stage, or the ViT with other attention in its units."""
        if not isinstance(vit, Swin):
            return RecoveringViT(vit, self._units(vit))
        return RecoveringSwin(
            vit, Options(self.side, self.use_global, **{knob: getattr(self, knob) for knob in SWIN_ONLY})
        )

    def pyramid(self, vit: Backbone) -> Backbone:
        """The Swin for images of any size, with windowed neighbourhoods in place of its fixed windows."""
        if not isinstance(vit, RecoveringSwin):
            return super().pyramid(vit)
        fixed = [knob for knob in ONE_SIZE if getattr(self, knob)]
        window = vit.vit.layers[STAGE].blocks[0].window_size
        if fixed or window[0] != window[1]:
            what = f"its {fixed[0]} is" if fixed else f"its windows of {window[0]}x{window[1]} tokens are"
            raise Unsupported(f"{self.label} makes no pyramid: {what} made for one image size.")
        return AnySizeRecoveringSwin(vit)

    def _count(self, vit: Backbone) -> int:
        """Semantic tokens of a plain ViT: a square of windows, 2x2 on a map of 14x14."""
        rows, cols = vit.grid
        return self.tokens * max(1, round(math.sqrt(rows * cols) / 7)) ** 2

    def _units(self, vit: Backbone) -> Units:
        return Units(vit.depth // 3 if self.base is None else self.base, 4 if self.unit is None else self.unit)

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
        """LayerScale stands with its block there, and beside the blocks here."""
        return {name: official(name.removeprefix("vit.")).replace(".scales.", ".blocks.") for name in names}
