"""Formulas of operators by shapes alone, for those too that this machine's kernels do not call."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tokenbench.measure import operators

aten = torch.ops.aten
GATES = [(24, 8), (24, 6), (24,), (24,)]  # of an LSTM of six units on eight features


@pytest.mark.parametrize(
    ("op", "shapes", "macs"),
    [
        (aten._int_mm, [(3, 5), (5, 7)], 3 * 5 * 7),
        (aten._addmm_activation, [(7,), (3, 5), (5, 7)], 3 * 5 * 7),
        (aten._weight_int8pack_mm, [(3, 5), (7, 5), (7,)], 3 * 5 * 7),
        (aten.conv_tbc, [(9, 3, 8), (2, 8, 7), (7,)], 8 * 3 * 2 * 8 * 7),
        (aten.conv_tbc, [(9, 3, 8), (2, 8, 7), (7,), 2], 12 * 3 * 2 * 8 * 7),
        (aten._cudnn_rnn, [(5, 3, 8), GATES, 4, None, (1, 3, 6)], 5 * 3 * 24 * (8 + 6)),
        (aten.mkldnn_rnn_layer, [(5, 3, 8), *GATES, (3, 6), (3, 6)], 5 * 3 * 24 * (8 + 6)),
        (aten._trilinear, [(4, 8), (3, 8, 9), (4, 9), [1], [0]], 4 * 8 * 3 * 9),
        (aten._euclidean_dist, [(2, 5, 8), (2, 4, 8)], 2 * 5 * 4 * 8),
        (aten._pdist_forward, [(5, 8), 2.0], 10 * 8),
    ],
)
def test_flops_of_shapes(op: Any, shapes: list[Any], macs: int) -> None:
    assert operators.products()[op](*shapes, out_val=None, out_shape=(1,), beta=1.0) == 2 * macs


def test_padding_may_be_named() -> None:
    assert operators.products()[aten.conv_tbc]((9, 3, 8), (2, 8, 7), (7,), pad=1) == 2 * 10 * 3 * 2 * 8 * 7


@pytest.mark.parametrize(
    ("space", "name", "kinds", "tags", "free"),
    [
        ("aten", "aten::sort", ["Tensor"], [], True),
        ("aten", "aten::add_", ["Tensor"], [], True),
        ("aten", "aten::_fft_r2c", ["Tensor"], [], False),
        ("aten", "aten::new_one", ["Tensor"], [torch.Tag.pointwise], True),
        ("prim", "prim::device", ["Tensor"], [], True),
        ("prims", "prims::sin", ["Tensor"], [], True),
        ("mine", "mine::add", ["Tensor"], [torch.Tag.pointwise], False),
        ("mine", "mine::add", ["int", "Optional[Tensor]"], [], False),
        ("mine", "mine::seed", ["int"], [], True),
    ],
)
def test_what_multiplies_nothing(space: str, name: str, kinds: list[str], tags: list[Any], free: bool) -> None:
    """Of others' operators nobody knows, unless they take no tensor."""
    schema = SimpleNamespace(name=name, arguments=[SimpleNamespace(type=kind) for kind in kinds])
    assert operators._is_free(SimpleNamespace(namespace=space, _schema=schema, tags=tags)) is free  # type: ignore[arg-type]
