"""Files of weights, read and written. A pickle is only ever read with `weights_only=True`, so a file that would run
code is refused and never run.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from timm.models import clean_state_dict
from torch import Tensor, nn
from torch.serialization import safe_globals

from tokenbench.backbones import Backbone
from tokenbench.core import atomic
from tokenbench.errors import WeightsError, first_sentence

HEADER = "tokenbench"  # the key of our settings in a safetensors header
AVERAGED = ("state_dict_ema", "model_ema")  # where training code wraps its weights, averaged or as they are
CURRENT = ("state_dict", "model")
# Options that training code saves beside weights. Only their names are known: plain dictionaries are made of them.
OPTIONS = [(OrderedDict, "argparse.Namespace"), (OrderedDict, "yacs.config.CfgNode")]


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
        raise WeightsError(f"{path} cannot be read ({first_sentence(error)}); it is cut or damaged.") from None
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
    atomic.write(path, data, WeightsError, f"free some space ({len(data) / 1e6:.1f} MB) or give another path")


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
        raise WeightsError(
            f"{path} cannot be read as weights ({first_sentence(error)}); it is cut or damaged."
        ) from None


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


def _exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"Weights file '{path}' {what}; give a .safetensors or .pth file, 'auto' or 'random'.")


def sha(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
