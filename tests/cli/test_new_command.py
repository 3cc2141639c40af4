"""`tokenbench new`: what it writes is a method, a package, and what the documentation shows."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import tokenbench
from tokenbench import methods
from tokenbench.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "add_a_method.md"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(methods, "_registry", dict(methods.all_methods()))
    yield


def new(name: str) -> Result:
    return CliRunner().invoke(main, ["new", name])


def test_what_it_writes_is_what_the_page_shows_and_runs() -> None:
    told = new("halve")
    assert told.exit_code == 0 and "tokenbench check halve/halve.py" in told.stdout
    text = Path("halve/halve.py").read_text()
    assert f"```python\n{text}```" in PAGE.read_text(encoding="utf-8")
    assert methods.load_plugin("halve/halve.py") == ["halve"]
    model = tokenbench.build("halve", "deit_nano", block=1, share=0.25)
    out = model.run(torch.zeros(1, *model.config["input_size"]), trace=True)
    assert [tokens.count for tokens in out.trace[:3]] == [197, 50, 50]


def test_the_package_offers_the_method_by_an_entry_point() -> None:
    assert new("most_looked_at").exit_code == 0
    project = tomllib.loads(Path("most_looked_at/pyproject.toml").read_text())
    name = project["project"]["name"], project["project"]["entry-points"]["tokenbench.methods"]
    assert name == ("tokenbench-most_looked_at", {"most_looked_at": "most_looked_at"})
    assert [f"{module}.py" for module in project["tool"]["setuptools"]["py-modules"]] == ["most_looked_at.py"]
    assert "class MostLookedAt(Method):" in Path("most_looked_at/most_looked_at.py").read_text()


@pytest.mark.slow
def test_its_own_tests_pass() -> None:
    assert new("most_looked_at").exit_code == 0
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "most_looked_at"], capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-2000:]
    assert "test_what_every_method_keeps" in Path("most_looked_at/test_most_looked_at.py").read_text()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("tome", "Method 'tome' exists already"),
        ("stvit", "Method 'stvit' exists already"),
        ("json", "A Python module 'json' exists already"),
        ("two words", "'two words' cannot be a method's and a module's name; use small letters"),
        ("there", "'there' exists already; give another name, or remove it."),
    ],
)
def test_names_that_cannot_be(name: str, told: str) -> None:
    Path("there").mkdir()
    result = new(name)
    assert result.exit_code == 2 and result.stderr.startswith(f"Error: {told}") and result.stderr.count("\n") == 1
