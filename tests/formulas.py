"""Options of methods, each with what is found and what its formula says; and what formulas share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from conftest import tiny_vit
from equations import ffn, mha
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core.block import Output
from tokenbench.core.tokens import Tokens
from tokenbench.methods.base import Method
from tokenbench.model import Model

Pairs = Iterator[tuple[Any, Any]]
OPTIONS: dict[str, Callable[[], Pairs]] = {}
QUARTERS = (3, 6, 9)


def options(*names: str) -> Callable[[Callable[[], Pairs]], Callable[[], Pairs]]:
    """A function that gives, for each of several values of these options, what is found and what the formula says."""

    def add(pairs: Callable[[], Pairs]) -> Callable[[], Pairs]:
        OPTIONS.update(dict.fromkeys(names, pairs))
        return pairs

    return add


def large(module: nn.Module) -> Any:
    """Parameters so large that tokens differ, and what each layer does is seen in the output."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in module.named_parameters():
        mean = float(parameter.dim() == 1 and not name.endswith("bias"))  # of norms and LayerScale
        parameter.data = mean + 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def images(size: int = 48) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


def made(method: Method, family: Callable[..., nn.Module] = tiny_vit, **size: Any) -> Any:
    return large(Model(Backbone(family(**size)), method))


@torch.no_grad()
def logits(model: Any, size: int = 48) -> Tensor:
    out: Tensor = model(images(size))
    return out


Choose = Callable[[int, Tensor, Tensor], Tensor]  # stage, tokens, attention of the class token to the others


@torch.no_grad()
def reduced(model: Any, blocks: Sequence[int], choose: Choose, before: bool = False) -> Tensor:
    """Logits of a ViT that changes its tokens between attention and MLP of some blocks, or before them."""
    vit = model.vit
    x = vit._pos_embed(vit.patch_embed(images()))
    for i, block in enumerate(vit.blocks):
        if before and i in blocks:
            x = choose(blocks.index(i), x, x.new_empty(0))
        out, weights = mha(block, x, x)
        x = x + out
        if not before and i in blocks:
            x = choose(blocks.index(i), x, weights[:, 0, 1:])
        x = ffn(block, x)
    return vit.head(vit.norm(x)[:, 0])


def taken(x: Tensor, places: Tensor) -> Tensor:
    """The class token and the patches at places (B, K)."""
    return torch.stack([torch.cat([tokens[:1], tokens[1:][order]]) for tokens, order in zip(x, places, strict=True)])


TARGET = torch.tensor([2, 0])
KEPT = [torch.tensor(rows) for rows in ([[1.0, 1, 1, 0, 1], [1, 1, 0, 0, 0]], [[1.0, 0, 1, 0, 1], [1, 0, 0, 0, 0]])]


def output(seed: int) -> Output:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 6, 8, generator=generator)
    tokens = Tokens(features, 1, (1, 5))
    for decision in KEPT:
        tokens = tokens.mask(decision)
    return Output(torch.randn(2, 3, generator=generator), features, tokens, ())


STUDENT, TEACHER = output(1), output(2)


def kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of KL(teacher || student)."""
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()
