"""Small token maps made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tokenbench.maps.arrays import TokenMaps

ROWS, COLS, PATCH = 3, 5, 8  # not square, on purpose


def make(method: str, weights: np.ndarray, note: str = "", images: int = 1) -> TokenMaps:
    """Maps of two blocks, the first dense and the second with these weights (T, P), on random images."""
    patches = ROWS * COLS
    shown = np.random.default_rng(0).integers(0, 255, (images, ROWS * PATCH, COLS * PATCH, 3), dtype=np.uint8)
    blocks = [np.broadcast_to(w, (images, *w.shape)).astype(np.float32) for w in (np.eye(patches), weights)]
    fused = (np.zeros((images, patches), bool),) * 2
    names = tuple(f"image {i}.png" for i in range(images))
    counts = (patches + 1, len(weights) + 1)
    return TokenMaps(method, f"{method}[r=1]", "tiny", note, names, shown, (ROWS, COLS), tuple(blocks), fused, counts)


def settings(images: int = 2) -> list[TokenMaps]:
    """Dropping, fusing, merging and mixing, on the same images."""
    weights = np.random.default_rng(1).random((4, ROWS * COLS))
    fusing = make(
        "evit", np.concatenate([np.eye(ROWS * COLS)[:6], np.eye(ROWS * COLS)[6:].sum(0, keepdims=True)]), "", images
    )
    gone = np.broadcast_to(np.arange(ROWS * COLS) >= 6, (images, ROWS * COLS))
    return [
        make("topk", np.eye(ROWS * COLS)[:6], "", images),
        replace(fusing, fused=(fusing.fused[0], gone)),
        make("tome", np.kron(np.eye(5), np.ones(3)), "", images),
        make("stvit", weights / weights.sum(1, keepdims=True), "untrained", images),
    ]
