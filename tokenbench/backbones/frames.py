"""Plain ViTs on clips: each frame is an image, and the class is read from the mean over frames."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tokenbench.backbones.vit import ViT
from tokenbench.core.tokens import Tokens
from tokenbench.errors import Unsupported


class FramesViT(ViT):
    """A ViT whose frames see nothing of each other until the head takes the mean of what it says of each.

    Reducers work on each frame alone. The head is linear, so this is what it says of the mean of frame features.
    """

    clips: ClassVar[bool] = True

    def __new__(cls, backbone: ViT, frames: int) -> FramesViT:
        """An adapter of the same model."""
        return object.__new__(cls)

    def __init__(self, backbone: ViT, frames: int) -> None:
        self.__dict__.update(backbone.__dict__)
        self.frames = frames

    def pooled(self) -> ViT:
        """None is there yet.

        Raises:
            Unsupported: always.
        """
        raise Unsupported(f"{self.name} on frames is read by its own head; give a method that leaves it that.")

    def embed(self, images: Tensor) -> Tokens:
        """Patch and position embedding of each frame of clips (B, channels, frames, H, W)."""
        tokens = super().embed(images.transpose(1, 2).flatten(0, 1))
        return replace(tokens, frames=int(images.shape[2]))

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), the mean over frames, and final-norm features (B * frames, N, C)."""
        logits, features = super().head(tokens)
        return logits.unflatten(0, (-1, tokens.frames)).mean(1), features

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, frames, height and width of a clip."""
        channels, height, width = self.input_size
        return channels, self.frames, height, width


class JointViT(FramesViT):
    """A ViT on the tokens of all frames at once: they attend to each other, and may be merged over frames.

    The class tokens of all frames are the prefix. They score no patches, so methods that ask them refuse it. The grid
    is that of the frames one below the other.
    """

    def __init__(self, backbone: ViT, frames: int) -> None:
        super().__init__(backbone, frames)
        if self.distilled or self.vit.global_pool not in ("token", "avg"):
            raise Unsupported(
                f"{self.name} cannot take all frames at once: it is read by more than a class token or a mean; give "
                "joint=false, or another ViT."
            )

    @property
    def prefix(self) -> int:
        """Number of class and register tokens of all frames."""
        return self.frames * super().prefix

    @property
    def has_class_token(self) -> bool:
        """False: there is one a frame, and none for all."""
        return False

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of all frames, one below the other."""
        rows, cols = super().grid
        return self.frames * rows, cols

    def embed(self, images: Tensor) -> Tokens:
        """Embedded frames of clips (B, channels, frames, H, W) as one sequence, prefix tokens first."""
        tokens = super().embed(images)
        frames, each = tokens.frames, int(self.vit.num_prefix_tokens)
        rows = tokens.x.unflatten(0, (-1, frames))
        x = torch.cat([rows[:, :, :each].flatten(1, 2), rows[:, :, each:].flatten(1, 2)], dim=1)
        grid = (frames * tokens.grid[0], tokens.grid[1])
        return Tokens(x, frames * each, grid, layout=grid)

    def head(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), of the mean of class tokens or of patches by their sizes, and features (B, N, C)."""
        vit: nn.Module = self.vit
        features: Tensor = vit.norm(tokens.x)  # type: ignore[operator]
        if self.vit.global_pool == "token":
            pooled = features[:, : tokens.prefix : self.vit.num_prefix_tokens].mean(1)
        else:
            weights = tokens.sizes()[:, tokens.prefix :, None]
            weights = weights if tokens.present is None else weights * tokens.present.unsqueeze(-1)
            pooled = (features[:, tokens.prefix :] * weights).sum(1) / weights.sum(1)
        return self.vit.head(self.vit.head_drop(self.vit.fc_norm(pooled))), features
