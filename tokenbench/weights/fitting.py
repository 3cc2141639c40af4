"""Whether tensors are those of a model, and what is wrong where they are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tokenbench.backbones import SHORT_NAMES, sizes
from tokenbench.errors import WeightsError

Tensors = Mapping[str, Tensor]
LAYER = "pre_logits."  # which timm once kept between norm and head, and drops now


def check(stored: Tensors, wanted: Tensors, path: Path, name: str, left_out: Sequence[str] = ()) -> None:
    """Raise `WeightsError` unless names, shapes and kinds of numbers are those the model wants, and all are finite."""
    missing = [key for key in wanted if key not in stored]
    extra = [key for key in stored if key not in wanted]
    both = [key for key in wanted if key in stored]
    shapes = [key for key in both if stored[key].shape != wanted[key].shape]
    kinds = [key for key in both if wanted[key].is_floating_point() and not stored[key].is_floating_point()]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, the first {_names(missing, wanted)}")
    if extra:
        problems.append(f"{len(extra)} unexpected, the first {_names(extra, stored)}")
    if shapes:
        given, expected = (tuple(side[shapes[0]].shape) for side in (stored, wanted))
        problems.append(f"{len(shapes)} of another shape, the first {shapes[0]} {given} where {expected} is expected")
    if problems:
        clauses = "; ".join([*problems, *left_out])
        raise WeightsError(
            f"{path} does not fit {name} of {len(wanted)} tensors: {clauses}; give weights of this model."
        )
    if kinds:
        kind = str(stored[kinds[0]].dtype).removeprefix("torch.")
        raise WeightsError(
            f"{path} cannot be used: {len(kinds)} of its tensors {'are' if len(kinds) > 1 else 'is'} whole numbers, "
            f"the first {kinds[0]} ({kind}), so it is of a quantised or another model; give weights in floating point."
        )
    for key in both:
        value = stored[key]
        wide = value.float() if value.is_floating_point() and value.element_size() == 1 else value  # float8 has no test
        bad = 0 if value.is_meta else int((~wide.isfinite()).sum())
        if bad:
            raise WeightsError(
                f"{path} cannot be used: {bad:,} of the {value.numel():,} values of {key} are NaN or infinite, as a "
                "training that diverged leaves them; give an earlier checkpoint."
            )


def refuse_other(stored: Tensors, wanted: Tensors, path: Path, name: str) -> None:
    """Raise `WeightsError` with what is wrong for weights that are plainly of another model than this backbone."""
    what = _other(stored, wanted, name)
    if what is not None:
        raise WeightsError(f"{path} does not fit {name}: {what}.")


def _other(stored: Tensors, wanted: Tensors, name: str) -> str | None:
    if any(key.startswith(LAYER) for key in stored):
        return (
            "it has a layer between norm and head (pre_logits) that timm no longer has, so the model would compute "
            "something else; give weights without it"
        )
    if any(".lora_" in key or key.startswith("base_model.model.") for key in stored):
        return "it holds adapters (LoRA) beside the weights; merge them first (peft's merge_and_unload) and save again"
    for key in ("dist_token", "head_dist.weight"):
        if (key in stored) != (key in wanted) and ("cls_token" in stored and "cls_token" in wanted):
            return _distilled(key in stored, name)
    mine, theirs = _shape(wanted), _shape(stored)
    if mine is None or theirs is None or mine == theirs:
        return None
    if mine[0] != theirs[0]:
        return f"it is a {theirs[0]} ({sizes.describe(stored)}), and {name} a {mine[0]}; {_advice(stored)}"
    return f"it has {sizes.describe(stored)}, and {name} has {sizes.describe(wanted)}; {_advice(stored)}"


def _distilled(is_distilled: bool, name: str) -> str:
    other = f"{name}_distilled" if is_distilled else name.removesuffix("_distilled")
    advice = f"give --backbone {other}" if other in SHORT_NAMES and other != name else "give the backbone that it is of"
    if is_distilled:
        return (
            f"it has a distillation token (dist_token, head_dist), as distilled DeiTs do, and {name} has none; {advice}"
        )
    return f"it has no distillation token (dist_token, head_dist), and {name} has; {advice}"


def _advice(stored: Tensors) -> str:
    known = sizes.recognise(stored)
    twin = sizes.TWINS.get(known or "")
    return f"give --backbone {known}{f' or {twin}' if twin else ''}" if known else "give the backbone that it is of"


def _shape(tensors: Tensors) -> tuple[str, str] | None:
    """The family and size, of what can be told."""
    if "blocks.0.attn.qkv.weight" in tensors:
        return "vision transformer", sizes.describe(tensors)
    if "layers.0.blocks.0.attn.qkv.weight" in tensors:
        return "Swin", sizes.describe(tensors)
    return None


def _names(keys: Sequence[str], tensors: Tensors) -> str:
    return ", ".join(f"{key} {tuple(tensors[key].shape)}" for key in keys[:3])
