"""Operators by cost: the products that torch's counter leaves out, what multiplies nothing, and what nobody knows.

A product is a matmul, a convolution, or a sum over products that one of them could compute.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# aten's operators without a product of matrices that carry no tag "pointwise", by what they do; views apart
FREE = frozenset(
    """
    add sub mul div rsub floor_divide remainder where eq ne lt le gt ge abs relu gelu elu celu leaky_relu hardtanh
    hardswish hardsigmoid softplus softshrink hardshrink threshold glu mish prelu log_sigmoid_forward logit clamp
    copysign polar complex masked_fill bitwise_and bitwise_or bitwise_xor isin isinf isnan heaviside xlogy
    nan_to_num addr dist addcmul addcdiv lerp cross linalg_cross bucketize searchsorted _prelu_kernel
    _conj_physical rrelu_with_noise equal

    sum mean amax amin max min aminmax _aminmax argmax argmin prod var std var_mean std_mean all any norm
    linalg_vector_norm nansum median nanmedian mode kthvalue logsumexp count_nonzero trace histc bincount
    cumsum cumprod cummax cummin logcumsumexp _logcumsumexp segment_reduce renorm _is_all_true _is_any_true

    softmax _softmax log_softmax _log_softmax _safe_softmax _masked_softmax native_layer_norm native_group_norm
    native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit _batch_norm_no_update
    _native_batch_norm_legit_no_training _fused_rms_norm _weight_norm_interface native_dropout _fused_dropout

    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices
    max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d
    mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_nearest_exact1d
    _upsample_nearest_exact2d _upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sampler_2d grid_sampler_3d cudnn_grid_sampler _grid_sampler_2d_cpu_fallback affine_grid_generator
    reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d
    constant_pad_nd im2col col2im channel_shuffle native_channel_shuffle pixel_shuffle pixel_unshuffle

    sort topk unique_dim _unique _unique2 unique_consecutive unique_dim_consecutive nonzero nonzero_static
    index index_select index_put _index_put_impl index_add index_copy index_fill index_reduce gather scatter
    scatter_add scatter_reduce select_scatter slice_scatter diagonal_scatter as_strided_scatter masked_scatter
    masked_select take put embedding _embedding_bag _embedding_bag_forward_only _unsafe_index _unsafe_index_put
    _unsafe_masked_index _unsafe_masked_index_put_accumulate cat stack _stack _chunk_cat block_diag diag_embed
    repeat repeat_interleave roll flip rot90 tril triu tril_indices triu_indices split unbind unsafe_split
    unsafe_split_with_sizes _unsafe_view expand_copy view_copy permute_copy

    clone copy _to_copy _copy_from lift lift_fresh lift_fresh_copy resize set fill zero empty empty_like
    empty_strided empty_permuted new_empty new_empty_strided new_full new_ones new_zeros full full_like ones
    ones_like zeros zeros_like scalar_tensor arange linspace logspace eye range tensor _local_scalar_dense item
    _to_dense _to_sparse _to_sparse_csr _coalesce _coalesced sparse_mask to_padded_tensor _efficientzerotensor
    _sparse_coo_tensor_with_dims_and_tensors sparse_compressed_tensor _convert_indices_from_coo_to_csr
    _convert_indices_from_csr_to_coo _pack_padded_sequence _sparse_sum _sparse_softmax

    bernoulli rand rand_like randn randn_like randint randint_like randperm normal uniform exponential multinomial
    geometric random _assert_async _functional_assert_async _assert_scalar _assert_tensor_metadata
    _thnn_fused_lstm_cell _thnn_fused_gru_cell is_same_size sym_size is_pinned _pin_memory record_stream
    """.split()  # noqa: SIM905  a list would be a page long
)


def products() -> dict[Any, Callable[..., int]]:
    """FLOPs of products that torch does not count, or counts as if no element of a sparse matrix were 0."""
    aten = torch.ops.aten
    by_shape: dict[Any, Callable[..., int]] = {
        aten.mv: lambda a, *_: math.prod(a),
        aten.addmv: lambda _, a, *__: math.prod(a),
        aten.dot: lambda a, *_: math.prod(a),
        aten.vdot: lambda a, *_: math.prod(a),
        aten.addbmm: lambda _, a, b, *__: math.prod(a) * b[-1],
        aten._int_mm: lambda a, b, *_: math.prod(a) * b[-1],
        aten._addmm_activation: lambda _, a, b, *__: math.prod(a) * b[-1],
        aten._weight_int8pack_mm: lambda a, b, *_: math.prod(a) * b[0],
        aten.conv_tbc: lambda a, w, b, pad=0: (a[0] + 2 * pad - w[0] + 1) * a[1] * math.prod(w),
        aten._trilinear: lambda a, w, *_: math.prod(a) * w[0] * w[2],  # a row and weight, as for a linear layer
        aten._cdist_forward: lambda a, b, *_: math.prod(a) * b[-2],
        aten._euclidean_dist: lambda a, b, *_: math.prod(a) * b[-2],
        aten._pdist_forward: lambda a, *_: a[0] * (a[0] - 1) // 2 * a[1],
        aten.mkldnn_rnn_layer: lambda a, *weights: math.prod(a[:-1]) * _matrices(weights[:4]),
        aten._cudnn_rnn: lambda a, weights, *_: math.prod(a[:-1]) * _matrices(weights),
    }
    by_value: dict[Any, Callable[..., int]] = {
        aten.mm: lambda a, b, *_: _matmul(a, b),
        aten.bmm: lambda a, b, *_: _matmul(a, b),
        aten.addmm: lambda _, a, b, *__: _matmul(a, b),
        aten._sparse_addmm: lambda _, a, b, *__: _matmul(a, b),
        aten._sparse_sparse_matmul: lambda a, b, *_: _matmul(a, b),
    }
    return {op: _doubled(macs) for op, macs in by_shape.items()} | {
        op: _doubled(macs, raw=True) for op, macs in by_value.items()
    }


def apart(failed: set[str], inputs: list[Any], outputs: list[Any]) -> float:
    """MACs of a node of a trace, by taking its operator apart on shapes alone; 0 and its name in `failed` otherwise."""
    node = outputs[0].node()
    schema = torch._C.parse_schema(node.schema())
    space, _, name = schema.name.partition("::")
    counter = FlopCounterMode(display=False, custom_mapping=products())
    try:
        op = getattr(getattr(getattr(torch.ops, space), name), schema.overload_name or "default")
        given = dict(zip((argument.name for argument in schema.arguments), map(_value, inputs), strict=True))
        named = {argument.name: given.pop(argument.name) for argument in schema.arguments if argument.kwarg_only}
        with torch.no_grad(), counter:
            op(*given.values(), **{key: value for key, value in named.items() if value is not None})
    except Exception:  # an operator without an answer for shapes alone may raise anything
        failed.add(schema.name)
        return 0.0
    return counter.get_total_flops() / 2


class Met(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operators that run inside, each by the elements of what it takes and gives. Enter it before a counter,
    so that it sees what that takes apart.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.touched: Counter[OpOverload] = Counter()  # elements
        self.sparse = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        self.sparse |= any(tensor.layout is not torch.strided for tensor in tensors)
        if isinstance(func, OpOverload) and not _is_view(func):
            self.touched[func] += sum(tensor.numel() for tensor in tensors)
        return out

    def uncounted(self) -> dict[str, float]:
        """The share of all elements touched, 0 to 1, of each operator of which nobody knows what it costs."""
        counted = {*flop_registry, *products()}
        total = max(1, self.touched.total())
        unknown: Counter[str] = Counter()
        for op, elements in self.touched.items():
            if op.overloadpacket not in counted and not _is_free(op):
                unknown[op.name().removeprefix("aten::").split(".")[0]] += elements
        return {name: elements / total for name, elements in unknown.most_common()}


def _is_view(op: OpOverload) -> bool:
    """Whether it only looks at a tensor in another way, or changes in place how that looks (`transpose_`)."""
    returns = [r.alias_info for r in op._schema.returns]
    return torch.Tag.inplace_view in op.tags or any(alias is not None and not alias.is_write for alias in returns)


def _is_free(op: OpOverload) -> bool:
    if op.namespace not in ("aten", "prim", "prims"):
        return not any("Tensor" in str(argument.type) for argument in op._schema.arguments)
    name = op._schema.name.partition("::")[2]
    return torch.Tag.pointwise in op.tags or name in FREE or name.removesuffix("_") in FREE or op.namespace != "aten"


def _doubled(macs: Callable[..., int], raw: bool = False) -> Callable[..., int]:
    """A formula as torch's counter takes it: FLOPs, by the shapes of tensors or, `raw`, by the tensors."""

    def flops(*args: Any, out_val: Any = None, out_shape: Any = None, **kwargs: Any) -> int:
        return 2 * macs(*args, **{key: value for key, value in kwargs.items() if key == "pad"})

    if raw:
        flops._get_raw = True  # type: ignore[attr-defined]
    return flops


