"""What one block hands to a later one: marks follow their tokens, state is carried as it is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reducing import model
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.attention import Attn
from tokenbench.core.block import Reducer
from tokenbench.core.tokens import Tokens

B, PREFIX, N = 3, 2, 8


def start() -> Tokens:
    """Tokens whose marks are their features, once of width 4 and once the first of them."""
    x = torch.randn(B, PREFIX + N, 4, generator=torch.Generator().manual_seed(0))
    tokens = Tokens(x, PREFIX, (2, 4), layout=(2, 4)).traced()
    return tokens.mark("wide", x).mark("flat", x[..., 0]).store("graph", x)


def follows(tokens: Tokens) -> None:
    torch.testing.assert_close(tokens.marks["wide"], tokens.x)
    torch.testing.assert_close(tokens.marks["flat"], tokens.x[..., 0])


INDEX = torch.tensor([[3, 0, 7], [1, 2, 3], [7, 6, 5]])
ASSIGN = torch.tensor([[0, 1, 2, 0, 1, 2, 0, 0]]).expand(B, -1)
VERBS: dict[str, Callable[[Tokens], Tokens]] = {
    "keep": lambda t: t.keep(INDEX),
    "fuse": lambda t: t.keep(INDEX, fuse=torch.rand(B, N)),
    "keep_where": lambda t: t.keep_where(torch.arange(N) < torch.tensor([[2], [5], [8]])),
    "keep_where, fuse": lambda t: t.keep_where(torch.arange(N) % 3 == torch.arange(B)[:, None], torch.rand(B, N)),
    "group": lambda t: t.group(ASSIGN, 3),
    "group twice": lambda t: t.group(ASSIGN, 3).group(ASSIGN[:, 1:4], 3),
    "group, uneven": lambda t: t.group(torch.randint(0, 6, (B, N)), None),
    "mix": lambda t: t.mix(torch.rand(B, 5, PREFIX + N).softmax(-1)),
    "without_prefix": lambda t: t.without_prefix(),
    "last": lambda t: t.last(3),
    "join": lambda t: t.keep(INDEX).join(t.keep(INDEX + 0)),
    "mask": lambda t: t.mask(torch.ones(B, N)),
    "settle": lambda t: t.settle(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_marks_follow_their_tokens(verb: str) -> None:
    before = start()
    after = VERBS[verb](before)
    follows(after)
    assert after.state["graph"] is before.x


def test_new_tokens_have_no_marks() -> None:
    before = start()
    assert not before.ask(torch.zeros(B, 2, 4), before).marks
    grid = before.without_prefix()
    assert not Tokens(grid.x, 0, (2, 4), layout=(2, 4)).mark("m", grid.x).halve(torch.zeros(B, 2, 4)).marks
    assert before.mark("more", before.x).join(before).marks.keys() == {"wide", "flat"}


def test_they_cannot_be_changed_in_place() -> None:
    before = start()
    after = before.mark("flat", before.x[..., 1]).store("graph", 3)
    assert before.state["graph"] is before.x and torch.equal(before.marks["flat"], before.x[..., 0])
    assert after.state["graph"] == 3 and torch.equal(after.marks["flat"], before.x[..., 1])
    with pytest.raises(TypeError):
        before.marks["flat"] = before.x[..., 1]  # type: ignore[index]
    with pytest.raises(TypeError):
        before.state["graph"] = 1  # type: ignore[index]


@pytest.mark.parametrize("shape", [(B, N), (B,), (1, PREFIX + N), (B, PREFIX + N, 2, 2)])
def test_marks_are_one_a_token(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"Mark 'bad' has shape .*; give \(3, 10\)"):
        start().mark("bad", torch.zeros(shape))


class Remember(Reducer):
    """Note what each token received, for a later block."""

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        assert attn is not None
        return tokens.mark("received", attn.received().sum(1))


class Use(Reducer):
    """Keep the ten that received most in an earlier block, set the others aside; and bring them back."""

    where = "before"

    def __init__(self, back: bool = False) -> None:
        super().__init__()
        self.back = back

    def forward(self, tokens: Tokens, attn: Attn | None) -> Tokens:
        if self.back:
            return tokens.join(tokens.state["aside"])
        order = tokens.marks["received"][:, tokens.prefix :].argsort(dim=1, descending=True)
        return tokens.keep(order[:, :10]).store("aside", tokens.keep(order[:, 10:]))


def test_through_a_model(tiny: Callable[..., Backbone], images: Tensor) -> None:
    """Over blocks in between; traced, compiled and exported alike; tokens set aside come back with their maps."""
    reduced = model(tiny(), {2: [Remember()], 5: [Use()], 8: [Use(back=True)]})
    with torch.inference_mode():
        out = reduced.run(images, trace=True)
        assert [step.count for step in out.trace] == [37] * 5 + [11] * 3 + [37] * 4
        assert torch.equal(out.trace[7].source.sum((1, 2)), torch.full((4,), 10.0))
        assert torch.equal(out.trace[8].source.sum(1), torch.ones(4, 36))
        assert torch.equal(reduced(images), out.logits)
        torch.compiler.reset()
        compiled = torch.compile(reduced, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), out.logits, rtol=1e-4, atol=1e-5)
        program = torch.export.export(reduced, (images,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
        torch.testing.assert_close(program.module()(images[:3]), out.logits[:3], rtol=1e-4, atol=1e-5)
