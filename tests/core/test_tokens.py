"""The verbs: what they do to features, sizes and maps, for any batch."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenbench.core.tokens import Tokens

shapes = st.tuples(st.integers(1, 3), st.integers(0, 2), st.integers(2, 9), st.integers(0, 10_000))


def tokens(batch: int, prefix: int, n: int, seed: int) -> Tokens:
    torch.manual_seed(seed)
    return Tokens(torch.randn(batch, prefix + n, 4), prefix, (1, n)).traced()


def some(batch: int, n: int, count: int) -> torch.Tensor:
    return torch.stack([torch.randperm(n)[:count] for _ in range(batch)])


@given(shapes, st.data())
@settings(deadline=None)
def test_keep(shape: tuple[int, ...], data: st.DataObject) -> None:
    before = tokens(*shape)
    batch, prefix, n, _ = shape
    index = some(batch, n, data.draw(st.integers(1, n)))
    after = before.keep(index)
    assert torch.equal(after.x[:, :prefix], before.x[:, :prefix])
    for image in range(batch):
        assert torch.equal(after.patches[image], before.patches[image][index[image]])
        assert torch.equal(after.source[image].argmax(-1), index[image])


@given(shapes, st.data())
@settings(deadline=None)
def test_keep_and_fuse(shape: tuple[int, ...], data: st.DataObject) -> None:
    """No patch is lost, and the fused token is the plain weighted sum of what was dropped."""
    before = tokens(*shape)
    batch, _, n, _ = shape
    index = some(batch, n, data.draw(st.integers(1, n)))
    weights = torch.rand(batch, n)
    after = before.keep(index, fuse=weights)
    assert torch.equal(after.source.sum(1), torch.ones(batch, n))
    for image in range(batch):
        rest = [i for i in range(n) if i not in index[image].tolist()]
        want = sum((weights[image, i] * before.patches[image, i] for i in rest), torch.zeros(4))
        torch.testing.assert_close(after.x[image, -1], want)


@given(shapes, st.data())
@settings(deadline=None)
def test_group(shape: tuple[int, ...], data: st.DataObject) -> None:
    """Sizes add up, the size-weighted mean is kept, every patch is in exactly one token, twice over."""
    now = tokens(*shape)
    batch, prefix, n, _ = shape
    total = now.patches.sum(1)
    for _ in range(2):
        current = now.count - prefix
        count = data.draw(st.integers(1, current))
        assign = torch.cat(
            [torch.arange(count).expand(batch, -1), torch.randint(0, count, (batch, current - count))], 1
        )
        now = now.group(assign, count)
        assert now.count == prefix + count
        assert torch.equal(now.size[:, prefix:].sum(1), torch.full((batch,), float(n)))
        assert torch.equal(now.size[:, prefix:], now.source.sum(2))
        assert torch.equal(now.source.sum(1), torch.ones(batch, n))
        weighted = (now.patches * now.size[:, prefix:, None]).sum(1)
        torch.testing.assert_close(weighted, total, rtol=1e-4, atol=1e-5)


@given(shapes, st.integers(1, 5))
@settings(deadline=None)
def test_mix(shape: tuple[int, ...], count: int) -> None:
    """Shares of a patch never sum to more than one, and sum to one where the tokens look at it enough."""
    before = tokens(*shape)
    weights = (3 * torch.randn(shape[0], count, before.count)).softmax(-1)
    after = before.mix(weights)
    assert after.prefix == 0 and after.count == count
    torch.testing.assert_close(after.x, weights @ before.x)
    looked_at = weights[:, :, shape[1] :].sum(1)
    torch.testing.assert_close(after.share.sum(1), looked_at.clamp(max=1))


@given(shapes)
@settings(deadline=None)
def test_ask_join_and_settle(shape: tuple[int, ...]) -> None:
    before = tokens(*shape).without_prefix()
    asked = before.ask(torch.zeros(shape[0], 2, 4), before)
    assert asked.count == 2 and asked.context is before and asked.source is None
    assert asked.settle().context is None
    joined = before.join(before)
    assert joined.count == 2 * before.count and joined.source.shape[1] == 2 * before.count
    last = joined.last(before.count)
    assert torch.equal(last.x, before.x) and torch.equal(last.source, before.source)


def test_mask_remembers_every_decision() -> None:
    now = tokens(2, 1, 4, 0)
    first, second = torch.ones(2, 4), torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 1]])
    now = now.mask(first).mask(second)
    assert now.alive is second and now.decisions == (first, second)
