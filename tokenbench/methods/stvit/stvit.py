"""STViT: a few semantic tokens take the place of the patches (arXiv 2303.08685).

No code was published for the global form, so this is a reconstruction from the paper, and labelled so. Not the super
token ViT, which carries the same short name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn

from tokenbench.backbones import Backbone
from tokenbench.backbones.lvvit import LV
from tokenbench.backbones.swin import STAGE, Swin, halved, semantic_window, whole_windows
from tokenbench.backbones.videoswin import VideoSwin
from tokenbench.core.block import Reducer
from tokenbench.methods.base import Kind, Method, Paper, Reported, later, outside
from tokenbench.methods.recipe import DEIT, FINETUNE, Recipe
from tokenbench.methods.stvit.semantic import Generate, Local, Patches, Refine, Settle, no_mean

ALIKE = "its 58 % stands for all three sizes, cut off"
PAPERS: Mapping[str, Any] = {"tokens": 16, "pool": "learned"}  # section 3.2: pooling within and between windows
OVER_TIME = "a reconstruction: stage, blocks, keys and windows of the paper's are not printed"
VIDEO: Mapping[str, Any] = {"tokens": 9, "keys": "enlarged", "projection": "once"}
PLACES = "neither the generating blocks on Swin nor the keys of the second are printed"


class STViT(Method):
    """Semantic tokens: pooled centres attend to the patches and replace them, 16 in place of 196."""

    name = "stvit"
    kind: ClassVar[Kind | None] = "condenses"
    licence: ClassVar[str] = "no code published"
    held: ClassVar[str] = "the equations and GMACs of the paper: a reconstruction"
    paper: ClassVar[Paper | None] = Paper(
        "Making Vision Transformers Efficient from A Token Sparsification View", "2303.08685", "CVPR 2023"
    )
    trained: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    clips: ClassVar[bool] = True
    main: ClassVar[str | None] = "tokens"
    recipes: ClassVar[Mapping[str, Recipe]] = {
        "scratch": DEIT.change({"source": "arXiv 2303.08685, section 4: DeiT's, without distillation"}),
        "finetune": FINETUNE.change({"lr": 5e-5, "weight_decay": 0.05, "source": "tokenbench's own; untuned"}),
    }
    notes = (
        "Semantic-token ViT; a reconstruction, for only STViT-R's code was published. The defaults depart from the "
        "paper: its centres are pooled by pool=learned, and on Swin its main setting is tokens=9. On Video Swin "
        "tokens are made in each frame of stage 3, and where and how is a reconstruction too: there tokens=9, "
        "keys=enlarged and projection=once are the defaults, after 3 of 6 or 11 of 18 blocks."
    )
    reported = (
        Reported("deit_t", PAPERS, 72.2, None, True, "300 epochs", saved=58, tokens=16, reason=ALIKE),
        Reported("deit_s", PAPERS, 79.8, None, True, "300 epochs", saved=58, tokens=16, reason=ALIKE),
        Reported("deit_b", PAPERS, 81.8, None, True, "300 epochs", saved=58, tokens=16, reason=ALIKE),
        Reported(
            "lvvit_s",
            {**PAPERS, "tokens": 36},
            None,
            None,
            True,
            "top-1 -0.6 points against LV-ViT-S; its places are not printed",
            tokens=36,
        ),
        Reported("deit_s", {**PAPERS, "centres": "spatial"}, 79.4, None, True, "300 epochs"),
        Reported("deit_s", {**PAPERS, "centres": "global"}, 78.7, None, True, "300 epochs"),
        Reported("deit_s", {**PAPERS, "generating": 3}, 79.5, None, True, "300 epochs"),
        Reported("deit_s", {**PAPERS, "generating": 4}, 79.6, None, True, "300 epochs"),
        *(
            Reported(
                name,
                {**PAPERS, "tokens": 9},
                None,
                None,
                True,
                f"top-1 {more} points against Swin",
                saved=saved,
                tokens=9,
                reason=PLACES,
            )
            for name, more, saved in (("swin_t", "+0.2", 24), ("swin_s", "0.0", 25), ("swin_b", "-0.1", 25))
        ),
        *(
            Reported(
                name,
                {},
                None,
                None,
                True,
                "top-1 -0.3 points against Video Swin, 4x3 views",
                saved=27,
                reason=OVER_TIME,
            )
            for name in ("swin3d_t", "swin3d_s")
        ),
    )

    tokens: int = Field(16, ge=1, description="number of semantic tokens, on Swin in each window, a square number")
    base: int | None = Field(
        None,
        ge=0,
        description="plain blocks (Swin: of stage 3) before the first generating one; a third (Swin: two) if unset",
    )
    generating: int = Field(2, ge=1, description="number of generating blocks")
    pool: Literal["max", "avg", "learned"] = Field("max", description="how spatial centres are pooled from the patches")
    centres: Literal["both", "spatial", "global"] = Field("both", description="which centres the tokens start from")
    keys: Literal["global", "enlarged", "own"] = Field(
        "global", description="Swin: what windows look at; global is enlarged windows first and all of the map after"
    )
    projection: Literal["crops", "once"] = later(
        "crops", description="Swin: keys are projected in each window that looks at them, or once for all"
    )
    reach: int = Field(3, ge=0, description="Swin: by how many tokens an enlarged window is longer than its window")

    @field_validator("tokens")
    @classmethod
    def _square(cls, tokens: int) -> int:
        if math.isqrt(tokens) ** 2 != tokens:
            raise ValueError("should be a square number such as 4, 9, 16, 25 or 36")
        return tokens

    def on(self, vit: Backbone) -> STViT:
        """On Video Swin 9 tokens a window, and enlarged windows as keys, projected once, unless they were given."""
        return self.defaulted(VIDEO) if isinstance(vit, VideoSwin) else self

    def supports(self, vit: Backbone) -> str | None:
        """Needs a model read by its class token or by mean pooling, and more patches than semantic tokens."""
        if isinstance(vit, Swin | VideoSwin):
            return self._supports_windows(vit)
        return no_mean(vit, self.tokens) or outside((self._base(vit) + self.generating - 1,), vit)

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """Drop the class token, generate, refine, settle; on Swin the same within the third stage's windows."""
        if isinstance(vit, Swin | VideoSwin):
            stage = vit.stage(STAGE)
            return self._places(
                sum(vit.stages[:STAGE]) + self._base(vit),
                vit.depth,
                stage.dim,
                Local(
                    stage.layout,
                    stage.window,
                    math.isqrt(self.tokens),
                    self.keys,
                    self.reach,
                    self.projection == "once",
                ),
            )
        places = self._places(self._base(vit), vit.depth, vit.dim, None)
        return places | {0: [Patches(), *places.get(0, ())]}

    def idle(self, vit: Backbone) -> Sequence[nn.Parameter]:
        """On Swin the relative positions of the generating blocks, whose centres lie in no window with their keys; on
        LV-ViT the head on the patches, for which semantic tokens have no labels: the mean of tokens is read.
        """
        if isinstance(vit, LV):
            return list(vit.vit.aux_head.parameters())
        if not isinstance(vit, Swin | VideoSwin):
            return ()
        base = self._base(vit)
        blocks = vit.stage(STAGE).blocks[base : base + self.generating]
        return [block.attn.relative_position_bias_table for block in blocks]

    def _places(self, base: int, depth: int, dim: int, local: Local | None) -> dict[int, Sequence[Reducer]]:
        places: dict[int, Sequence[Reducer]] = {base: [Generate(dim, self.tokens, self.pool, self.centres, local)]}
        for i in range(base + 1, base + self.generating):
            places[i] = [Refine(dim, self.tokens, self.centres, local)]
        settled = base + self.generating
        return places | ({settled: [Settle()]} if settled < depth else {})

    def _base(self, vit: Backbone) -> int:
        if self.base is not None:
            return self.base
        if isinstance(vit, VideoSwin):
            return max(1, vit.stages[STAGE] * 2 // 3 - 1)
        return vit.stages[STAGE] * 2 // 3 if isinstance(vit, Swin) else vit.depth // 3

    def _supports_windows(self, vit: Swin | VideoSwin) -> str | None:
        side = math.isqrt(self.tokens)
        reason = whole_windows(vit, side)
        if reason:
            return reason
        last, blocks = self._base(vit) + self.generating, vit.stages[STAGE]
        if last > blocks:
            return f"it generates up to block {last - 1} of the third stage, whose blocks are 0 to {blocks - 1}"
        layout, window = vit.stage(STAGE).layout, vit.stage(STAGE).window
        whole = Local(layout, window, side, self.keys, self.reach).whole
        for stage in range(len(vit.stages) - STAGE):
            layout = halved(whole, stage)
            within = semantic_window(layout, window)
            if any(w == 1 and n > 1 for w, n in zip(within, layout, strict=True)):
                return f"a map of {layout[0]}x{layout[1]} semantic tokens does not divide into windows"
        return None