def _matmul(a: Tensor, b: Tensor) -> int:
    """MACs of a product of matrices (…, n, k) and (…, k, m), either of which may be sparse."""
    if a.layout is torch.strided and b.layout is torch.strided:
        return a.numel() * b.shape[-1]
    if b.layout is torch.strided:
        return _held(a) * b.shape[-1]
    if a.layout is torch.strided:
        return a.shape[-2] * _held(b)
    with _disable_current_modes():  # or this would be met and counted itself
        inner = (a.to_sparse().coalesce().indices()[-1], b.to_sparse().coalesce().indices()[-2])
        left, right = (index.bincount(minlength=a.shape[-1]) for index in inner)
        return int((left * right).sum())


def _matrices(weights: Sequence[Sequence[int]]) -> int:
    """Elements of those shapes that are of matrices: a recurrent layer multiplies each by every step."""
    return sum(math.prod(shape) for shape in weights if len(shape) > 1)


def _held(sparse: Tensor) -> int:
    """Elements that a sparse tensor holds."""
    return (sparse._values() if sparse.layout is torch.sparse_coo else sparse.values()).numel()


def _value(value: Any) -> Any:
    """What a value of a trace stands for, its tensors on the meta device.

    Raises:
        ValueError: it was computed in the trace and is no tensor.
    """
    kind = value.node().kind()
    if kind == "prim::ListConstruct":
        return [_value(item) for item in value.node().inputs()]
    if value.type().isSubtypeOf(torch._C.TensorType.get()):
        return torch.empty(value.type().sizes(), dtype=value.type().dtype(), device="meta")
    if kind != "prim::Constant":
        raise ValueError(f"{kind} has no value before the trace is run")
    return value.toIValue()
