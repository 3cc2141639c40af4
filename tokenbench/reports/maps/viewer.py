"""Token maps to play with: a part of a page in which images, methods and blocks are chosen. Needs no torch.

All numbers are computed here and travel with the maps; the script (`templates/maps*.js`) draws and chooses. For each
image there is one compressed strip of bytes: of each map a little-endian 16-bit token index a patch and, if it is soft,
a byte an entry, each token up to its own maximum. A map that several blocks share is in it once.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from tokenbench.errors import UsageError
from tokenbench.maps.arrays import Ints, TokenMaps, agreements, entropy
from tokenbench.reports import style
from tokenbench.reports.maps import overlays

DROPPED, FUSED = 0xFFFF, 0xFFFE  # in place of a token's index
MOST = 60  # images in one page, about 40 kB each
TINY = 64  # pixels of a long side up to which a picture is kept as PNG and its pixels are shown as squares


def page(maps: Sequence[TokenMaps], below: str = "") -> str:
    """A whole HTML file with the maps in it, which opens offline; its policy allows no request and no other script.

    `below` is a part without scripts to stand under them, such as `alike.fragment` gives.

    Raises:
        UsageError: no maps, or maps that are not of the same images, grid and blocks.
    """
    text = _render("maps_page.html", maps, below)
    script = text.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return text.replace("SCRIPT-HASH", f"sha256-{digest}", 1)


def fragment(maps: Sequence[TokenMaps]) -> str:
    """The same as a part to be put into another page; it follows that page's `color-scheme`.

    Raises:
        UsageError: as `page`.
    """
    return _render("maps.html", maps)


def payload(maps: Sequence[TokenMaps], most: int = MOST) -> dict[str, Any]:
    """What the script is given, ready for JSON; of more than `most` images, that many, spread evenly."""
    if not maps:
        raise UsageError("There are no maps to show; trace one setting at least.")
    first = maps[0]
    for m in maps[1:]:
        if (m.names, m.grid, m.depth, m.frames) != (first.names, first.grid, first.depth, first.frames):
            raise UsageError(
                f"{m.label} and {first.label} are not of the same images, grid and blocks; "
                "show those of one run of `tokenbench trace` together."
            )
    count, frames = len(first.names), first.frames
    clips, shown = count // frames, min(count // frames, max(1, most // frames))
    chosen = [i * clips // shown * frames + frame for i in range(shown) for frame in range(frames)]
    soft = [[m.soft(block) for block in range(m.depth)] for m in maps]
    between = [np.round(agreements(a, b), 3) for a, b in combinations(maps, 2)]  # a pair: (blocks, 2, images)
    images = []
    for i in chosen:
        states, strip = _image(maps, soft, i)
        pairs = [pair[:, :, i].tolist() for pair in between]
        picture = {"name": first.names[i], "picture": _picture(first.pictures[i])}
        images.append(picture | {"strip": strip, "maps": states, "pairs": pairs})
    return {
        "backbone": first.backbone,
        "grid": first.grid,
        "depth": first.depth,
        "frames": frames,
        "size": first.pictures.shape[1:3],
        "pixelated": max(first.pictures.shape[1:3]) <= TINY,
        "colours": style.CLUSTERS,
        "glow": [to_hex(colour) for colour in matplotlib.colormaps["inferno"](np.linspace(0, 1, 32))],
        "methods": [
            {"name": m.method, "label": m.label, "note": m.note, "colour": style.colour(m.method)} for m in maps
        ],
        "images": images,
        "legend": _legend(maps),
        "total": count,
        "start": _start(maps),
    }


def _legend(maps: Sequence[TokenMaps]) -> list[str]:
    """What the kinds of drawing mean that stand in these maps."""
    last = [m.clusters(m.depth - 1) for m in maps]
    dropped = any((clusters < 0).any() for clusters in last)
    soft = any(m.soft() for m in maps)
    merged = any(
        not m.soft() and len(np.unique(one[one >= 0])) < (one >= 0).sum()
        for m, clusters in zip(maps, last, strict=True)
        for one in clusters
    )
    kinds = {
        "Pale patches (light blue in grey pictures) were dropped: no token holds them.": dropped,
        "Patches of one mean colour within an outline are merged into one token.": merged,
        "Tints are semantic tokens: a patch has the tint of the token that attends to it most.": soft,
    }
    return [text for text, there in kinds.items() if there]


def _start(maps: Sequence[TokenMaps]) -> list[int]:
    """The two settings to begin with: the first two that change anything."""
    busy = [i for i, m in enumerate(maps) if any(m is kept for kept in overlays.reducing(maps))]
    return (busy + [i for i in range(len(maps)) if i not in busy] + [0])[:2]


def _image(maps: Sequence[TokenMaps], soft: Sequence[Sequence[bool]], image: int) -> tuple[list[Any], str]:
    """For each setting its states and which of them each block is in; and the strip of bytes they point into."""
    strip, found = bytearray(), []
    for m, softs in zip(maps, soft, strict=True):
        states: list[dict[str, Any]] = []
        seen: dict[tuple[bytes, bytes], int] = {}
        blocks = []
        for block in range(m.depth):
            key = _codes(m, image, block), _heat(m, image, block) if softs[block] else b""
            if key not in seen:
                seen[key] = len(states)
                strip += bytes(len(strip) % 2)  # 16-bit numbers begin at even places
                heats = {"soft": len(strip) + len(key[0]), "heats": m.weights[block].shape[1] if key[1] else 0}
                states.append(_numbers(m.clusters(block)[image]) | {"hard": len(strip)} | heats)
                strip += key[0] + key[1]
            blocks.append(seen[key])
        tokens = [m.tokens(image, block) for block in range(m.depth)]
        found.append({"states": states, "blocks": blocks, "tokens": tokens})
    return found, base64.b64encode(zlib.compress(strip, 9)).decode()


def _codes(m: TokenMaps, image: int, block: int) -> bytes:
    clusters = m.clusters(block)[image].ravel()
    gone = np.where(m.fused[block][image], FUSED, DROPPED)
    return np.where(clusters >= 0, clusters, gone).astype("<u2").tobytes()


def _heat(m: TokenMaps, image: int, block: int) -> bytes:
    weights = m.weights[block][image]
    scaled: NDArray[np.uint8] = np.rint(255 * weights / np.maximum(weights.max(1, keepdims=True), 1e-12)).astype(
        np.uint8
    )
    return scaled.tobytes()


def _numbers(clusters: Ints) -> dict[str, Any]:
    """Kept patches, clusters, and their sizes as [patches, how many clusters of that many], largest first."""
    sizes = np.unique(clusters[clusters >= 0], return_counts=True)[1]
    runs = [[int(size), int(count)] for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)][::-1]
    median = float(np.median(sizes)) if len(sizes) else 0.0
    kept = int((clusters >= 0).sum())
    return {
        "kept": kept,
        "share": round(kept / clusters.size, 4),
        "clusters": len(sizes),
        "median": median,
        "entropy": round(entropy(sizes), 3),
        "sizes": runs,
    }


def _picture(picture: NDArray[np.uint8]) -> str:
    tiny = max(picture.shape[:2]) <= TINY
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG" if tiny else "JPEG", quality=88)
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"


def _render(template: str, maps: Sequence[TokenMaps], below: str = "") -> str:
    environment = Environment(loader=PackageLoader("tokenbench.reports.maps"), autoescape=True, trim_blocks=True)
    return environment.get_template(template).render(data=payload(maps), below=Markup(below))
