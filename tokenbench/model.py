"""The block loop, written once: embed, then [attention, reducer, MLP] for every block, then the head.

The timm model stays untouched and its own parts are run; only attention is written out here, so that a reducer can ask
for queries and keys. A block that nothing reduces is called as it is. What is written here is the turn of plain blocks;
a family whose blocks work otherwise brings its own (`tokenbench.backbones.swin`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tokenbench.policy import softmax_with_policy
from tokenbench.tokens import Tokens

if TYPE_CHECKING:
    from tokenbench.backbones import Backbone
    from tokenbench.methods.base import Method, Reducer


@dataclass(frozen=True)
class Attn:
    """What a reducer may ask of a block's attention, computed only when asked, so that the fused kernel stays on.

    Shapes: q (B, H, M, d) and k (B, H, N, d), after any q/k norm; M = N but in cross-attention.
    """

    q: Tensor
    k: Tensor
    scale: float
    prefix: int
    bias: Tensor | None = None  # (B, 1, 1, N) added to the logits

    def class_row(self) -> Tensor:
        """Attention of the class token to the tokens after the prefix, mean over heads: (B, N - prefix).

        Softmax runs over all N keys, so a row sums to less than 1. Costs N * C multiply-adds an image.
        """
        return self._weights(self.q[:, :, :1]).mean(1)[:, 0, self.prefix :]

    def mean_key(self) -> Tensor:
        """The keys, mean over heads: (B, N, d)."""
        return self.k.mean(1)

    def weights(self) -> Tensor:
        """All attention, mean over heads: (B, M, N). Quadratic: for maps, not for speed."""
        return self._weights(self.q).mean(1)

    def _weights(self, q: Tensor) -> Tensor:
        logits = (q * self.scale) @ self.k.transpose(-2, -1)
        return (logits if self.bias is None else logits + self.bias).softmax(dim=-1)


@dataclass(frozen=True)
class Output:
    """What a pass returns besides the logits.

    `features` are the final-norm outputs (B, N, C) of `tokens`, the tokens that are left; `trace` holds the tokens
    after each block, in order.
    """

    logits: Tensor
    features: Tensor
    tokens: Tokens
    trace: tuple[Tokens, ...]


class Block(nn.Module):
    """One turn of the loop: a timm block and what reduces tokens in it. Owns the reducers, borrows the block.

    This is the turn of plain blocks; families whose blocks work otherwise override its four steps.
    """

    def __init__(self, block: Any, reducers: Sequence[Reducer] = (), proportional: bool = False) -> None:
        super().__init__()
        # a tuple, so that its parameters are registered once, in the timm model
        self.borrowed: tuple[Any, ...] = (block,)
        self.reducers = nn.ModuleList(reducers)
        self.proportional = proportional

    @property
    def parts(self) -> list[tuple[str, nn.Module]]:
        """The borrowed modules whose costs are told apart, by part of `tokenbench.measure.flops.PARTS`."""
        return [("mlp", self.borrowed[0].mlp)]

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens after this block."""
        tokens = self._reduce("before", self.enter(tokens), None)
        plain = tokens.alive is None and tokens.context is None and not (self.proportional and tokens.size is not None)
        if plain and not any(r.where == "between" for r in self.reducers):
            tokens = self.whole(tokens)
        else:
            tokens, attn = self.attention(tokens)
            tokens = self.mlp(self._reduce("between", tokens, attn))
        return self._reduce("after", tokens, None)

    def enter(self, tokens: Tokens) -> Tokens:
        """What comes before anything else in this turn."""
        return tokens

    def whole(self, tokens: Tokens) -> Tokens:
        """The block when nothing reduces in it: timm's, called as it is."""
        return tokens.with_x(self.borrowed[0](tokens.x))

    def attention(self, tokens: Tokens) -> tuple[Tokens, Attn]:
        """The tokens after attention and its residual, and what a reducer may ask of it."""
        block = self.borrowed[0]
        keys = None if tokens.context is None else block.norm1(tokens.context.x)
        bias = tokens.size.log()[:, None, None, :] if self.proportional and tokens.size is not None else None
        out, q, k = attend(block.attn, block.norm1(tokens.x), keys, bias, _policy(tokens))
        attn = Attn(q, k, block.attn.scale, tokens.prefix, bias)
        x = tokens.x + block.drop_path1(block.ls1(out))
        if tokens.context is not None and tokens.context.source is not None:
            tokens = replace(tokens.context.mix(attn.weights(), x, tokens.layout), context=tokens.context)
        return tokens.with_x(x), attn

    def mlp(self, tokens: Tokens) -> Tokens:
        """The tokens after the MLP and its residual."""
        block = self.borrowed[0]
        return tokens.with_x(tokens.x + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens.x)))))

    def _reduce(self, where: str, tokens: Tokens, attn: Attn | None) -> Tokens:
        for reducer in self.reducers:
            if reducer.where == where:
                tokens = reducer(tokens, attn)
        return tokens


