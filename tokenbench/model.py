"""A backbone run with a method: embed, then [attention, reducer, MLP] for every block, then the head.

The timm model stays untouched and its own parts are run; a block that nothing reduces is called as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbench.backbones import Backbone
from tokenbench.core.block import Output, Place, Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported
from tokenbench.methods.base import Method


class Model(nn.Module):
    """A backbone run with a method: images (B, 3, H, W) to logits (B, classes).

    Args:
        backbone: the adapted timm model; its weights are used in place.
        method: a setting of a method; see `tokenbench.methods`. What it adds takes the timm model's dtype and device.

    Raises:
        Unsupported: the method cannot run on this backbone; the message gives the reason.
    """

    recompute = False  # in training: compute blocks a second time in the backward pass rather than keep their inside

    def __init__(self, backbone: Backbone, method: Method) -> None:
        super().__init__()
        method = method.on(backbone)
        method.check(backbone)
        given, pixels, names = backbone.vit, backbone.pixels, backbone.class_names
        self.backbone = backbone = method.wrap(backbone)
        backbone.pixels, backbone.class_names = pixels, names
        self.vit = backbone.vit
        reducers = method.reducers(backbone)
        _check(reducers, method, backbone)
        self.blocks = nn.ModuleList(
            backbone.turn(i, reducers.get(i, ()), method.proportional) for i in range(backbone.depth)
        )
        _like(given, self)
        self.use(method)

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return int(self.vit.num_classes)

    @property
    def config(self) -> dict[str, Any]:
        """How images are to be prepared: input_size, mean, std, crop_pct and interpolation, under timm's names."""
        return self.backbone.config

    def idle(self) -> Sequence[nn.Parameter]:
        """Parameters of the timm model that no output depends on, such as relative positions of a Swin block that
        generates tokens. Freeze them (`requires_grad_(False)`) before DistributedDataParallel, which waits for the
        gradient of every parameter; they are left as they are here, since the timm model may be in other use too.
        """
        return self.method.idle(self.backbone)  # type: ignore[no-any-return]

    def use(self, method: Method) -> None:
        """Take new values for the knobs, such as a scheduled keep rate; places and parameters stay as they are."""
        self.method: Any = method
        use(self.blocks, method)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W), already normalised."""
        return self.backbone.head(self._loop(self.backbone.embed(images)))[0]

    def run(self, images: Tensor, trace: bool = False) -> Output:
        """As `forward`, with features and tokens; with `trace` the maps from patches to tokens are followed too."""
        tokens = self.backbone.embed(images)
        steps: list[Tokens] = []
        tokens = self._loop(tokens.traced() if trace else tokens, steps)
        logits, features = self.backbone.head(tokens)
        return Output(logits, features, tokens, tuple(steps), self.backbone.patch_head)

    def _loop(self, tokens: Tokens, steps: list[Tokens] | None = None) -> Tokens:
        for block in self.blocks:
            again = self.recompute and self.training
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
            if steps is not None:
                steps.append(tokens)
        return tokens


def use(blocks: nn.ModuleList, method: Method) -> None:
    """Give the reducers of blocks new values for the knobs."""
    for block in blocks:
        for reducer in block.reducers:  # type: ignore[union-attr]
            reducer.method = method  # type: ignore[union-attr]


def _check(reducers: Mapping[int, Sequence[Reducer]], method: Method, backbone: Backbone) -> None:
    """Raise `Unsupported` for what is no reducer, or one that would never be called."""
    places = get_args(Place)
    for block, several in reducers.items():
        if block not in range(backbone.depth):
            raise Unsupported(
                f"{method.label} puts a reducer into block {block} of {backbone.name}, whose blocks are 0 to "
                f"{backbone.depth - 1}; mend its `reducers`, or let its `supports` refuse this setting."
            )
        if not isinstance(several, Sequence) or not all(isinstance(reducer, Reducer) for reducer in several):
            raise Unsupported(
                f"{method.label} gives block {block} a {type(several).__name__}; give a list of reducers, `[Mine()]`."
            )
        nowhere = next((reducer.where for reducer in several if reducer.where not in places), None)
        if nowhere is not None:
            raise Unsupported(
                f"{method.label} has a reducer that stands '{nowhere}'; it may stand {', '.join(places)}."
            )


def _like(given: nn.Module, model: nn.Module) -> None:
    """Move what is in a model and not in the given module to that one's device, and its numbers to that one's dtype."""
    theirs = set(given.modules())
    first = next((p for p in given.parameters() if p.is_floating_point()), None)
    if first is None:
        return
    for module in set(model.modules()) - theirs:
        module._apply(  # `to` of this module alone, without those inside it
            lambda t: t.to(first.device, first.dtype if t.is_floating_point() else t.dtype), recurse=False
        )
