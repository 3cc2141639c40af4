"""What token maps say in numbers: tables of them, exact and for reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from tokenbench.maps.arrays import TokenMaps, agreement

if TYPE_CHECKING:
    import pandas as pd

    from tokenbench.maps.similarity import Alike


def numbers(maps: Sequence[TokenMaps]) -> pd.DataFrame:
    """A line an image, setting and block: tokens, kept share, clusters, their sizes and entropy in bits."""
    import pandas as pd

    lines = []
    for m in maps:
        for block in range(m.depth):
            kept, entropies, sizes = m.kept_share(block), m.entropy(block), m.sizes(block)
            for i, name in enumerate(m.names):
                largest, median = (int(sizes[i][0]), float(np.median(sizes[i]))) if len(sizes[i]) else (0, 0.0)
                line = {"image": name, "method": m.label, "note": m.note, "block": block, "tokens": m.tokens(i, block)}
                line |= {"kept_share": kept[i], "clusters": len(sizes[i]), "largest_cluster": largest}
                lines.append(line | {"median_cluster": median, "entropy_bits": entropies[i]})
    return pd.DataFrame(lines)


def pairs(maps: Sequence[TokenMaps]) -> pd.DataFrame:
    """A line an image and pair of settings, after the last block: IoU of the kept patches, NMI of the clusters."""
    import pandas as pd

    lines = []
    for a, b in combinations(maps, 2):
        for name, kept, shared in zip(a.names, *agreement(a, b), strict=True):
            lines.append({"image": name, "method": a.label, "other": b.label, "kept_iou": kept, "cluster_nmi": shared})
    return pd.DataFrame(lines)


def summary(maps: Sequence[TokenMaps]) -> pd.DataFrame:
    """A line a setting, after the last block, means over the images, formatted for reading."""
    import pandas as pd

    table = numbers(maps)
    table = table[table["block"] == maps[0].depth - 1]
    lines = []
    for m in maps:
        mean = table[table["method"] == m.label].mean(numeric_only=True)
        tokens = str(m.counts[-1]) if m.each is None else f"{mean['tokens']:.1f}"
        line = {"method": f"{m.label} ({m.note})" if m.note else m.label, "tokens": tokens}
        line |= {"kept %": f"{100 * mean['kept_share']:.1f}", "clusters": f"{mean['clusters']:.1f}"}
        line |= {"largest": f"{mean['largest_cluster']:.1f}", "median": f"{mean['median_cluster']:.1f}"}
        lines.append(line | {"entropy bits": f"{mean['entropy_bits']:.2f}"})
    return pd.DataFrame(lines)


def between(maps: Sequence[TokenMaps]) -> pd.DataFrame:
    """Agreement of each pair of two or more settings, mean over the images, as "IoU / NMI", formatted for reading."""
    means = pairs(maps).groupby(["method", "other"])[["kept_iou", "cluster_nmi"]].mean()
    return _crossed(
        {pair: (kept, shared) for pair, kept, shared in means.itertuples(name=None)}, [m.label for m in maps]
    )


def cka(alike: Sequence[Alike]) -> pd.DataFrame:
    """CKA of each pair after the last block, as "class token / mean of the others", formatted for reading."""
    last = max(found.block for found in alike)
    at = {(a.setting, a.other): (a.cka_class, a.cka_others) for a in alike if a.block == last}
    return _crossed(at, list(dict.fromkeys(label for pair in at for label in pair)))


def _crossed(
    values: Mapping[tuple[str, str], tuple[float | None, float | None]], labels: Sequence[str]
) -> pd.DataFrame:
    """Two values of each pair, in the rows above its diagonal."""
    import pandas as pd

    cells = {p: " / ".join("–" if v is None else f"{v:.2f}" for v in both) for p, both in values.items()}
    return pd.DataFrame([{"": a} | {b: cells.get((a, b), "") for b in labels[1:]} for a in labels[:-1]])
