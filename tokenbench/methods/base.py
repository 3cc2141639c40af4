"""What a method is: knobs, and how tokens change. Adding a method is adding one file beside this one.

class Halve(Method):
    '''Keep every second token after one block.'''

    name = "halve"
    block: int = Field(6, ge=0, description="the block after which half of the tokens go")

    def reducers(self, vit):
        return {self.block: [Every(2)]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.block import Output, Reducer
from tokenbench.core.settings import make as make
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported
from tokenbench.methods.paper import Kind as Kind
from tokenbench.methods.paper import Paper as Paper
from tokenbench.methods.paper import Reported as Reported
from tokenbench.methods.recipe import DEIT, FINETUNE, Recipe
from tokenbench.methods.released import Release, Stored


def _split(value: Any) -> Any:
    """On the command line a list is written 3/6/9."""
    return tuple(value.split("/")) if isinstance(value, str) else value


Places = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_split)]  # knobs that list block indices
Counts = Annotated[tuple[PositiveInt, ...], BeforeValidator(_split)]  # or numbers of tokens
Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, ...], BeforeValidator(_split)]  # or shares of them


def later(default: Any, **how: Any) -> Any:
    """The `Field` of a knob that came after rows and weights had been written: at its default no setting shows it, so
    that these stay of the same setting and keep their ids.
    """
    return Field(default, exclude_if=lambda value: value == default, **how)


class Method(BaseModel):
    """A setting of a method. Its fields are its knobs: flags, documentation, checks and sweeps are made from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    kind: ClassVar[Kind | None] = None  # what becomes of tokens
    paper: ClassVar[Paper | None] = None
    licence: ClassVar[str] = ""  # of its authors' code, such as "MIT", or "none given"; no code of theirs is contained
    held: ClassVar[str] = ""  # what tests hold it to, beside the contract
    trained: ClassVar[bool] = False  # True: says nothing until it has been trained itself
    main: ClassVar[str | None] = None  # the knob that every label shows
    neutral: ClassVar[Mapping[str, Any] | None] = None  # the setting that changes nothing; None where there is none
    control: ClassVar[bool] = False  # True: saves no token, and shows what something else of a method gives
    trial: ClassVar[Mapping[str, Any]] = {}  # knobs for tiny random models, where defaults ask for more than these have
    windowed: ClassVar[bool] = False  # True: leaves whole grids, as backbones that attend within windows need
    clips: ClassVar[bool] = False  # True: does so in every frame, as windows that reach over time need
    whole: ClassVar[bool] = False  # True: in plain ViTs, at the end each patch has its token, in its place
    reported: ClassVar[tuple[Reported, ...]] = ()
    recipes: ClassVar[Mapping[str, Recipe]] = {"scratch": DEIT, "finetune": FINETUNE}  # the first is the default
    in_training: ClassVar[frozenset[str]] = frozenset()  # knobs that say nothing once the model is trained
    notes: ClassVar[str] = ""  # a caveat that every listing prints
    derived: ClassVar[tuple[str, ...]] = ()  # endings of published tensors that are computed here and not read

    @property
    def proportional(self) -> bool:
        """Whether attention adds the log of token sizes to its logits (ToMe, arXiv 2210.09461, equation 1)."""
        return False

    @property
    def blends(self) -> bool:
        """Whether this setting makes tokens of several others, which have no position of their own."""
        return self.kind in ("merges", "condenses")

    @property
    def label(self) -> str:
        """`tome[r=13]`: the name, the main knob, and every other knob that is not at its default."""
        shown = [k for k, f in type(self).model_fields.items() if k == self.main or getattr(self, k) != f.default]
        return f"{self.name}[{','.join(f'{k}={_text(getattr(self, k))}' for k in shown)}]" if shown else self.name

    @property
    def decides(self) -> dict[str, Any]:
        """The knobs that decide what a trained model computes, as JSON values."""
        return self.model_dump(mode="json", exclude=set(self.in_training))

    def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
        """The reducers of each block that has any. The only part a method must have."""
        raise NotImplementedError

    def on(self, vit: Backbone) -> Self:
        """The setting on that backbone, where defaults hang on it; what was given stays. Asked again, the same."""
        return self

    def defaulted(self, values: Mapping[str, Any]) -> Self:
        """With these knobs where they were not given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return make(type(self), {**values, **given})

    def supports(self, vit: Backbone) -> str | None:
        """Why this setting cannot run on that backbone, as a clause; None if it can."""
        return None

    def caveat(self, vit: Backbone) -> str | None:
        """What this setting does on that backbone other than its knobs say, as a clause; None if it does as told."""
        return None

    def ladder(self, vit: Backbone) -> Sequence[Method]:
        """This setting with its main knob from changing least to changing most, as far as the backbone takes it.

        Raises:
            UsageError: the knob's values have no such order.
        """
        from tokenbench.methods.ladder import ladder

        return ladder(self, vit)

    def refusal(self, vit: Backbone) -> str | None:
        """As `supports`, after asking whether the method is made for the backbone's family at all.

        Raises:
            TypeError: `supports` gives something other than words or None.
        """
        if vit.windowed and not self.windowed:
            return "it drops or merges tokens one by one, and this backbone's windows need all tokens of a grid"
        if vit.windowed and vit.clips and not self.clips:
            return "it works in windows of images, and this backbone's reach over time"
        if vit.placed and self.blends:
            return (
                "it makes one token of several, and this backbone's blocks read where each token lies (RoPE or "
                "relative positions): no published work says where a merged one does"
            )
        reason = self.supports(vit)
        if reason is not None and not isinstance(reason, str):
            raise TypeError(f"supports must give None or the reason in words, and it gave {reason!r}")
        return reason or None

    def wrap(self, vit: Backbone) -> Backbone:
        """The backbone to run in this one's place, for what is no change of tokens: other blocks, another embedding."""
        return vit

    def idle(self, vit: Backbone) -> Sequence[nn.Parameter]:
        """The backbone's parameters that no output depends on; `Model.idle` says what for."""
        return ()

    def pyramid(self, vit: Backbone) -> Backbone:
        """The backbone of a model, as `wrap` gave it, for images of any size and with all stages at full resolution.

        Raises:
            Unsupported: there is none for this method or family.
        """
        from tokenbench.methods import making_pyramids

        raise Unsupported(f"{self.label} on {vit.name} makes no pyramid; {making_pyramids('Swin')} on a Swin do.")

    @classmethod
    def pyramids(cls) -> tuple[str, ...]:
        """The backbones on which settings of it make feature pyramids."""
        makes = {"Swin": cls.pyramid is not Method.pyramid, "plain ViTs": cls.whole}
        return tuple(name for name, there in makes.items() if there)

    def check(self, vit: Backbone) -> None:
        """Raise `Unsupported` with the reason if this setting cannot run on that backbone."""
        reason = self.refusal(vit)
        if reason:
            raise Unsupported(f"{self.label} cannot run on {vit.name}: {reason}.")

    def at(self, epoch: float) -> Method:
        """The setting in force at this point of training, in epochs and their fractions."""
        return self

    def lean(self) -> Method:
        """The setting without what only training needs, such as auxiliary heads: what training writes is of it."""
        return self

    def learnt(self, blocks: Sequence[nn.Module]) -> Method:
        """The setting that a trained model's blocks say, where training finds knobs and not weights; else this one."""
        return self

    def twin(self) -> Method | None:
        """Another setting to run on each batch of training, on the same weights; losses get its output as `out.twin`.

        Draw what is random in it by torch, whose state follows from the seed and the update.
        """
        return None

    def losses(self, out: Output, target: Tensor, teacher: Output | None = None) -> dict[str, Tensor]:
        """The terms of the training loss, already weighted; their sum is the loss.

        Args:
            out: the model's output in train mode.
            target: (B,) class indices, or (B, classes) soft labels.
            teacher: the frozen dense model's output on the same images, for methods that distil.
        """
        return {"class": nn.functional.cross_entropy(out.logits, target), **self.token_losses(out.tokens)}

    def token_losses(self, tokens: Tokens) -> dict[str, Tensor]:
        """Those of the terms that follow from the tokens after the last block alone, whatever the task: a model with a
        head of a task's own learns by the task's terms and these.

        Args:
            tokens: in train mode, with all `decisions`.
        """
        return {}

    @classmethod
    def recognise(cls, stored: Stored) -> Release | None:
        """What a published checkpoint says of this method; None unless it is certainly one of this method."""
        return None

    @classmethod
    def translate(cls, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A published checkpoint's tensors, some joined or left out where need be, before `published` names them."""
        return tensors

    def published(self, names: Sequence[str]) -> dict[str, str]:
        """The published name of every tensor in a `Model.state_dict()` of this setting, by its name there."""
        return {name: name.removeprefix("vit.") for name in names}


def quarters(blocks: tuple[int, ...] | None, vit: Backbone) -> tuple[int, ...]:
    """The blocks a three-stage method reduces in: as given, or at each quarter of the depth (3, 6, 9 of 12)."""
    return blocks if blocks is not None else tuple(vit.depth * i // 4 for i in (1, 2, 3))


def unscored(vit: Backbone) -> str | None:
    """The reason if there is no class token whose attention could score patches, else None."""
    return (
        None
        if vit.has_class_token
        else "it scores patches by the attention of a class token, and this backbone has none"
    )


def outside(blocks: tuple[int, ...], vit: Backbone) -> str | None:
    """The reason if a block index does not exist, or if they do not rise from stage to stage, else None."""
    wrong = [b for b in blocks if not 0 <= b < vit.depth]
    if wrong:
        return f"block {wrong[0]} does not exist, blocks are 0 to {vit.depth - 1}"
    return unordered(blocks)


def unordered(blocks: tuple[int, ...]) -> str | None:
    """The reason if blocks do not rise from stage to stage, else None."""
    if all(a < b for a, b in pairwise(blocks)):
        return None
    return f"its stages are in blocks {_text(blocks)}, and each must lie in a later block than the one before"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)
