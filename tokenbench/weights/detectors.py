"""Published detectors as models of tokenbench: the backbone by its method's names, the heads by mmdetection's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokenbench import backbones
from tokenbench.backbones import sizes
from tokenbench.backbones.swin import official
from tokenbench.errors import UsageError, WeightsError
from tokenbench.heads import mmdet
from tokenbench.heads.detector import Design, Detector
from tokenbench.methods import all_methods
from tokenbench.methods.base import Method, make
from tokenbench.methods.dense import Dense
from tokenbench.methods.released import Stored
from tokenbench.model import Model
from tokenbench.pyramid import Pyramid
from tokenbench.weights import files, fitting
from tokenbench.weights.files import Reading

BODY = "backbone."
DERIVED = (".relative_position_index", ".attn_mask")  # buffers that follow from sizes


def reading(source: str) -> Reading | None:
    """What a file holds, if that is a detector of mmdetection's layout; None for all else."""
    path = Path(source)
    if not path.is_file() or files.header(path):
        return None
    content = files.contents(path)
    found = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {
        str(key).removeprefix("module."): value
        for key, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, Tensor)
    }
    return Reading(tensors) if mmdet.is_detector(tensors) else None


def write(found: Reading, path: Path, out: Path, backbone: str | None = None, force: bool = False) -> dict[str, Any]:
    """Write a detector of mmdetection's layout as tokenbench's own, and return its header.

    Args:
        found: what the file holds.
        path: the file.
        out: what to write, a name in .safetensors.
        backbone: a name, where the tensors do not tell.
        force: replace `out`.

    Raises:
        UsageError: `out` is no such name, or exists.
        WeightsError: tensors that do not fit, or of a backbone that is not known.
    """
    if out.suffix != ".safetensors" or (out.exists() and not force):
        raise UsageError(f"{out} exists, or does not end in .safetensors; give another name, or --force to replace it.")
    body = {key.removeprefix(BODY): value for key, value in found.tensors.items() if key.startswith(BODY)}
    method = _method(Stored(body, found.options))
    name = backbone or sizes.recognise(body)
    if name is None:
        raise WeightsError(f"{path} is of no known size ({sizes.describe(body)}); say which model with --backbone.")
    told, classes = mmdet.design(found.tensors)
    with torch.device("meta"):
        detector = Detector(Pyramid(Model(backbones.create(name), method)), classes, Design(**told))
    wanted = detector.state_dict()
    own = [key for key in wanted if key.startswith("body.")]
    inner = {key: key.removeprefix("body.") for key in own}
    if method.name == Dense.name:
        published = {key: official(key) for key in inner.values()}
    else:
        published = method.published(list(inner.values()))
    given = {key: value for key, value in found.tensors.items() if not key.endswith(DERIVED)}
    tensors = {key: given.pop(f"{BODY}{published[name]}", None) for key, name in inner.items()}
    for key, (theirs, how) in mmdet.heads([key for key in wanted if key not in inner]).items():
        value = given.pop(theirs, None)
        tensors[key] = None if value is None else how(value)
    missing = [key for key, value in tensors.items() if value is None and not key.endswith("num_batches_tracked")]
    if missing or given:
        what = f"{missing[0]} is missing" if missing else f"{next(iter(given))} has no place"
        raise WeightsError(f"{path} does not fit a detector of {method.label} on {name}: {what}.")
    made = {key: torch.zeros((), dtype=torch.int64) if value is None else value for key, value in tensors.items()}
    fitting.check(made, wanted, path, f"a detector of {method.label} on {name}")
    header = {
        "method": method.name,
        "setting": method.model_dump(mode="json"),
        "backbone": name,
        "classes": classes,
        "task": "detection",
        "task_setting": told,
        "published": {"layout": "mmdetection", "source": path.name, "hash": files.sha(path)},
    }
    files.write(out, made, header)
    return header


def _method(stored: Stored) -> Method:
    """The method whose backbone this is; dense where it is none's."""
    for cls in all_methods().values():
        release = None if cls is Dense else cls.recognise(stored)
        if release is not None:
            return make(cls, release.knobs)
    return Dense()
