"""What a reducer may ask of attention, what each request costs, and how it may change attention itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from reducing import model
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens
from tokenbench.measure.flops import count

Tiny = Callable[..., Backbone]
N, C, H, BLOCK = 37, 32, 2, 4  # tokens, width and heads of the tiny backbone; the block that is asked


class Asking(Reducer):
    """Asks, keeps the answer and changes nothing; that it is added 0 times keeps it in the graph that is counted."""

    def __init__(self, request: Callable[[Attn], Any], matrix: bool = False) -> None:
        super().__init__()
        self.request, self.matrix, self.answer = request, matrix, None  # type: ignore[misc]

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        assert attn is not None
        self.answer = self.request(attn)
        return tokens.with_x(tokens.x + 0 * self.answer.sum()) if isinstance(self.answer, Tensor) else tokens


class Changing(Reducer):
    """Changes attention before it mixes anything."""

    where = "attention"

    def __init__(self, change: Callable[[Tokens, Attn], tuple[Tokens, Attn]], values: str = "before") -> None:
        super().__init__()
        self.change, self.values = change, values  # type: ignore[misc,assignment]

    def forward(self, tokens: Tokens, attn: Attn | None) -> tuple[Tokens, Attn]:
        assert attn is not None
        return self.change(tokens, attn)


def by_hand(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens before the block, its q, v and whole attention, from timm's parts."""
    vit = backbone.vit
    x = vit._pos_embed(vit.patch_embed(images))
    for block in vit.blocks[:BLOCK]:
        x = block(x)
    attn = vit.blocks[BLOCK].attn
    qkv = attn.qkv(vit.blocks[BLOCK].norm1(x)).reshape(len(x), N, 3, H, C // H).permute(2, 0, 3, 1, 4)
    return x, qkv[1], qkv[2], (qkv[0] @ qkv[1].transpose(-2, -1) * (C // H) ** -0.5).softmax(-1)


def after(backbone: Backbone, x: Tensor, mixed: Tensor) -> Tensor:
    """Logits from the tokens before the block and what attention mixed, (B, H, M, d)."""
    vit, block = backbone.vit, backbone.vit.blocks[BLOCK]
    x = x + block.attn.proj(mixed.transpose(1, 2).flatten(2))
    x = x + block.mlp(block.norm2(x))
    for later in vit.blocks[BLOCK + 1 :]:
        x = later(x)
    return vit.forward_head(vit.norm(x))


REQUESTS: dict[str, tuple[Callable[[Attn], Any], Callable[[Tensor, Tensor, Tensor], Tensor], int]] = {
    # the request, the same from keys, values and the whole attention, and its multiply-adds
    "class_row": (lambda a: a.class_row(), lambda k, v, w: w[:, :, 0, 1:].mean(1), N * C),
    "class_rows": (lambda a: a.class_rows(), lambda k, v, w: w[:, :, 0, 1:], N * C),
    "rows of three": (lambda a: a.rows(slice(2, 5)), lambda k, v, w: w[:, :, 2:5], 3 * N * C),
    "received": (lambda a: a.received(), lambda k, v, w: w.sum(2), N * N * C),
    "received from patches": (lambda a: a.received(slice(1, None)), lambda k, v, w: w[:, :, 1:].sum(2), 36 * N * C),
    "weights": (lambda a: a.weights(), lambda k, v, w: w.mean(1), N * N * C),
    "every head": (lambda a: a.rows(), lambda k, v, w: w, N * N * C),
    "mean_key": (lambda a: a.mean_key(), lambda k, v, w: k.mean(1), 0),
    "values": (lambda a: a.v, lambda k, v, w: v, 0),
    "value_norms": (lambda a: a.value_norms(), lambda k, v, w: v.transpose(1, 2).flatten(2).norm(dim=-1), 0),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_answers_and_their_costs(name: str, tiny: Tiny, images: Tensor) -> None:
    request, want, macs = REQUESTS[name]
    backbone, asking = tiny(), Asking(request)
    asked = model(backbone, {BLOCK: [asking]})
    with torch.inference_mode():
        assert torch.equal(asked(images), backbone.vit(images))
        torch.testing.assert_close(asking.answer, want(*by_hand(backbone, images)[1:]))
    flops, plain = count(asked, images), count(model(tiny()), images)
    assert flops.by_part["selection"] == pytest.approx(macs / 1e9)
    assert flops.gmacs - plain.gmacs == pytest.approx(macs / 1e9)


@pytest.mark.parametrize("name", REQUESTS)
def test_matrix_is_written_out_once(name: str, tiny: Tiny, images: Tensor) -> None:
    """A reducer that says it needs all of attention gets the matrix that the output is made with."""
    request, want, _ = REQUESTS[name]
    backbone, asking = tiny(), Asking(request, matrix=True)
    asked = model(backbone, {BLOCK: [asking]})
    with torch.inference_mode():
        torch.testing.assert_close(asked(images), backbone.vit(images), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(asking.answer, want(*by_hand(backbone, images)[1:]))
        seen: list[Tensor] = []
        asking.request = lambda attn: seen.append(attn.matrix)
        asked(images)
    assert seen[0].shape == (4, H, N, N)
    flops = count(asked, images)
    assert flops.gmacs == pytest.approx(count(model(tiny()), images).gmacs)
    assert flops.by_part["selection"] == 0


@torch.inference_mode()
def test_bias_and_matrix_replaced(tiny: Tiny, images: Tensor) -> None:
    backbone = tiny()
    x, _, v, weights = by_hand(backbone, images)
    near = -torch.rand(1, 1, N, N)

    def biased(tokens: Tokens, attn: Attn) -> tuple[Tokens, Attn]:
        return tokens, replace(attn, bias=near)

    def thinned(tokens: Tokens, attn: Attn) -> tuple[Tokens, Attn]:
        rows = attn.rows()
        return tokens, replace(attn, matrix=rows * (rows > 1 / N))

    got = model(backbone, {BLOCK: [Changing(biased)]})(images)
    want = (weights.log() + near).softmax(-1) @ v
    torch.testing.assert_close(got, after(backbone, x, want), rtol=1e-4, atol=1e-5)
    got = model(backbone, {BLOCK: [Changing(thinned)]})(images)
    torch.testing.assert_close(got, after(backbone, x, weights * (weights > 1 / N) @ v), rtol=1e-4, atol=1e-5)


def test_dropped_tokens_are_not_mixed(tiny: Tiny, images: Tensor) -> None:
    """Sampling inside attention: only the rows of tokens that stay are computed, over all keys and values."""
    backbone, stay = tiny(), torch.arange(0, 36, 3)
    at = torch.cat([torch.zeros(1, dtype=torch.long), stay + 1])

    def sampled(tokens: Tokens, attn: Attn) -> tuple[Tokens, Attn]:
        return tokens.keep(stay), replace(attn, q=attn.q[:, :, at])

    dropping = model(backbone, {BLOCK: [Changing(sampled)]})
    with torch.inference_mode():
        x, _, v, weights = by_hand(backbone, images)
        want = after(backbone, x[:, at], weights[:, :, at] @ v)
        torch.testing.assert_close(dropping(images), want, rtol=1e-4, atol=1e-5)
        assert dropping.run(images, trace=True).trace[BLOCK].source.shape == (4, 12, 36)
    block = count(dropping, images).by_block[BLOCK]
    assert block == pytest.approx((3 * N * C * C + 2 * 13 * N * C + 13 * C * C + 8 * 13 * C * C) / 1e9)


def test_values_of_the_tokens_that_go_on(tiny: Tiny, images: Tensor) -> None:
    """Merging before attention: the matrix of all tokens is merged too, and values are those of what is left."""
    backbone, pairs = tiny(), torch.arange(36) // 2
    place = torch.cat([torch.zeros(1, dtype=torch.long), pairs + 1])
    sums = torch.zeros(N, 19).scatter(1, place[:, None], 1.0)

    def merged(tokens: Tokens, attn: Attn) -> tuple[Tokens, Attn]:
        assert attn.v is None
        with pytest.raises(ValueError, match="no values before attention"):
            attn.value_norms()
        matrix = (sums / sums.sum(0)).mT @ attn.rows() @ sums
        return tokens.group(pairs.expand(4, -1), 18), replace(attn, matrix=matrix)

    merging = model(backbone, {BLOCK: [Changing(merged, values="after")]})
    with torch.inference_mode():
        x, _, _, weights = by_hand(backbone, images)
        x, weights = (sums / sums.sum(0)).mT @ x, (sums / sums.sum(0)).mT @ weights @ sums
        block = backbone.vit.blocks[BLOCK]
        v = block.attn.qkv(block.norm1(x))[..., 2 * C :].reshape(4, 19, H, C // H).transpose(1, 2)
        got = merging(images)
        torch.testing.assert_close(got, after(backbone, x, weights @ v), rtol=1e-4, atol=1e-5)
        merging.blocks[BLOCK].reducers[0].change = lambda tokens, attn: (tokens, attn)
        assert torch.allclose(merging(images), backbone.vit(images), atol=1e-5)


def test_values_are_projected_once(tiny: Tiny, images: Tensor) -> None:
    stay = torch.arange(18)

    def half(tokens: Tokens, attn: Attn) -> tuple[Tokens, Attn]:
        return tokens.keep(stay), replace(attn, matrix=attn.rows(slice(0, 19))[..., :19])

    block = count(model(tiny(), {BLOCK: [Changing(half, values="after")]}), images).by_block[BLOCK]
    once = 2 * N * C * C + 19 * C * C + 19 * N * C + 19 * 19 * C  # q and k of all, v of half, 19 rows, 19 values mixed
    assert block == pytest.approx((once + 19 * C * C + 8 * 19 * C * C) / 1e9)


def test_masked_training_answers_from_its_own_softmax(tiny: Tiny, images: Tensor) -> None:
    """Under a mask, tokens that were dropped receive nothing of the class token, and sizes still count."""

    class Masking(Reducer):
        where = "before"

        def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
            return replace(tokens, size=torch.full((4, N), 2.0)).mask((torch.arange(36) < 20).float().expand(4, -1))

    asking = Asking(lambda attn: (attn.class_row(), attn.bias))
    masked = model(tiny(), {BLOCK: [Masking(), asking]})
    masked.blocks[BLOCK].proportional = True
    with torch.inference_mode():
        masked(images)
    row, bias = asking.answer  # type: ignore[misc]
    assert (row[:, :20] > 1e-3).all() and (row[:, 20:] < 1e-5).all()
    torch.testing.assert_close(bias, torch.full((4, 1, 1, N), 2.0).log())
