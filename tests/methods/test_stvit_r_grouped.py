"""Windows that look at neighbourhoods in groups give what gathered ones give, wherever they lie and what is hidden."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tokenbench.methods.stvit_r import grouped
from tokenbench.methods.stvit_r.blocks import Semantic, Stem
from tokenbench.methods.stvit_r.dense import generate, recover

LAYOUTS = [
    (7, 7),
    (14, 21),
    (1, 2),
    (13, 75),
    (80, 7),
    (9, 90),
    (45, 40),
]  # up to 12 windows a side, more than any sees


def block() -> Semantic:
    torch.manual_seed(0)
    made = Semantic(8, 2, 16).double().eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made


def looks(layout: tuple[int, int], hide: bool) -> dict[str, tuple[Tensor, Callable[[Semantic, Tensor], Tensor]]]:
    """What each kind of block attends to, and the block's work on it."""
    rows, cols = (-(-length // 7) for length in layout)
    x, semantic = (torch.randn(2, n, 8).double() for n in (layout[0] * layout[1], rows * cols * 9))
    return {
        "generate": (x, lambda block, y: generate(block, y, layout, 7, 3, 14, None, hide)),
        "refine": (x, lambda block, y: generate(block, y, layout, 7, 3, 21, semantic, hide)),
        "recover": (semantic, lambda block, y: recover(block, x, layout, y, 7, 3, 27, hide)),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize(("hide", "fused"), [(False, True), (True, True), (True, False)])
def test_grouped_as_gathered(layout: tuple[int, int], hide: bool, fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients."""
    tested = block()
    tested.attn.fused_attn = fused
    for name, (y, work) in looks(layout, hide).items():
        y.requires_grad_()
        tested.published = True
        wanted = work(tested, y)
        (slope,) = torch.autograd.grad(wanted.sin().sum(), y)
        tested.published = False
        for size in (2, 20):
            monkeypatch.setattr(grouped, "TOGETHER", size)
            found = work(tested, y)
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9, msg=lambda m: f"{name} by {size}: {m}")  # noqa: B023
            (own,) = torch.autograd.grad(found.sin().sum(), y)
            torch.testing.assert_close(own, slope, rtol=1e-9, atol=1e-9)


def test_what_is_kept_of_one_image_serves_the_next() -> None:
    """In training after a look without gradients, in another precision, under a compiler's eyes; no more is kept than
    so many sizes.
    """
    tested, layout = block(), (13, 20)
    x = looks(layout, True)["generate"][0]
    wanted = recover(tested, x, layout, looks(layout, True)["recover"][0], 7, 3, 27, True)
    grouped._planned.cache_clear()
    semantic = looks(layout, True)["recover"][0]
    with torch.inference_mode():
        seen = recover(tested, x, layout, semantic, 7, 3, 27, True)
    again = recover(tested, x, layout, semantic, 7, 3, 27, True)
    assert grouped._planned.cache_info().hits == 1 and torch.equal(again, seen) and again.shape == wanted.shape
    assert torch.autograd.grad(again.sum(), tested.attn.q.weight)[0].isfinite().all()
    half = recover(tested.float(), x.float(), layout, semantic.float(), 7, 3, 27, True)
    torch.testing.assert_close(half.double(), seen, rtol=1e-3, atol=1e-3)
    for rows in range(20, 20 + 2 * grouped.KEPT):
        recover(tested, torch.randn(1, rows * 7, 8), (rows, 7), torch.randn(1, -(-rows // 7) * 9, 8), 7, 3, 27, True)
    assert grouped._planned.cache_info().currsize <= grouped.KEPT


def test_batch_norm_in_the_stems_convolutions() -> None:
    """Eval mode gives what the modules give one after another, and their gradients; training mode is left alone."""
    torch.manual_seed(0)
    stem = Stem((32, 32), 3, 16).double()
    images = torch.randn(2, 3, 33, 30).double()
    for _ in range(3):
        stem(5 * images + 1)
    steps = [part for step in (stem.proj[0], stem.proj[2]) for part in (step.c, step.bn, nn.Hardswish())]
    plain = nn.Sequential(*steps)
    for parameter in stem.parameters():
        nn.init.normal_(parameter)
    for mode in (True, False):
        stem.train(mode)
        kept = {name: value.clone() for name, value in stem.state_dict().items()}
        wanted = plain(images).permute(0, 2, 3, 1)
        slopes = torch.autograd.grad(wanted.sin().sum(), list(stem.parameters()))
        stem.load_state_dict(kept)
        found = stem(images)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), list(stem.parameters())), slopes)
        assert found.is_contiguous()
