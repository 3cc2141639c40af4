"""ViT, DeiT and DINOv2 as Hugging Face's transformers names their tensors, under timm's names.

Queries, keys and values are one matrix there; the numbers are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

START = re.compile(r"((?:[^.]+\.)*?)embeddings\.patch_embeddings\.projection\.weight")
BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+)\.(\w+)")
PARTS = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1": "ls1",
    "layer_scale2": "ls2",
}
TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.mask_token": "mask_token",
    "embeddings.register_tokens": "register_tokens",  # as DINOv2's authors call it, which timm reads
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
HEADS = {"classifier": "head", "cls_classifier": "head", "distillation_classifier": "head_dist"}
ATTENTION = "attention.attention."


def to_timm(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under timm's names and clauses that say what was left out; others than transformers' are left alone."""
    start = next((match[1] for key in tensors if (match := START.fullmatch(key))), None)
    if start is None:
        return dict(tensors), ()
    above = start.rpartition(".")[0].rpartition(".")[0]  # heads stand beside the model, not in it
    found: dict[str, Tensor] = {}
    heads: dict[str, list[Tensor | None]] = {}
    pooler = False
    for key, value in tensors.items():
        name = key.removeprefix(start)
        block = BLOCK.fullmatch(name)
        stem, _, kind = key.removeprefix(f"{above}." if above else "").rpartition(".")
        if block and block[2].removeprefix(ATTENTION) in ("query", "key", "value"):
            place = ("query", "key", "value").index(block[2].removeprefix(ATTENTION))
            heads.setdefault(f"blocks.{block[1]}.attn.qkv.{block[3]}", [None] * 3)[place] = value
        elif block and block[2] in PARTS:
            kind = "gamma" if block[3] == "lambda1" else block[3]
            found[f"blocks.{block[1]}.{PARTS[block[2]]}.{kind}"] = value
        elif stem in HEADS:
            found[f"{HEADS[stem]}.{kind}"] = value
        elif name.startswith("pooler."):
            pooler = True
        else:
            found[TOP.get(name, key)] = value
    for key, parts in heads.items():
        whole = [part for part in parts if part is not None]
        if len(whole) == len(parts):
            found[key] = torch.cat(whole)
    return found, ("the pooler is left out, which classifies nothing",) if pooler else ()
