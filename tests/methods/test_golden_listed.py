"""What a clone may leave unchecked: just the golden runs that are listed, and none that it holds."""

import golden
import pytest
from golden import HERE, SHARED, Case, listed, runs_in

ABSENT = {"tcformer/ctm_14x14"}  # merges between the stages of a pyramid of its own


def test_listed_are_elsewhere() -> None:
    for line in listed():
        name, _, run = line.partition(" ")
        assert run not in runs_in(HERE, name) if run else not runs_in(HERE, name), f"{line} is in tests/golden"
        assert not SHARED.exists() or runs_in(SHARED, name) >= {run} - {""}, f"{line} is nowhere"


def test_no_case_beside_the_checkout_is_unknown() -> None:
    """Each is here or listed, or of a method that docs/methods.md says is not here."""
    if not SHARED.exists():
        pytest.skip("golden vectors are in ../shared/golden, which is absent")
    known = {line.partition(" ")[0] for line in listed()}
    for path in SHARED.glob("*/*/case.json"):
        name = path.parent.relative_to(SHARED).as_posix()
        assert name in known or runs_in(HERE, name) or name in ABSENT, f"{name} is held to nothing"


def test_what_is_not_listed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where ../shared has it, or its loss from a clone would go unseen."""
    monkeypatch.setattr(golden, "listed", lambda: ["tome/vit64_224", "topk/vit64_112p8 k0.1"])
    for name, run in (("evit/nowhere", None), ("topk/vit64_112p8", "k0.2"), ("evit/vit64_rect160x224", "k0.7_fuse")):
        with pytest.raises(AssertionError, match="neither in tests/golden nor listed"):
            Case(name, run)
    monkeypatch.setattr(golden, "SHARED", HERE / "absent")
    for name, run in (("tome/vit64_224", "r8"), ("topk/vit64_112p8", "k0.1")):
        with pytest.raises(pytest.skip.Exception, match="which is absent"):
            Case(name, run)
