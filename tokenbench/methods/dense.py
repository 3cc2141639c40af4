"""No reduction: the backbone as timm runs it. What every other method is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tokenbench.backbones import Backbone
from tokenbench.backbones.anysize import AnySizeSwin
from tokenbench.backbones.swin import Swin
from tokenbench.core.block import Reducer
from tokenbench.methods.base import Method, Reported
from tokenbench.methods.released import SUITE, Release, Stored, suite_model

NORMS = "timm's count has norms, as fvcore's has"


class Dense(Method):
    """The plain backbone, all tokens to the end."""

    name = "dense"
    held: ClassVar[str] = "timm, bit for bit"
    neutral: ClassVar[Mapping[str, Any] | None] = {}
    windowed: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    whole: ClassVar[bool] = True
    reported = (
        Reported("deit_t", {}, 72.19, 1.3, note="timm weights", params_m=5.72),
        Reported("deit_s", {}, 79.86, 4.6, note="timm weights", params_m=22.05),
        Reported("deit_b", {}, 81.98, 17.6, note="timm weights", params_m=86.57),
        Reported("vit_ti", {}, 75.45, note="timm AugReg weights", params_m=5.72),
        Reported("vit_s", {}, 81.40, note="timm AugReg weights", params_m=22.05),
        Reported("vit_b", {}, 84.53, note="timm AugReg weights", params_m=86.57),
        Reported("swin_t", {}, 81.39, 4.51, note="timm weights", params_m=28.29, reason=NORMS),
        Reported("swin_s", {}, 83.23, 8.77, note="timm weights", params_m=49.61, reason=NORMS),
        Reported("swin_b", {}, 83.60, 15.47, note="timm weights", params_m=87.77, reason=NORMS),
        Reported("swin3d_t", {}, None, 87.9, note="clips of 32 frames; top-1 78.8 on Kinetics-400", reason=NORMS),
        Reported("swin3d_s", {}, None, 165.9, note="clips of 32 frames; top-1 80.6 on Kinetics-400", reason=NORMS),
        Reported("swin3d_b", {}, None, 281.6, note="clips of 32 frames; top-1 80.6 on Kinetics-400", reason=NORMS),
    )

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """None."""
        return {}

    def pyramid(self, vit: Backbone) -> Backbone:
        """Swin's own stages on images of any size."""
        return AnySizeSwin(vit.vit, vit.name) if isinstance(vit, Swin) else super().pyramid(vit)

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """TokenReduction's baseline; elsewhere dense weights have the same names as those of other methods."""
        return Release(SUITE) if suite_model(stored) == "deit" else None
