"""A model filled with weights: of a file, those that ship, the hub's through timm, or random ones from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained, swin_transformer, vision_transformer
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError, first_sentence
from tokenbench.weights import files, hub

SHIPPED = Path(__file__).parents[1] / "sample"


@dataclass(frozen=True)
class Weights:
    """Where a model's weights come from; `hash` is SHA-256 of the file, 16 hex digits, and `note` is for the user."""

    kind: Literal["file", "hub", "shipped", "random"]
    name: str
    hash: str | None = None
    note: str | None = None
    random_head: bool = False  # for classes that they were not trained for

    @property
    def identity(self) -> dict[str, str | None]:
        """Which weights they are, as JSON values."""
        return {"kind": self.kind, "name": self.name, "hash": self.hash}


def load_dense(backbone: Backbone, source: str = "auto", seed: int = 0, new_head: bool = False) -> Weights:
    """Fill a backbone with dense weights.

    Args:
        backbone: its weights are replaced in place.
        source: "random"; a file; or "auto": what ships with tokenbench, else the hub (cache first; `HF_HOME`,
            `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured), else random weights with the reason in `note`.
        seed: decides every random value.
        new_head: to start a training from: of a file for other classes all but the head is taken, which stays random.

    Raises:
        WeightsError: the weights were found but are damaged or do not fit.
    """
    if source == "random":
        return _randomise(backbone, seed)
    if source != "auto":
        return load(backbone, source, seed if new_head else None)
    shipped = SHIPPED / f"{backbone.name}.safetensors"
    if shipped.is_file() and files.header(shipped).get("classes", backbone.vit.num_classes) == backbone.vit.num_classes:
        given = load(backbone, shipped)
        return Weights("shipped", given.name, given.hash, given.note)
    config = backbone.vit.pretrained_cfg
    try:
        path = hub.pretrained(config)
    except Exception as error:  # the hub's client raises the errors of three libraries
        note = f"no pretrained weights for {backbone.name} ({first_sentence(error)}), so the weights are random"
        return _randomise(backbone, seed, note)
    return _load_hub(backbone, path, config, seed)


def load(target: Backbone | nn.Module, path: str | Path, new_head: int | None = None) -> Weights:
    """Fill a backbone or a whole model from a file; nothing is changed unless everything fits.

    Read are `.safetensors`, and `.pth`, `.pt` and `.bin` that hold tensors only. Of a wrapped file the first of
    `state_dict_ema`, `model_ema`, `state_dict` and `model` is taken; a leading `module.` or `_orig_mod.` is dropped.
    Position embeddings of another image size are resampled as timm does; values are cast to the model's dtype.
    With `new_head`, a seed, a backbone takes weights for other classes too, all but their head, which is random then.

    Raises:
        WeightsError: no such file; cut short; would run code; or names or shapes that do not fit.
    """
    path = Path(path)
    stored = files.read(path)
    root = target.vit if isinstance(target, Backbone) else target
    vit = getattr(root, "vit", root)
    prefix = "" if vit is root else "vit."
    if not prefix and all(key.startswith("vit.") for key in stored):
        stored = {key.removeprefix("vit."): value for key, value in stored.items()}  # a model saved whole, no reducers
    elif prefix and not any(key.startswith(prefix) for key in stored):
        stored = {prefix + key: value for key, value in stored.items()}  # dense weights into a whole model
    own = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    rest = {key: value for key, value in stored.items() if not key.startswith(prefix)}
    before = own.get("pos_embed")
    own, note = _fitted(own, vit, path, files.header(path).get("image_size")), None
    if new_head is not None and isinstance(target, Backbone):
        own, note = _new_head(own, target, new_head)
    stored = rest | {prefix + key: value for key, value in own.items()}
    check(stored, root.state_dict(), path, target.name if isinstance(target, Backbone) else type(target).__name__)
    root.load_state_dict(stored)
    notes = [note, _resampled(before, own.get("pos_embed"))]
    return Weights("file", path.name, files.sha(path), "; ".join(filter(None, notes)) or None, note is not None)


