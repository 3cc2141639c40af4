"""How alike the features of two models are on the same images. Numbers in, a number out; needs no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tokenbench.errors import UsageError

Features = NDArray[np.floating]  # (n, d): an image a row


def cka(a: Features, b: Features) -> float:
    """Linear centred kernel alignment of two sets of features of the same n images (Kornblith et al., 1905.00414).

    1 where one set is the other turned, mirrored or scaled. Plain CKA is the larger the fewer images there are, so the
    unbiased estimate of HSIC is taken (Song et al., J. Mach. Learn. Res. 13, 2012, equation 5): it is about 0 for
    unrelated features, however few the images, and so it may come out a little below.

    Args:
        a, b: (n, d) and (n, e), rows in the same order; the widths may differ.

    Returns:
        The alignment, at most 1; NaN where one set is the same for all images.

    Raises:
        UsageError: the numbers of images differ, or are fewer than 4.
    """
    if a.ndim != 2 or b.ndim != 2 or len(a) != len(b) or len(a) < 4:
        raise UsageError(
            f"Features of shapes {a.shape} and {b.shape} cannot be compared; give (n, d) and (n, e) of the same "
            "4 images or more."
        )
    one, other = _gram(a), _gram(b)
    scale = _hsic(one, one) * _hsic(other, other)
    return float(_hsic(one, other) / np.sqrt(scale)) if scale > 0 else float("nan")


def _gram(features: Features) -> Features:
    """Inner products of centred features, (n, n), with zeros for an image and itself."""
    centred = features.astype(np.float64)
    centred -= centred.mean(0)
    gram: Features = centred @ centred.T
    np.fill_diagonal(gram, 0.0)
    return gram


def _hsic(k: Features, m: Features) -> float:
    """The unbiased estimate, of Gram matrices without diagonals, up to the factor 1 / n(n - 3)."""
    n = len(k)
    rows, all_k, all_m = k.sum(0) @ m.sum(0), k.sum(), m.sum()
    return float((k * m).sum() + all_k * all_m / ((n - 1) * (n - 2)) - 2 * rows / (n - 2))
