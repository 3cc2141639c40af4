"""Which tensors of a file are the weights, and what the wrappers around them carry: nothing.

A file may hold the weights under any key, averaged ones beside them, the names of wrappers in front of them or between
their parts, and the counters of a profiler among them. What is chosen and what is left out is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenbench.errors import WeightsError
from tokenbench.weights import plain

# Segments that data-parallel, sharding, compiling and recomputing wrappers put anywhere into names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"}
COUNTERS = {"total_ops", "total_params", "n_averaged"}  # of thop, and of torch's averaged models
AVERAGED = re.compile(r"(?:^|[^a-z])(?:ema|swa|averaged|shadow)(?:$|[^a-z])")
# Where a model begins: timm's patch embedding, or that of transformers.
BEGINNING = re.compile(r"((?:[^.]+\.)*?)(?:patch_embed|embeddings\.patch_embeddings)\.")
OURS = "vit."  # where a model of tokenbench keeps timm's
MMS = "cls_head.fc_cls."  # the classifier of mmaction's models, beside their backbone
HEAD = "head.fc."  # timm's name of it
TIMMS = ("visual.", "vision_encoder.", "radio_model.", "preprocessor.", "beit3.")  # layouts that timm tells by these
DEPTH = 5  # of mappings in mappings


@dataclass(frozen=True)
class Take:
    """Which weights to take of a file that holds several: the averaged ones, or those under a key."""

    averaged: bool = False
    key: str | None = None


ALL = Take()  # of a file that holds no others


@dataclass(frozen=True)
class Chosen:
    """Tensors by name, a clause for whatever was chosen or left out, and their key where the file has others too."""

    tensors: dict[str, Tensor]
    clauses: tuple[str, ...] = ()
    key: str | None = None


def choose(content: Any, path: str | Path, take: Take = ALL) -> Chosen:
    """The weights among a file's contents, without wrappers.

    The only mapping of tensors is the weights, whatever its key. Of averaged and current ones the current are taken,
    unless the file says that the averaged are its best, or `take` asks for them.

    Raises:
        WeightsError: there are none; or there are several, and `take` does not tell which.
    """
    found = _models(_mappings(content))
    if not found:
        raise WeightsError(
            f"{path} holds no weights that can be loaded: {_why(content)}; give a state dict of tensors."
        )
    best = isinstance(content, Mapping) and bool(content.get("ema_best"))  # TokenReduction says which it evaluates
    label, clauses = _which(list(found), path, take, best)
    return Chosen(found[label].tensors, (*clauses, *found[label].clauses), label if len(found) > 1 else None)


def _mappings(content: Any, at: tuple[str, ...] = ()) -> dict[str, Mapping[str, Any]]:
    """The mappings of tensors in a file, by where they stand; those of an optimizer are none."""
    if not isinstance(content, Mapping) or "param_groups" in content or len(at) > DEPTH:
        return {}
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if any("." in key for key in tensors) or (tensors and len(tensors) == len(content) and _has_matrix(tensors)):
        return {".".join(at): content}
    found: dict[str, Mapping[str, Any]] = {}
    for key, value in content.items():
        if isinstance(key, str):
            found |= _mappings(value, (*at, key))
    return found


def _has_matrix(tensors: Mapping[str, Tensor]) -> bool:
    return any(value.ndim > 1 for value in tensors.values())


def _models(mappings: Mapping[str, Mapping[str, Any]]) -> dict[str, Chosen]:
    """Each model in these mappings with bare names; only vision transformers, where there is one."""
    found: dict[str, Chosen] = {}
    known = set()
    for label, mapping in mappings.items():
        tensors, clauses = _tensors(mapping)
        tensors = _without_shared(tensors)
        starts = sorted({match[1] for key in tensors if (match := BEGINNING.match(key))})
        if len(starts) < 2:
            start = starts[0] if starts else ""
            found[label] = _below(tensors, start, clauses)
            known |= {label} if starts else set()
            continue
        for start in starts:
            name = ".".join(filter(None, (label, start.rstrip("."))))
            found[name] = Chosen({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}, clauses)
            known.add(name)
    return {label: chosen for label, chosen in found.items() if label in known or not known}


def _tensors(mapping: Mapping[str, Any]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a mapping under names without wrappers and counters, and what was left out."""
    found: dict[str, Tensor] = {}
    counters, others, twice = [], [], False
    for key, value in mapping.items():
        name = ".".join(part for part in str(key).split(".") if part not in WRAPPERS)
        if name.rpartition(".")[2] in COUNTERS:
            counters.append(name.rpartition(".")[2])
        elif not isinstance(value, Tensor) or not isinstance(key, str):
            others.append(str(key))
        else:
            twice = twice or name in found
            found[name] = value
    if twice:  # a wrapped model beside its inside: the names tell the two apart
        found = {
            k: v for k, v in mapping.items() if isinstance(v, Tensor) and str(k).rpartition(".")[2] not in COUNTERS
        }
    clauses = []
    if counters:
        clauses.append(f"{len(counters)} counters ({', '.join(sorted(set(counters)))}) are left out")
    if others:
        clauses.append(f"{_some(others)} {'is no tensor' if len(others) == 1 else 'are no tensors'} and left out")
    return found, tuple(clauses)


