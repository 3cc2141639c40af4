"""The notebooks: .py and .ipynb in step, outputs from a real run that read well, and they run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel jupytext")
pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install ipykernel")
jupytext = pytest.importorskip("jupytext", reason="jupytext is not installed: pip install jupytext")

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


def read(name: str) -> Any:
    return jupytext.read(ROOT / "notebooks" / f"{name}.ipynb")


def test_every_notebook_has_its_pair() -> None:
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.py")) == NAMES
    assert len(NAMES) == 5


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_say_the_same(name: str) -> None:
    cells = [[(cell.cell_type, cell.source) for cell in notebook.cells] for notebook in (read(name), source(name))]
    assert cells[0] == cells[1], "run `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_the_outputs_are_of_a_whole_run_and_fit_to_show(name: str) -> None:
    file = ROOT / "notebooks" / f"{name}.ipynb"
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    check([output for cell in code for output in cell.outputs])
    assert file.stat().st_size < 300_000
    assert not re.search(r"/(home|root|tmp|work|Users|usr|opt)/", file.read_text(encoding="utf-8"))


def test_the_quickstart_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In this process, where a warning is an error; its pictures are looked at above, and kernels are slow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.display.display", lambda shown: print(type(shown).__name__))
    runpy.run_path(str(ROOT / "notebooks" / "quickstart.py"))
    shown = capfd.readouterr()
    assert "GMAC an image" in shown.out and shown.out.splitlines()[-1] == "Figure" and not shown.err
    assert (tmp_path / "results.jsonl").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name: str) -> None:
    execute = runpy.run_path(str(ROOT / "scripts" / "notebooks.py"))["execute"]
    notebook = execute(ROOT / "notebooks" / f"{name}.py")
    check([output for cell in notebook.cells for output in cell.get("outputs", [])])


def source(name: str) -> Any:
    return jupytext.read(ROOT / "notebooks" / f"{name}.py")


def check(outputs: list[Any]) -> None:
    """Something is shown, and neither an error nor a warning is."""
    assert any("data" in output for output in outputs)
    assert [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