def _fitted(stored: dict[str, Tensor], vit: Any, path: Path, size: Sequence[int] | None) -> dict[str, Tensor]:
    """The tensors in the model's layout; unchanged where timm has no layouts to tell apart.

    `size` is the height and width that our own files say their positions are for; timm takes them for a square.
    """
    fit = _filter(vit)
    if fit is None:
        return stored
    try:
        if size is None or "pos_embed" not in stored:
            return fit(stored, vit)
        grid = list(vit.patch_embed.grid_size)
        old = [side // step for side, step in zip(size, vit.patch_embed.patch_size, strict=True)]
        prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
        return stored | {"pos_embed": resample_abs_pos_embed(stored["pos_embed"], grid, old, prefix)}
    except Exception as error:  # timm asserts and indexes its way through layouts it knows
        raise WeightsError(
            f"{path} does not fit: its layout or position embedding cannot be converted ({first_sentence(error)})."
        ) from None


def _filter(vit: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None:
    """timm's reader of the layouts it knows for this model."""
    if isinstance(vit, vision_transformer.VisionTransformer):  # DeiT III calls its layer scale gamma
        return partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
    if isinstance(vit, swin_transformer.SwinTransformer):
        fit: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] = swin_transformer.checkpoint_filter_fn
        return fit
    return None


def _new_head(stored: dict[str, Tensor], backbone: Backbone, seed: int) -> tuple[dict[str, Tensor], str | None]:
    """The tensors with a random head in place of one for other classes, and a note of it; as they are if it fits."""
    vit = backbone.vit
    names = vit.pretrained_cfg.get("classifier") or "head"
    heads = [f"{name}." for name in ([names] if isinstance(names, str) else names)]
    counts = {len(stored[head + "weight"]) for head in heads if head + "weight" in stored} - {vit.num_classes}
    if not counts:
        return stored, None
    _randomise(backbone, seed)
    fresh = {key: value for key, value in vit.state_dict().items() if key.startswith(tuple(heads))}
    return stored | fresh, f"the head of {vit.num_classes} classes is new, the weights have {counts.pop()}"


def check(stored: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Raise `WeightsError` unless keys and shapes are those the model wants."""
    missing = [key for key in wanted if key not in stored]
    extra = [key for key in stored if key not in wanted]
    shapes = [key for key in wanted if key in stored and stored[key].shape != wanted[key].shape]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing, the first {_names(missing, wanted)}")
    if extra:
        problems.append(f"{len(extra)} unexpected, the first {_names(extra, stored)}")
    if shapes:
        given, expected = (tuple(side[shapes[0]].shape) for side in (stored, wanted))
        problems.append(f"{len(shapes)} of another shape, the first {shapes[0]} {given} where {expected} is expected")
    if problems:
        raise WeightsError(
            f"{path} does not fit {name} of {len(wanted)} tensors: {'; '.join(problems)}; give weights of this model."
        )


def _names(keys: Sequence[str], tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {tuple(tensors[key].shape)}" for key in keys[:3])


def _randomise(backbone: Backbone, seed: int, note: str | None = None) -> Weights:
    """timm's own initialisation, from `seed`, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone.vit.init_weights()
    return Weights("random", "random", None, note)


def _load_hub(backbone: Backbone, path: Path, config: Mapping[str, Any], seed: int) -> Weights:
    vit = backbone.vit
    _randomise(backbone, seed)  # a head of other classes stays random, so it must not depend on what was here
    source = {**config, "file": str(path), "source": "", "custom_load": path.suffix == ".npz"}
    pool_less = "siglip" in str(config.get("architecture")) and vit.attn_pool is None
    before = getattr(vit, "pos_embed", None)
    try:
        load_pretrained(
            vit,
            pretrained_cfg=source,
            num_classes=vit.num_classes,
            in_chans=vit.in_chans,
            filter_fn=_filter(vit),
            strict=not pool_less,
        )
    except Exception as error:  # as in read
        raise WeightsError(f"The hub's weights do not fit {backbone.name}: {first_sentence(error)}.") from None
    notes, random_head = [], vit.num_classes not in (0, config["num_classes"])
    if random_head:
        notes.append(f"the head of {vit.num_classes} classes is random, the weights have {config['num_classes']}")
    if before is not None and backbone.input_size[1:] != tuple(config["input_size"][1:]):
        notes.append("position embedding resampled")
    revision = path.parent.name[:12]  # the hub's cache keeps files under .../snapshots/<commit>/
    return Weights("hub", f"{config['hf_hub_id']}@{revision}", files.sha(path), "; ".join(notes) or None, random_head)


def _resampled(before: Tensor | None, after: Tensor | None) -> str | None:
    if before is None or after is None or before.shape == after.shape:
        return None
    return f"position embedding resampled from {before.shape[1]} to {after.shape[1]} tokens"
