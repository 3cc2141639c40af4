"""Files of weights, read and written. No class or function that a file names is ever imported: one that would run code
is refused and never run.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.core import atomic
from tokenbench.errors import WeightsError, first_sentence
from tokenbench.weights import choice, kinds, plain, transformers
from tokenbench.weights.choice import ALL, Take

HEADER = "tokenbench"  # the key of our settings in a safetensors header
NAMES = ("class_to_idx", "idx_to_class", "classes", "class_names")  # where training scripts keep names of classes
CHECKSUM = "tokenbench.crc32"
LARGEST = 2**34  # bytes of tensors that a small file may claim, by one number that stands for many


@dataclass(frozen=True)
class Reading:
    """The tensors of a file; a clause for whatever was chosen or left out; and the options of its training run.

    `key` is where they stand in a file that has other weights too.
    """

    tensors: Mapping[str, Tensor]
    clauses: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    key: str | None = None


def header(path: str | Path) -> dict[str, Any]:
    """The settings saved with weights; empty for files of other makers and other formats."""
    path = Path(path)
    _exists(path)
    if not kinds.is_safetensors(path):
        return {}
    what = kinds.foreign(path)
    if what is not None:
        raise WeightsError(f"{path} {what}.")
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
    here = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    told = json.dumps(dict(header), sort_keys=True)
    data = to_safetensors(here, metadata={"format": "pt", HEADER: told, CHECKSUM: checksum(here)})
    atomic.write(path, data, WeightsError, f"free some space ({len(data) / 1e6:.1f} MB) or give another path")


def read(path: str | Path, take: Take = ALL) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU; as `reading`."""
    return dict(reading(path, take).tensors)


def reading(path: str | Path, take: Take = ALL) -> Reading:
    """What a file of weights holds, on the CPU, under timm's names where they are transformers'.

    Raises:
        WeightsError: no such file; no weights, or several and `take` does not tell which; cut short; would run code; or
            tensors that are sparse, quantised, complex, or without values.
    """
    path = Path(path)
    content = contents(path)
    if header(path):
        return Reading(content)  # our own: as they were saved
    chosen = choice.choose(content, path, take)
    tensors, left_out = transformers.to_timm(chosen.tensors)
    _refuse_odd(tensors, path)
    return Reading(tensors, (*chosen.clauses, *left_out), _options(content), chosen.key)


def contents(path: str | Path) -> Any:
    """All that a file holds, on the CPU; options and numbers that training code saved come as plain data.

    Raises:
        WeightsError: no such file; cut short; nothing that holds weights; or would run code.
    """
    path = Path(path)
    _exists(path)
    what = kinds.foreign(path)
    if what is not None:
        raise WeightsError(f"{path} {what}.") from None
    if kinds.is_index(path):
        return _parts(path)
    try:
        if kinds.is_safetensors(path):
            stored = load_file(path)
            _check_sum(path, stored)
            return stored
        return plain.load(path)
    except WeightsError:
        raise
    except plain.Code as error:
        raise WeightsError(
            f"{path} holds more than the tensors that torch.save(model.state_dict(), ...) writes, and could run code "
            f"when loaded ({error}), so it is not read; convert it to safetensors."
        ) from None
    except Exception as error:  # a damaged file makes the two readers raise nearly anything
        raise WeightsError(
            f"{path} cannot be read as weights ({first_sentence(error)}); it is cut or damaged."
        ) from None


def _parts(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint in several files, by its index."""
    names = {str(name) for name in dict(json.loads(path.read_bytes())["weight_map"]).values()}
    lost = next((name for name in sorted(names) if Path(name).name != name or not (path.parent / name).is_file()), None)
    if lost is not None:
        raise WeightsError(f"{path} is the index of weights in {len(names)} parts, and {lost} is not beside it.")
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        found |= contents(path.parent / name)
    return found


def _options(content: Any) -> dict[str, Any]:
    """The options of the training run, if the file holds them: of argparse, or of yacs."""
    if not isinstance(content, Mapping):
        return {}
    args, config = content.get("args"), content.get("config")
    return {key: content[key] for key in NAMES if key in content} | {
        **(dict(config) if isinstance(config, Mapping) else {}),
        **(dict(args) if isinstance(args, Mapping) else {}),
        **getattr(args, "__dict__", {}),
    }


def _refuse_odd(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise `WeightsError` for tensors of a kind that no model is filled with."""
    total = 0
    for key, value in tensors.items():
        what = None
        if value.is_meta:
            what = "has no values (it is on the meta device); save the model after its weights are there"
        elif value.is_quantized:
            what = "is quantised; give the weights it was made from"
        elif value.layout != torch.strided or value.is_nested:
            what = f"is sparse ({value.layout}); save it with to_dense()"
        elif value.is_complex():
            what = f"is complex ({value.dtype}), and weights are real numbers; give others"
        if what is not None:
            raise WeightsError(f"{path} cannot be used: {key} {what}.")
        total += value.numel() * value.element_size()
    if total > max(LARGEST, path.stat().st_size):
        raise WeightsError(
            f"{path} claims tensors of {total / 2**30:,.0f} GiB in {path.stat().st_size / 2**20:,.1f} MiB; "
            "it is damaged, or made to fill memory."
        )


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 over names, types, shapes and bytes of tensors on the CPU, 8 hex digits."""
    total = 0
    for key in sorted(tensors):
        value = tensors[key].detach().contiguous()
        total = zlib.crc32(f"{key}\0{value.dtype}\0{tuple(value.shape)}\n".encode(), total)
        total = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{total:08x}"


def _check_sum(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get(CHECKSUM)
    if told is not None and told != checksum(tensors):
        raise WeightsError(f"{path} is damaged: its tensors are not those that were written; restore or remove it.")


def _exists(path: Path) -> None:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsError(f"Weights file '{path}' {what}; give a .safetensors or .pth file, 'auto' or 'random'.")


def sha(path: Path) -> str:
    """SHA-256 of a file, 16 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
