"""What is listed without imports is what the code says, and the code is asked where it may say otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenbench import backbones, methods
from tokenbench.methods import catalogue, listing

AGAIN = "run `make catalogue`"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> catalogue.Catalogue:
    """The file as a fresh process reads it, which has imported no method."""
    catalogue._read.cache_clear()
    monkeypatch.setattr(methods, "loaded", lambda: False)
    found = catalogue._kept()
    assert found is not None, AGAIN
    return found


def test_the_file_is_what_the_code_says(kept: catalogue.Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: backbones.SHORT_NAMES[name] for name in ("deit_s", "swin_nano")}
    assert list(kept.backbones) == list(backbones.SHORT_NAMES), AGAIN
    monkeypatch.undo()
    methods.all_methods()
    monkeypatch.setattr(backbones, "SHORT_NAMES", few)
    assert {name: kept.backbones[name] for name in few} == listing.backbones(), AGAIN
    classes = methods.all_methods().items()
    said = {
        name: listing.method(cls).model_dump(mode="json")
        for name, cls in classes
        if cls.__module__.startswith("tokenbench.")
    }
    assert {name: method.model_dump(mode="json") for name, method in kept.methods.items()} == said, AGAIN


@pytest.mark.slow
def test_all_of_it_is_what_the_code_says() -> None:
    assert catalogue.FILE.read_text("utf-8") == catalogue.text(listing.everything()), AGAIN


def test_papers_numbers_find_their_weights(kept: catalogue.Catalogue) -> None:
    """By each name that a row's backbone may have, as timm itself tells."""
    printed = {made.reported.backbone for method in kept.methods.values() for made in method.printed}
    full = {backbones.SHORT_NAMES.get(name, name) for name in printed}
    for name in (*printed, *full, *(name.split(".")[0] for name in full), *(f"hf-hub:timm/{name}" for name in full)):
        assert catalogue.weights(name) == listing.weights(name), name


@pytest.mark.parametrize(
    "change", ["a new file", "another text", "other line ends", "no file", "cut", "an entry point"]
)
def test_the_code_is_asked_where_the_file_may_not_fit(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: catalogue.Catalogue
) -> None:
    package = tmp_path / "tokenbench"
    for name in kept.sources:
        copy = package / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((catalogue.FILE.parents[1] / name).read_bytes())
    file = package / "methods" / "catalogue.json"
    file.write_bytes(catalogue.FILE.read_bytes())
    monkeypatch.setattr(catalogue, "FILE", file)
    tome = package / "methods" / "tome.py"
    if change == "a new file":
        (package / "methods" / "mine.py").write_text("")
    elif change == "another text":
        tome.write_text(tome.read_text() + "#")
    elif change == "other line ends":
        tome.write_bytes(tome.read_bytes().replace(b"\n", b"\r\n"))
    elif change == "no file":
        file.unlink()
    elif change == "cut":
        file.write_text(file.read_text()[:-100])
    else:
        monkeypatch.setattr(catalogue, "entry_points", lambda group: ["one"] if group == "tokenbench.methods" else [])
    catalogue._read.cache_clear()
    try:
        assert (catalogue._kept() is not None) == (change == "other line ends")
    finally:
        catalogue._read.cache_clear()
