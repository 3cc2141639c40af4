"""Token maps in .npz files, one an image: plain arrays for anybody, and enough to have the `TokenMaps` back."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.maps.arrays import TokenMaps


def arrays(maps: Sequence[TokenMaps], image: int) -> dict[str, np.ndarray]:
    """The arrays of one image by name.

    `picture` (H, W, 3), and for each setting LABEL: `LABEL/clusters` (blocks, rows, columns), -1 where dropped;
    `LABEL/kept`, the same as a mask; `LABEL/fused`, the token that a patch was dropped into, else -1; `LABEL/tokens`
    (blocks,), prefix included; and for soft methods `LABEL/heat/BLOCK` (tokens, rows, columns) for each block that
    changed it. `about` says in JSON what else `load` needs.
    """
    found: dict[str, np.ndarray] = {"picture": maps[0].pictures[image]}
    settings = []
    for m in maps:
        since = [0]  # for each block, the block whose map it still has
        for block in range(1, m.depth):
            same = np.array_equal(m.weights[block][image], m.weights[block - 1][image])
            since.append(since[-1] if same else block)
        holders = np.stack([w[image].argmax(0).reshape(m.grid) for w in m.weights])
        fused = np.stack([f[image].reshape(m.grid) for f in m.fused])
        found[f"{m.label}/clusters"] = np.stack([m.clusters(b)[image] for b in range(m.depth)]).astype(np.int32)
        found[f"{m.label}/kept"] = np.stack([m.kept(b)[image] for b in range(m.depth)])
        found[f"{m.label}/fused"] = np.where(fused, holders, -1).astype(np.int32)
        found[f"{m.label}/tokens"] = np.array([m.tokens(image, block) for block in range(m.depth)])
        for block in set(since):
            if m.soft(block):
                found[f"{m.label}/heat/{block}"] = m.heat(block)[image]
        about = {"method": m.method, "label": m.label, "note": m.note, "since": since}
        settings.append(about | {"held": [w.shape[1] for w in m.weights]})
    told: dict[str, Any] = {"name": maps[0].names[image], "backbone": maps[0].backbone, "settings": settings}
    told["order"] = image
    if maps[0].frames > 1:
        told["frames"] = maps[0].frames
    return found | {"about": np.array(json.dumps(told))}


def load(path: str | Path) -> list[TokenMaps]:
    """The maps in a file that `tokenbench trace` wrote, or in all such files of a folder, images as they were traced.

    Raises:
        ResultsError: nothing to read there, a damaged file, or files of different settings.
    """
    given = Path(path)
    files = sorted(given.glob("*.npz")) if given.is_dir() else [given]
    files.sort(key=_order)
    if not files:
        raise ResultsError(f"Folder '{path}' has no token maps (*.npz); give one that `tokenbench trace` wrote.")
    images = [_read(file) for file in files]
    for file, maps in zip(files, images, strict=True):
        if [_run(m) for m in maps] != [_run(m) for m in images[0]]:
            raise ResultsError(
                f"'{file}' and '{files[0]}' are of different settings or grids; give the files of one run."
            )
    return [_together(parts) for parts in zip(*images, strict=True)]


def _order(file: Path) -> int:
    """Where an image stood among those that were traced; 0 in files of earlier versions, and in what is none."""
    try:
        with atomic.regular(file).open("rb") as opened, np.load(opened) as found:
            return int(json.loads(str(found["about"])).get("order", 0))
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return 0  # `_read` says what is wrong with it


def _read(file: Path) -> list[TokenMaps]:
    """The maps of one file, each of one image."""
    try:
        with atomic.regular(file).open("rb") as opened, np.load(opened) as found:  # numpy leaves a damaged file open
            about = json.loads(str(found["about"]))
            return [_setting(found, about, setting) for setting in about["settings"]]
    except FileNotFoundError:
        raise ResultsError(f"'{file}' does not exist; give a file or folder that `tokenbench trace` wrote.") from None
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        what = str(error).partition("\n")[0] or type(error).__name__
        raise ResultsError(f"'{file}' is no token map, or it is damaged ({what}); trace it again.") from None


def _setting(found: Mapping[str, np.ndarray], about: Mapping[str, Any], setting: Mapping[str, Any]) -> TokenMaps:
    label = setting["label"]
    clusters, fused = found[f"{label}/clusters"], found[f"{label}/fused"]
    holders = np.where(fused >= 0, fused, clusters).reshape(len(clusters), 1, -1)  # (blocks, 1, P)
    weights: list[np.ndarray] = []
    for block, (since, held) in enumerate(zip(setting["since"], setting["held"], strict=True)):
        if since < block:
            weights.append(weights[-1])
        elif f"{label}/heat/{block}" in found:
            weights.append(found[f"{label}/heat/{block}"].reshape(1, held, -1))
        else:
            weights.append((holders[block] == np.arange(held)[:, None])[None].astype(np.uint8))
    return TokenMaps(
        method=setting["method"],
        label=label,
        backbone=about["backbone"],
        note=setting["note"],
        names=(about["name"],),
        pictures=found["picture"][None],
        grid=clusters.shape[1:],
        weights=tuple(weights),
        fused=tuple((fused >= 0).reshape(len(fused), 1, -1)),
        counts=tuple(found[f"{label}/tokens"].tolist()),
        frames=about.get("frames", 1),
    )


def _run(m: TokenMaps) -> tuple[object, ...]:
    """What maps that belong together have in common."""
    return m.label, m.note, m.backbone, m.grid, m.frames, [weights.shape for weights in m.weights], m.pictures.shape


def _together(parts: Sequence[TokenMaps]) -> TokenMaps:
    """Maps of one image each as one batch; a map that no image changed is not copied."""
    each = np.array([m.counts for m in parts]).T  # (blocks, B)
    weights: list[np.ndarray] = []
    for block in range(parts[0].depth):
        same = block and all(m.weights[block] is m.weights[block - 1] for m in parts)
        weights.append(weights[-1] if same else np.concatenate([m.weights[block] for m in parts]))
    return replace(
        parts[0],
        names=tuple(m.names[0] for m in parts),
        pictures=np.concatenate([m.pictures for m in parts]),
        weights=tuple(weights),
        fused=tuple(map(np.concatenate, zip(*(m.fused for m in parts), strict=True))),
        counts=tuple(each.max(1).tolist()),
        each=each if np.ptp(each, axis=1).any() else None,
    )
