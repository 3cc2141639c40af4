"""State dicts in the layouts that authors publish: their names and shapes, written down from their models.

Tensors are zeros that share one number, so that files of real sizes are small.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def zeros(*shape: int) -> Tensor:
    return torch.zeros(1).expand(shape) if shape else torch.tensor(0)


def linear(name: str, rows: int, columns: int, bias: bool = True) -> State:
    return {f"{name}.weight": zeros(rows, columns)} | ({f"{name}.bias": zeros(rows)} if bias else {})


def norm(name: str, dim: int) -> State:
    return {f"{name}.weight": zeros(dim), f"{name}.bias": zeros(dim)}


def mlp(name: str, dim: int, ratio: int = 4) -> State:
    return linear(f"{name}.fc1", ratio * dim, dim) | linear(f"{name}.fc2", dim, ratio * dim)


def deit(dim: int, classes: int = 1000, patches: int = 196, depth: int = 12, distilled: bool = False) -> State:
    """facebookresearch/deit, youweiliang/evit, and timm's plain VisionTransformer."""
    state = {"cls_token": zeros(1, 1, dim), "pos_embed": zeros(1, patches + 1 + distilled, dim)}
    state |= {"patch_embed.proj.weight": zeros(dim, 3, 16, 16), "patch_embed.proj.bias": zeros(dim)}
    for i in range(depth):
        block = f"blocks.{i}"
        state |= norm(f"{block}.norm1", dim) | linear(f"{block}.attn.qkv", 3 * dim, dim)
        state |= linear(f"{block}.attn.proj", dim, dim) | norm(f"{block}.norm2", dim) | mlp(f"{block}.mlp", dim)
    state |= norm("norm", dim) | linear("head", classes, dim)
    return state | ({"dist_token": zeros(1, 1, dim)} | linear("head_dist", classes, dim) if distilled else {})


def dynamicvit(dim: int) -> State:
    """raoyongming/DynamicViT, models/dyvit.py."""
    state = deit(dim)
    for i in range(3):
        start = f"score_predictor.{i}"
        state |= norm(f"{start}.in_conv.0", dim) | linear(f"{start}.in_conv.1", dim, dim)
        state |= linear(f"{start}.out_conv.0", dim // 2, dim) | linear(f"{start}.out_conv.2", dim // 4, dim // 2)
        state |= linear(f"{start}.out_conv.4", 2, dim // 4)
    return state


def stvit_r(dim: int, depth: int = 18, use_global: bool = False, layer_scale: bool = False) -> State:
    """changsn/STViT-R, models/swin_transformer.py, with the buffers it saves."""
    state: State = {}
    for i, (rows, columns) in enumerate(((dim // 2, 3), (dim, dim // 2))):
        start = f"patch_embed.proj.{2 * i}"
        state |= {f"{start}.c.weight": zeros(rows, columns, 3, 3)} | norm(f"{start}.bn", rows)
        state |= {f"{start}.bn.running_mean": zeros(rows), f"{start}.bn.running_var": zeros(rows)}
        state[f"{start}.bn.num_batches_tracked"] = zeros()
    for stage, blocks in enumerate((2, 2, depth, 2)):
        width = dim * 2**stage
        for i in range(blocks):
            block = f"layers.{stage}.blocks.{i}"
            semantic = stage == 2 and i % 6
            state |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width) | mlp(f"{block}.mlp", width)
            state |= linear(f"{block}.attn.proj", width, width)
            if semantic:
                state |= linear(f"{block}.attn.q", width, width) | linear(f"{block}.attn.kv", 2 * width, width)
            else:
                state |= linear(f"{block}.attn.qkv", 3 * width, width)
                state[f"{block}.attn.relative_position_bias_table"] = zeros(169, width // 32)
                state[f"{block}.attn.relative_position_index"] = zeros(49, 49).long()
            if stage < 2 and i % 2:
                state[f"{block}.attn_mask"] = zeros((8 // 2**stage) ** 2, 49, 49)
            if semantic or (layer_scale and stage != 2):
                state |= {f"{block}.layer_scale_{k}": zeros(width) for k in (1, 2)}
        if stage < 3:
            state |= norm(f"layers.{stage}.downsample.norm", 4 * width)
            state |= linear(f"layers.{stage}.downsample.reduction", 2 * width, 4 * width, bias=False)
    if use_global:
        state["layers.2.semantic_token2"] = zeros(1, 36, 4 * dim)
    return state | norm("norm", 8 * dim) | linear("head", 1000, 8 * dim)
