"""Weights in and out: files, the weights that ship, the hub through timm, and random ones from a seed.

A pickle is only ever read with `weights_only=True`, so a file that would run code is refused and never run.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from timm.layers import resample_abs_pos_embed
from timm.models import clean_state_dict, load_pretrained, swin_transformer, vision_transformer
from torch import Tensor, nn
from torch.serialization import safe_globals

from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError

SHIPPED = Path(__file__).parent / "sample"
HUB_SECONDS = 5.0  # how long the hub may take to answer at all, name look-up included
HEADER = "tokenbench"  # the key of our settings in a safetensors header
AVERAGED = ("state_dict_ema", "model_ema")  # where training code wraps its weights, averaged or as they are
CURRENT = ("state_dict", "model")
# Options that training code saves beside weights. Only their names are known: plain dictionaries are made of them.
OPTIONS = [(OrderedDict, "argparse.Namespace"), (OrderedDict, "yacs.config.CfgNode")]


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


def load_dense(backbone: Backbone, source: str = "auto", seed: int = 0) -> Weights:
    """Fill a backbone with dense weights.

    Args:
        backbone: its weights are replaced in place.
        source: "random"; a file; or "auto": what ships with tokenbench, else the hub (cache first; `HF_HOME`,
            `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured), else random weights with the reason in `note`.
        seed: decides every random value.

    Raises:
        WeightsError: the weights were found but are damaged or do not fit.
    """
    if source == "random":
        return _randomise(backbone, seed)
    if source != "auto":
        return load(backbone, source)
    shipped = SHIPPED / f"{backbone.name}.safetensors"
    if shipped.is_file() and header(shipped).get("classes", backbone.vit.num_classes) == backbone.vit.num_classes:
        given = load(backbone, shipped)
        return Weights("shipped", given.name, given.hash, given.note)
    config = backbone.vit.pretrained_cfg
    try:
        path = _hub_file(config)
    except Exception as error:  # the hub's client raises the errors of three libraries
        note = f"no pretrained weights for {backbone.name} ({_first_line(error)}), so the weights are random"
        return _randomise(backbone, seed, note)
    return _load_hub(backbone, path, config, seed)


def load(target: Backbone | nn.Module, path: str | Path) -> Weights:
    """Fill a backbone or a whole model from a file; nothing is changed unless everything fits.

    Read are `.safetensors`, and `.pth`, `.pt` and `.bin` that hold tensors only. Of a wrapped file the first of
    `state_dict_ema`, `model_ema`, `state_dict` and `model` is taken; a leading `module.` or `_orig_mod.` is dropped.
    Position embeddings of another image size are resampled as timm does; values are cast to the model's dtype.

    Raises:
        WeightsError: no such file; cut short; would run code; or names or shapes that do not fit.
    """
    path = Path(path)
    stored = read(path)
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
    own = _fitted(own, vit, path, header(path).get("image_size"))
    stored = rest | {prefix + key: value for key, value in own.items()}
    check(stored, root.state_dict(), path, target.name if isinstance(target, Backbone) else type(target).__name__)
    root.load_state_dict(stored)
    return Weights("file", path.name, sha(path), _resampled(before, own.get("pos_embed")))


def header(path: str | Path) -> dict[str, Any]:
    """The settings saved with weights; empty for files of other makers and other formats."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    _exists(path)
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER, "{}")
        found = json.loads(text)
    except Exception as error:  # as in read
        raise WeightsError(f"{path} cannot be read ({_first_line(error)}); it is cut or damaged.") from None
    return found if isinstance(found, dict) else {}


def save(path: str | Path, model: Backbone | nn.Module, header: Mapping[str, Any]) -> None:
    """Write a model's weights as safetensors with `header` (JSON values) in its header: all of it or nothing.

    Raises:
        WeightsError: the name does not end in .safetensors, or the file cannot be written.
    """
    module = model.vit if isinstance(model, Backbone) else model
    write(path, module.state_dict(), header)


def write(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors as safetensors with `header` (JSON values) in its header: all of it or nothing.

    Raises:
        WeightsError: the name does not end in .safetensors, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"Weights are saved as safetensors only; give '{path}' a name that ends in .safetensors.")
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    data = to_safetensors(plain, metadata={"format": "pt", HEADER: json.dumps(dict(header), sort_keys=True)})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(
            f"{path} cannot be written ({error.strerror or error}, {len(data) / 1e6:.1f} MB); "
            "free some space or give another path."
        ) from None
    finally:
        part.unlink(missing_ok=True)


def read(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; as `contents` and `state_dict`."""
    return state_dict(contents(path), path)


def contents(path: str | Path) -> Any:
    """All that a file holds, on the CPU; options saved by training code come as plain dictionaries.

    Raises:
        WeightsError: no such file; cut short; or would run code.
    """
    path = Path(path)
    _exists(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(), safe_globals(OPTIONS):  # type: ignore[arg-type, no-untyped-call]
            warnings.simplefilter("ignore")  # torch warns of pickle protocols in files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise WeightsError(
            f"{path} holds more than tensors and could run code when loaded{f' ({code[1]})' if code else ''}, "
            "so it is not read; convert it to safetensors."
        ) from None
    except Exception as error:  # a damaged file makes the two readers raise nearly anything
        raise WeightsError(f"{path} cannot be read as weights ({_first_line(error)}); it is cut or damaged.") from None


def state_dict(content: Any, path: str | Path, averaged: bool = True) -> dict[str, Tensor]:
    """The weights among a file's contents, without the prefixes of wrappers; averaged ones first, or last."""
    found = content
    for key in AVERAGED + CURRENT if averaged else CURRENT + AVERAGED:
        if isinstance(content, Mapping) and content.get(key) is not None:
            found = content[key]
            break
    stored = clean_state_dict(found) if isinstance(found, dict) else {}
    odd = next((key for key, value in stored.items() if not isinstance(value, Tensor)), None)
    if odd is not None or not stored:
        what = f"'{odd}' is no tensor" if odd is not None else "it is empty"
        raise WeightsError(f"{path} holds no weights that can be loaded: {what}; give a state dict of tensors.")
    return stored


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
            f"{path} does not fit: its layout or position embedding cannot be converted ({_first_line(error)})."
        ) from None


def _filter(vit: nn.Module) -> Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] | None:
    """timm's reader of the layouts it knows for this model."""
    if isinstance(vit, vision_transformer.VisionTransformer):  # DeiT III calls its layer scale gamma
        return partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
    if isinstance(vit, swin_transformer.SwinTransformer):
        fit: Callable[[dict[str, Tensor], nn.Module], dict[str, Tensor]] = swin_transformer.checkpoint_filter_fn
        return fit
    return None


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
        raise WeightsError(f"The hub's weights do not fit {backbone.name}: {_first_line(error)}.") from None
    notes, random_head = [], vit.num_classes not in (0, config["num_classes"])
    if random_head:
        notes.append(f"the head of {vit.num_classes} classes is random, the weights have {config['num_classes']}")
    if before is not None and backbone.input_size[1:] != tuple(config["input_size"][1:]):
        notes.append("position embedding resampled")
    revision = path.parent.name[:12]  # the hub's cache keeps files under .../snapshots/<commit>/
    return Weights("hub", f"{config['hf_hub_id']}@{revision}", sha(path), "; ".join(notes) or None, random_head)


def _hub_file(config: Mapping[str, Any]) -> Path:
    """The file of a model's pretrained weights, from the cache or the hub; raises an error that says why not."""
    from huggingface_hub import constants

    if not config.get("hf_hub_id"):
        raise LookupError("the hub has none")
    repo, _, revision = config["hf_hub_id"].partition("@")
    given = config.get("hf_hub_filename")
    names = (given,) if given else (constants.SAFETENSORS_SINGLE_FILE, constants.PYTORCH_WEIGHTS_NAME)
    return from_hub(repo, names, revision or None)


def from_hub(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The first of the named files that a repository has, from the cache or the hub; raises an error that says why not.

    `HF_HOME`, `HF_ENDPOINT` and `HF_HUB_OFFLINE` are honoured.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE is set and the cache does not have them")
    _reach(constants.ENDPOINT)
    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=HUB_SECONDS))
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{repo} has no {' or '.join(names)}")


def _reach(endpoint: str) -> None:
    """Raise `ConnectionError` unless the hub answers in `HUB_SECONDS`: its own client retries for half a minute."""
    from huggingface_hub import get_session

    failures: list[str] = ["no answer in time"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=HUB_SECONDS).status_code
            failures[:] = [f"status {status}"] if status >= 500 else []
        except Exception as error:  # of whichever HTTP library the hub's client uses
            failures[:] = [_first_line(error)]

    asking = threading.Thread(target=ask, daemon=True)  # no timeout of a request covers the name look-up
    asking.start()
    asking.join(HUB_SECONDS)
    if failures:
        raise ConnectionError(f"{endpoint} does not answer: {failures[0]}")


def _exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"Weights file '{path}' {what}; give a .safetensors or .pth file, 'auto' or 'random'.")


def sha(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _resampled(before: Tensor | None, after: Tensor | None) -> str | None:
    if before is None or after is None or before.shape == after.shape:
        return None
    return f"position embedding resampled from {before.shape[1]} to {after.shape[1]} tokens"


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError) or not str(error).strip():
        return type(error).__name__
    return str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
