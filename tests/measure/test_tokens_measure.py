"""Token counts after each block."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from reducing import Half, Masked, Scored, model
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.errors import DataError
from tokenbench.measure.tokens import per_block


def test_removed_tokens(tiny: Callable[..., Backbone], images: Tensor) -> None:
    reduced = model(tiny(), {3: [Half()], 6: [Scored(32)]}).train()
    got = per_block(reduced, [images[:3], images[3:]])
    assert got is not None
    assert got.mean == (*[37.0] * 3, *[19.0] * 3, *[10.0] * 6)
    assert got.std == (0.0,) * 12
    assert reduced.training


def test_masked_tokens_differ_by_image(tiny: Callable[..., Backbone], images: Tensor) -> None:
    # image i of a batch keeps 36 - i: 36, 35, 34 and, in a batch of its own, 36 again
    got = per_block(model(tiny(), {2: [Masked()]}), [(images[:3], torch.zeros(3)), (images[3:], torch.zeros(1))])
    assert got is not None
    assert got.mean == pytest.approx([37.0] * 2 + [1 + 35.25] * 10)
    assert got.std == pytest.approx([0.0] * 2 + [(2.75 / 4) ** 0.5] * 10)


def test_registers_count_and_plain_modules_have_none(tiny: Callable[..., Backbone], images: Tensor) -> None:
    got = per_block(model(tiny(reg_tokens=2), {0: [Half()]}), [images])
    assert got is not None and got.mean == (21.0,) * 12
    assert per_block(tiny().vit, [images]) is None
    assert per_block(nn.Flatten(), []) is None
    for empty in ([], [images[:0]]):
        with pytest.raises(DataError, match=r"^The data holds no image to count tokens of; give at least one\.$"):
            per_block(model(tiny()), empty)
