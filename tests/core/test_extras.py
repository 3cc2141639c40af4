"""Libraries of extras that are not there, or are there and broken, are told in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused

from tokenbench.core.extras import needed
from tokenbench.errors import UsageError


def test_what_cannot_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed("pathlib", "none", "--this").Path is Path
    with refused(UsageError, "--this needs nowhere, which is not installed; pip install 'tokenbench[that]'."):
        needed("nowhere.inside", "that", "--this")
    (tmp_path / "halfway.py").write_text("{}['libamd_smi.so']")
    monkeypatch.syspath_prepend(tmp_path)
    why = f"KeyError: 'libamd_smi.so', in {tmp_path / 'halfway.py'}"
    sentence = f"--this needs halfway, which is installed but cannot be imported ({why}); mend or remove that."
    with refused(UsageError, sentence):
        needed("halfway", "that", "--this")