class Model(nn.Module):
    """A backbone run with a method: images (B, 3, H, W) to logits (B, classes).

    Args:
        backbone: the adapted timm model; its weights are used in place.
        method: a setting of a method; see `tokenbench.methods`.

    Raises:
        Unsupported: the method cannot run on this backbone; the message gives the reason.
    """

    recompute = False  # in training: compute blocks a second time in the backward pass rather than keep their inside

    def __init__(self, backbone: Backbone, method: Method) -> None:
        super().__init__()
        method.check(backbone)
        self.backbone = backbone = method.wrap(backbone)
        self.vit = backbone.vit
        reducers = method.reducers(backbone)
        self.blocks = nn.ModuleList(
            backbone.turn(i, reducers.get(i, ()), method.proportional) for i in range(backbone.depth)
        )
        self.use(method)

    def idle(self) -> Sequence[nn.Parameter]:
        """Parameters of the timm model that no output depends on, such as relative positions of a Swin block that
        generates tokens. Freeze them (`requires_grad_(False)`) before DistributedDataParallel, which waits for the
        gradient of every parameter; they are left as they are here, since the timm model may be in other use too.
        """
        return self.method.idle(self.backbone)  # type: ignore[no-any-return]

    def use(self, method: Method) -> None:
        """Take new values for the knobs, such as a scheduled keep rate; places and parameters stay as they are."""
        self.method: Any = method
        for block in self.blocks:
            for reducer in block.reducers:  # type: ignore[union-attr]
                reducer.method = method  # type: ignore[union-attr]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, H, W), already normalised."""
        return self.backbone.head(self._loop(self.backbone.embed(images)))[0]

    def run(self, images: Tensor, trace: bool = False) -> Output:
        """As `forward`, with features and tokens; with `trace` the maps from patches to tokens are followed too."""
        tokens = self.backbone.embed(images)
        steps: list[Tokens] = []
        tokens = self._loop(tokens.traced() if trace else tokens, steps)
        logits, features = self.backbone.head(tokens)
        return Output(logits, features, tokens, tuple(steps))

    def _loop(self, tokens: Tokens, steps: list[Tokens] | None = None) -> Tokens:
        for block in self.blocks:
            again = self.recompute and self.training
            tokens = checkpoint(block, tokens, use_reentrant=False) if again else block(tokens)
            if steps is not None:
                steps.append(tokens)
        return tokens


def attend(
    attn: Any, y: Tensor, keys: Tensor | None = None, bias: Tensor | None = None, policy: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """timm's `Attention.forward`, written out so that q and k can be handed on; bit-equal to it where both apply.

    Args:
        attn: a `timm.layers.Attention`; its own projections and norms are used.
        y: (B, M, C) normalised tokens that ask; also keys and values unless `keys` is given.
        keys: (B, N, C) normalised tokens to attend to instead.
        bias: (B, 1, 1, N) added to the logits.
        policy: (B, N) 1 kept, 0 dropped; turns on the masked softmax of training.

    Returns:
        The projected output (B, M, C), q (B, H, M, d) and k (B, H, N, d).
    """
    batch, count, _ = y.shape
    heads, dim = attn.num_heads, attn.head_dim
    width = heads * dim
    if keys is None:
        q, k, v = attn.qkv(y).reshape(batch, count, 3, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        wq, wkv = attn.qkv.weight.split([width, 2 * width])
        bq, bkv = (None, None) if attn.qkv.bias is None else attn.qkv.bias.split([width, 2 * width])
        q = F.linear(y, wq, bq).reshape(batch, count, heads, dim).transpose(1, 2)
        k, v = F.linear(keys, wkv, bkv).reshape(batch, keys.shape[1], 2, heads, dim).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = attn.q_norm(q), attn.k_norm(k)

    if policy is not None:
        x = attn.attn_drop(softmax_with_policy((q * attn.scale) @ k.transpose(-2, -1), policy).to(v.dtype)) @ v
    else:
        x = mixed(attn, q, k, v, bias)

    x = attn.norm(x.transpose(1, 2).reshape(batch, count, width))
    if attn.gate is not None:
        x = x * attn.gate(y).sigmoid()
    return attn.proj_drop(attn.proj(x)), q, k


def mixed(attn: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Values (…, M, d) mixed by attention, through the kernel that timm would choose for this module; `bias` is added
    to the logits.
    """
    if attn.fused_attn:
        drop = attn.attn_drop.p if attn.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=drop)
    logits = (q * attn.scale) @ k.transpose(-2, -1)
    weights: Tensor = attn.attn_drop((logits if bias is None else logits + bias).softmax(dim=-1))
    return weights @ v


def _policy(tokens: Tokens) -> Tensor | None:
    if tokens.alive is None:
        return None
    return torch.cat([tokens.alive.new_ones(tokens.alive.shape[0], tokens.prefix), tokens.alive], dim=1)
