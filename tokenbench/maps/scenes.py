"""What a dense task draws of an image, as plain arrays: what is there, what was found, where semantic tokens look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenbench.backbones.swin import laid
from tokenbench.core.tokens import Tokens
from tokenbench.methods.stvit_r.blocks import image_of
from tokenbench.methods.stvit_r.dense import DenseRecovering

REACH = 4  # windows to each side that a window recovers from


@dataclass(frozen=True)
class Layer:
    """Regions of an image: pixels (H, W) of class or object, -1 where there is none; boxes (N, 4) as x1, y1, x2, y2."""

    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    words: tuple[str, ...] = ()  # beside each box


@dataclass(frozen=True)
class Unit:
    """How a unit recovers its map: what each patch takes from each semantic token."""

    layout: tuple[int, int]  # patches
    tokens: tuple[int, int]  # semantic tokens
    weights: NDArray[np.float32]  # (patches, tokens), each patch's sum to 1

    @property
    def clusters(self) -> NDArray[np.int64]:
        """The token (rows, columns) that each patch takes most of."""
        found: NDArray[np.int64] = self.weights.argmax(axis=1).reshape(self.layout)
        return found

    def cover(self, token: int) -> NDArray[np.float32]:
        """What each patch (rows, columns) takes of one token."""
        return self.weights[:, token].reshape(self.layout)


@dataclass(frozen=True)
class Scene:
    """One image with everything that is drawn of it."""

    name: str
    picture: NDArray[np.uint8]  # (H, W, 3)
    truth: Layer | None
    found: Layer
    units: tuple[Unit, ...] = ()
    choices: tuple[NDArray[np.bool_], ...] = ()  # patches (rows, columns) that go through the MLPs, of others that stay


def units(body: nn.Module, images: Tensor) -> tuple[Unit, ...]:
    """How each unit of STViT-R in a pyramid recovers the map of one image (1, 3, H, W); none of other methods.

    Attention is that of each window to the semantic tokens of the windows around it, the mean over heads. Zeros over
    the border of the map, which take part where the published code does not hide them, are left out.
    """
    found: list[Unit] = []

    def look(turn: Any, given: tuple[Any, ...]) -> None:
        tokens, block = given[0], turn.borrowed[0]
        image, window, side = image_of(tokens), turn.options["window"], turn.options["side"]
        layout = laid(image)
        whole = tuple(-(-length // window) * side for length in layout)
        hidden = _apart(layout, whole, window, side)
        keys = block.attn.kv(block.norm1(tokens.x))
        _, attn = block.attn.mix(block.norm1(image.x), keys, hidden[None, None].to(keys))
        found.append(Unit(layout, whole, attn.weights()[0].float().cpu().numpy()))  # type: ignore[arg-type]

    hooks = [turn.register_forward_pre_hook(look) for turn in body.modules() if isinstance(turn, DenseRecovering)]
    try:
        with torch.inference_mode():
            body(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(found)


def choices(body: nn.Module, images: Tensor) -> tuple[NDArray[np.bool_], ...]:
    """Which patches of one image (1, 3, H, W) each choice of DynamicSwin sends through the MLPs that follow, until the
    next; none of other methods.
    """
    found: list[Tokens] = []

    def look(turn: Any, given: Any, tokens: Tokens) -> None:
        if tokens.paths is not None and not (found and found[-1].paths is tokens.paths):
            found.append(tokens)

    hooks = [turn.register_forward_hook(look) for turn in body.blocks]  # type: ignore[union-attr,operator]
    try:
        with torch.inference_mode():
            body(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(map(_through, found))


def _through(tokens: Tokens) -> NDArray[np.bool_]:
    chosen = np.zeros(tokens.count, np.bool_)
    chosen[tokens.paths.slow[0].cpu().numpy()] = True  # type: ignore[union-attr]
    return chosen.reshape(laid(tokens))


def _apart(layout: Any, whole: Any, window: int, side: int) -> Tensor:
    """(patches, tokens) minus infinity where a token's window is too far from a patch's, else 0."""
    axes = []
    for length, count in zip(layout, whole, strict=True):
        mine, theirs = torch.arange(length) // window, torch.arange(count) // side
        axes.append((mine[:, None] - theirs).abs() > REACH)
    far = axes[0][:, None, :, None] | axes[1][None, :, None, :]
    return torch.zeros(far.shape).masked_fill(far, float("-inf")).flatten(2).flatten(0, 1)


def of_boxes(masks: Sequence[Any], boxes: Any, words: Sequence[str], size: tuple[int, int]) -> Layer:
    """A layer of objects, those that come first on top; masks (H, W) may be None."""
    labels = np.full(size, -1, np.int64)
    for i, mask in reversed(list(enumerate(masks))):
        if mask is not None:
            labels[np.asarray(mask, bool)] = i
    return Layer(labels, np.asarray(boxes, np.float64).reshape(-1, 4), tuple(words))
