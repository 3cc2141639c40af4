"""Memory that a timed process frees stays with it, so that speeds are the same in each process that measures them."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of malloc.h
_NEVER = -1


@cache
def keep_freed() -> bool:
    """Have glibc's malloc keep what is freed for what is allocated next, for as long as this process runs.

    Of itself it hands large blocks back to the system and asks for them again, or does not, as its heap happens to lie:
    the pages of a pass are then cleared anew, 48,000 of them in one of DeiT-S on eight images, which took 19 % longer
    in some processes than in others, and longer for dense models, whose tensors are the largest, than for reduced ones.

    Returns:
        Whether it takes that; systems without it (macOS, Windows, musl) are left as they are, and one that is loaded
        before it, such as jemalloc, keeps to its own ways.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))
