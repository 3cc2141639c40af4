"""What a file of weights tells of its model beside the weights: classes, pooling, and the images it was trained on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenbench.errors import WeightsError
from tokenbench.weights.files import NAMES, Reading

UNNAMED = re.compile(r"LABEL_\d+")  # by transformers, where nobody gave names
HEADS = ("head.weight", "head.fc.weight")
WHOLE = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth", "model.safetensors.index.json")
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest", "random", "box", "hamming")


@dataclass(frozen=True)
class Told:
    """What is not told is None, or left out of `pixels`: mean, std, crop_pct and interpolation."""

    classes: int | None = None
    pool: str | None = None
    image_size: tuple[int, int] | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    heads: int | None = None  # of attention, which no tensor tells
    class_names: tuple[str, ...] | None = None  # that others' files tell; ours have them in their headers


NOTHING = Told()


def by_header(header: Mapping[str, Any]) -> Told:
    """What tokenbench itself wrote; the size is left to the backbone, for positions are resampled but in exports."""
    classes, pixels, pool = header.get("classes"), header.get("pixels"), header.get("pool")
    return Told(
        classes if isinstance(classes, int) else None,
        pool if isinstance(pool, str) else None,
        _size({"img_size": header.get("img_size")}),
        pixels=_pixels(pixels if isinstance(pixels, Mapping) else {}),
    )


def kept(pool: str | None, pixels: Mapping[str, Any]) -> dict[str, Any]:
    """What our own headers keep of these, where it is not the backbone's own."""
    return {**({"pool": pool} if pool else {}), **({"pixels": dict(pixels)} if pixels else {})}


def by_others(reading: Reading, path: Path) -> Told:
    """What the tensors, the options of the training run, and a configuration beside the file tell."""
    config, processor = _json(path, "config.json"), _json(path, "preprocessor_config.json")
    timms = config.get("pretrained_cfg")
    timms = timms if isinstance(timms, Mapping) else {}
    options = {**timms, **_transformers(processor)}
    options |= {key: value for key, value in reading.options.items() if value is not None}
    count = classes(reading.tensors)
    said = [config.get("id2label"), config.get("label_names"), timms.get("label_names"), *map(options.get, NAMES)]
    names = next((found for one in said if (found := _names(one, count))), None)
    heads, act = config.get("num_attention_heads"), config.get("hidden_act")
    if isinstance(act, str) and act != "gelu":
        raise WeightsError(f"{path} is of a model with activation {act} by its config.json, and timm's have gelu.")
    heads = heads if isinstance(heads, int) else None
    return Told(count, pool(reading.tensors), _size(options), _pixels(options), heads, names)


def classes(tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes the head has; None where there is no head."""
    found = next((tensors[key] for key in HEADS if key in tensors), None)
    return None if found is None or found.ndim != 2 else int(found.shape[0])


def pool(tensors: Mapping[str, Tensor]) -> str | None:
    """ "avg" where the norm comes after the mean, as in classifiers fine-tuned from MAE."""
    return "avg" if "fc_norm.weight" in tensors and "norm.weight" not in tensors else None


def in_folder(folder: Path) -> Path | None:
    """The weights in a folder that timm or transformers saved; None for other folders.

    Raises:
        WeightsError: a configuration, and no weights beside it.
    """
    if not (folder / "config.json").is_file():
        return None
    found = next((folder / name for name in WHOLE if (folder / name).is_file()), None)
    if found is None:
        raise WeightsError(f"Weights folder '{folder}' has a config.json but none of {', '.join(WHOLE)}; give a file.")
    return found


def _names(said: object, count: int | None) -> tuple[str, ...] | None:
    """Names of so many classes in order, of a list or of names to or from indices; None for what names none."""
    if isinstance(said, Mapping):
        pairs = [(k, v) if isinstance(k, int) or not isinstance(v, int) else (v, k) for k, v in said.items()]
        if not all(str(index).isdecimal() for index, _ in pairs):
            return None
        by_index = {int(index): name for index, name in pairs}
        said = [by_index.get(i) for i in range(len(said))]
    if not isinstance(said, list | tuple) or len(said) != count:
        return None
    names = tuple(name for name in said if isinstance(name, str) and not UNNAMED.fullmatch(name))
    return names if len(set(names)) == count else None


def _json(path: Path, name: str) -> dict[str, Any]:
    beside = path.with_name(name)
    if path.name not in WHOLE or not beside.is_file():
        return {}
    try:
        found = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise WeightsError(f"{beside} cannot be read as JSON; mend or remove it.") from None
    return found if isinstance(found, dict) else {}


def _transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A preprocessor's values under timm's names."""
    size = config.get("crop_size") or config.get("size")
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    named = {
        "mean": config.get("image_mean"),
        "std": config.get("image_std"),
        "crop_pct": config.get("crop_pct"),
        "interpolation": RESAMPLING.get(config["resample"]) if isinstance(config.get("resample"), int) else None,
        "img_size": size,
    }
    return {key: value for key, value in named.items() if value is not None}


def _pixels(options: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("mean", "std"):
        value = options.get(key)
        if isinstance(value, list | tuple) and len(value) in (1, 3) and all(_is_number(v) for v in value):
            found[key] = tuple(float(v) for v in value)
    crop, kind = options.get("crop_pct"), options.get("interpolation")
    if _is_number(crop) and 0 < float(crop) <= 1:  # type: ignore[arg-type]
        found["crop_pct"] = float(crop)  # type: ignore[arg-type]
    if kind in INTERPOLATIONS and kind != "random":  # timm's training draws one, and evaluates with the model's
        found["interpolation"] = kind
    return found


def _size(options: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width of the images it was trained on, as timm (`img_size`, `input_size`) and DeiT name them."""
    for key in ("img_size", "input_size"):
        value = options.get(key)
        sides = [value, value] if isinstance(value, int) else list(value) if isinstance(value, list | tuple) else []
        if len(sides) in (2, 3) and all(isinstance(side, int) and 0 < side < 2**16 for side in sides):
            return sides[-2], sides[-1]
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
