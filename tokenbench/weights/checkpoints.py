"""A model filled with weights: of a file, those that ship, the hub's through timm, or random ones from a seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import load_pretrained, swin_transformer, vision_transformer
from torch import Tensor, nn
from torchvision.models.video import SwinTransformer3d

from tokenbench.backbones import Backbone, hub
from tokenbench.errors import WeightsError, first_sentence
from tokenbench.weights import files, fitting, inflating, told
from tokenbench.weights.choice import ALL, Take

SHIPPED = Path(__file__).parents[1] / "sample"
HEADS = ("head.", "head_dist.")
MADE = ("relative_position_index", "attn_mask")  # buffers that follow from sizes


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


def header(weights: Weights) -> Mapping[str, Any]:
    """What the file of weights that ship says of them; empty for all others."""
    return files.header(SHIPPED / weights.name) if weights.kind == "shipped" else {}


def load_dense(
    backbone: Backbone, source: str = "auto", seed: int = 0, take: Take = ALL, transfer: bool = False
) -> Weights:
    """Fill a backbone with dense weights.

    Args:
        backbone: its weights are replaced in place.
        source: "random"; a file, or a folder that timm or transformers saved; or "auto": what ships with tokenbench,
            else the hub (cache first; `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured), else random weights
            with the reason in `note`.
        seed: decides every random value.
        take: which weights, of a file that has several.
        transfer: a file may be of other classes, and the head is new then; those of the hub always may.

    Raises:
        WeightsError: the weights were found but are damaged or do not fit.
    """
    if source == "random":
        return _randomise(backbone, seed)
    if source != "auto":
        return load(backbone, told.in_folder(Path(source)) or source, take, seed if transfer else None)
    shipped = SHIPPED / f"{backbone.name}.safetensors"
    if shipped.is_file() and files.header(shipped).get("classes", backbone.vit.num_classes) == backbone.vit.num_classes:
        given = load(backbone, shipped)
        return Weights("shipped", given.name, given.hash, given.note)
    config = backbone.vit.pretrained_cfg
    if config.get("source") == "local-dir":
        found = told.in_folder(Path(config["file"]))
        if found is None:
            raise WeightsError(f"{backbone.name} has no config.json; give a folder that timm's save_for_hf wrote.")
        return load(backbone, found, take, seed)
    try:
        path = hub.pretrained(config)
    except Exception as error:  # the hub's client raises the errors of three libraries
        note = f"no pretrained weights for {backbone.name} ({first_sentence(error)}), so the weights are random"
        return _randomise(backbone, seed, note)
    return _load_hub(backbone, path, config, seed)


def load(target: Backbone | nn.Module, path: str | Path, take: Take = ALL, new_head: int | None = None) -> Weights:
    """Fill a backbone or a whole model from a file; nothing is changed unless everything fits.

    Read are safetensors, what torch.save wrote, and checkpoints in parts by their index. Of a wrapped file the only
    mapping of tensors is taken, whatever its key (see `choice`); what wrappers put into names is dropped, and names of
    transformers become timm's. Position embeddings of another image size are resampled as timm does; values are cast to
    the model's dtype.

    Args:
        target: its weights are replaced in place.
        path: the file.
        take: which weights, of a file that has several.
        new_head: for weights of other classes: the seed of a new head. Without it they do not fit.

    Raises:
        WeightsError: no such file; cut short; would run code; or names, shapes or numbers that do not fit.
    """
    path = Path(path)
    found = files.reading(path, take)
    stored, notes = dict(found.tensors), list(found.clauses)
    root = target.vit if isinstance(target, Backbone) else target
    name = target.name if isinstance(target, Backbone) else type(target).__name__
    vit = getattr(root, "vit", root)
    prefix = "" if vit is root else "vit."
    if not prefix and all(key.startswith("vit.") for key in stored):
        stored = {key.removeprefix("vit."): value for key, value in stored.items()}  # a model saved whole, no reducers
    elif prefix and not any(key.startswith(prefix) for key in stored):
        stored = {prefix + key: value for key, value in stored.items()}  # dense weights into a whole model
    own = {key.removeprefix(prefix): value for key, value in stored.items() if key.startswith(prefix)}
    rest = {key: value for key, value in stored.items() if not key.startswith(prefix)}
    fitting.refuse_other(own, vit.state_dict(), path, name)
    before = own
    own = _fitted(own, vit, path, files.header(path).get("image_size"))
    inflated = isinstance(vit, SwinTransformer3d) and inflating.is_inflated(before, vit)
    notes += ["weights of images, inflated in time"] if inflated else _dropped(before, own)
    random_head = False
    if new_head is not None:
        own, clause = _with_new_head(own, vit, new_head)
        random_head = clause is not None
        notes += [clause] if clause else []
    stored = rest | {prefix + key: value for key, value in own.items()}
    fitting.check(stored, root.state_dict(), path, name, notes)
    root.load_state_dict(stored)
    notes += _resampled(before.get("pos_embed"), own.get("pos_embed"))
    called = path.name if found.key is None else f"{path.name}#{found.key}"
    return Weights("file", called, files.sha(path), "; ".join(notes) or None, random_head)


def _with_new_head(stored: dict[str, Tensor], vit: nn.Module, seed: int) -> tuple[dict[str, Tensor], str | None]:
    """The tensors, with a head from the seed where theirs is of other classes or not there; and a clause of that."""
    wanted = vit.state_dict()
    heads = [key for key in wanted if key.startswith(HEADS)]
    same = all(key in stored and stored[key].shape[:1] == wanted[key].shape[:1] for key in heads)
    if same:
        return stored, None
    had = told.classes(stored)
    fresh = copy.deepcopy(vit)
    _initialise(fresh, seed)
    made = {key: value for key, value in fresh.state_dict().items() if key in heads}
    rest = {key: value for key, value in stored.items() if not key.startswith(HEADS)}
    count = made[heads[0]].shape[0]
    return rest | made, f"the head of {count} classes is new, the file has {'none' if had is None else had}"


def _dropped(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """A clause for the tensors that timm's reader left out, told by the memory they are in; made ones are no loss."""
    kept = {value.untyped_storage().data_ptr() for value in after.values()}
    lost = [
        key
        for key, value in before.items()
        if key not in after and not key.endswith(MADE) and value.untyped_storage().data_ptr() not in kept
    ]
    return (
        [f"timm leaves out {', '.join(lost[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}"]
        if lost
        else []
    )


def _fitted(stored: dict[str, Tensor], vit: Any, path: Path, size: Sequence[int] | None) -> dict[str, Tensor]:
    """The tensors in the model's layout; unchanged where timm has no layouts to tell apart.

    `size` is the height and width that our own files say their positions are for; timm takes them for a square.
    """
    fit = _filter(vit)
    if fit is None:
        return stored
    try:
        if size is None or "pos_embed" not in stored:
            return fit(dict(stored), vit)  # it takes names out of what it is given
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
    if isinstance(vit, SwinTransformer3d):
        return inflating.fitted
    if isinstance(vit, swin_transformer.SwinTransformer):
        fit: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] = swin_transformer.checkpoint_filter_fn
        return fit
    return None


def _randomise(backbone: Backbone, seed: int, note: str | None = None) -> Weights:
    """timm's own initialisation, from `seed`."""
    _initialise(backbone.vit, seed)
    return Weights("random", "random", None, note)


def _initialise(vit: Any, seed: int) -> None:
    """Without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit.init_weights()


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


def _resampled(before: Tensor | None, after: Tensor | None) -> list[str]:
    if before is None or after is None or before.shape == after.shape:
        return []
    return [f"position embedding resampled from {before.shape[1]} to {after.shape[1]} tokens"]