def _without_shared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what all of them begin with."""
    while len(tensors) > 1:
        heads = {key.partition(".")[0] for key in tensors}
        rest = {key.partition(".")[2] for key in tensors}
        parts = {key.partition(".")[0] for key in rest}
        whole = len(parts) > 1 and any("." in key for key in rest) and not all(part.isdigit() for part in parts)
        if len(heads) > 1 or "" in rest or not whole:
            break
        tensors = {key.partition(".")[2]: value for key, value in tensors.items()}
    return tensors


def _below(tensors: dict[str, Tensor], start: str, clauses: tuple[str, ...]) -> Chosen:
    """The model that begins at a prefix; what stands beside it is no part of it, and said."""
    if start == "backbone.":
        tensors = {key.replace(MMS, start + HEAD, 1) if key.startswith(MMS) else key: v for key, v in tensors.items()}
    outside = [key for key in tensors if not key.startswith(start)]
    theirs = any(key.startswith(start + "embeddings.") for key in tensors)  # of transformers, read elsewhere
    ours = start == OURS and any(key.startswith("blocks.") for key in outside)
    if not start or ours or theirs or start.startswith(TIMMS):
        return Chosen(tensors, clauses)
    inside = {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
    if outside:
        clauses = (
            *clauses,
            f"{_some(outside)} {'is' if len(outside) == 1 else 'are'} left out, outside of {start[:-1]}",
        )
    return Chosen(inside, clauses)


def _which(labels: list[str], path: str | Path, take: Take, best: bool) -> tuple[str, list[str]]:
    """The label of the weights to take, and what to say of it."""
    averaged = [label for label in labels if AVERAGED.search(label.lower())]
    current = [label for label in labels if label not in averaged]
    names = ", ".join(repr(label) if label else "those outside" for label in labels)
    if take.key is not None:
        fitting = [label for label in labels if take.key in (label, label.rpartition(".")[2])]
        if len(fitting) != 1:
            raise WeightsError(f"{path} has no weights under the key '{take.key}', it has {names}; give one of these.")
        return fitting[0], [f"the weights under the key '{fitting[0]}'"]
    if take.averaged and not averaged:
        raise WeightsError(f"{path} holds no averaged weights; leave --ema out.")
    if len(averaged) == 1 and (take.averaged or best or not current):
        reason = " which the file says are its best" if best and not take.averaged else ""
        reason = reason or (" the only ones in the file" if not current else "")
        return averaged[0], [f"the averaged weights ('{averaged[0]}')" + (f",{reason}" if reason else "")]
    if len(current) == 1 and not take.averaged:
        others = f"averaged ones too ('{', '.join(averaged)}'), which --ema takes"
        return current[0], [f"the current weights ('{current[0]}'); the file holds {others}"] if averaged else []
    raise WeightsError(f"{path} holds several sets of weights ({names}); say which with --weights-key.")


def _why(content: Any) -> str:
    """Why there are no weights in it, as a clause."""
    if isinstance(content, plain.Unknown):
        return f"it is an object of {type(content).__name__} and not its tensors"
    if not isinstance(content, Mapping):
        return f"it is one {type(content).__name__}"
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    if not content or (inner and not any(inner)):
        return "it is empty"
    for value in [content, *inner]:
        odd = [key for key, tensor in value.items() if isinstance(tensor, Tensor) and not isinstance(key, str)]
        if odd:
            return f"its tensors have no names but keys such as {odd[0]!r}"
    key, value = next(iter(content.items()))
    whole = next((k for k, v in content.items() if isinstance(v, plain.Unknown) and "_modules" in vars(v)), None)
    if whole is not None:
        return f"'{whole}' is a whole model and not its tensors"
    if isinstance(value, plain.Array):
        return f"'{key}' is an array of NumPy and no tensor"
    return f"'{key}' is no tensor" if not isinstance(value, Tensor) else f"'{key}' is no matrix"


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:3])
    return listed if len(names) < 4 else f"{len(names)} entries ({listed}, ...)"
