"""Small token maps made by hand."""

from __future__ import annotations

import numpy as np

from tokenbench.maps import TokenMaps

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
