"""What is refused, in whole sentences: of half a sentence the other half may be wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(kind: type[Exception], sentence: str) -> Iterator[None]:
    """What is done inside raises just this kind of error, which says just this; … in it stands for anything."""
    with pytest.raises(kind) as caught:
        yield
    assert caught.type is kind
    pattern = ".*".join(map(re.escape, sentence.split("…")))
    assert re.fullmatch(pattern, str(caught.value), re.DOTALL), str(caught.value)
