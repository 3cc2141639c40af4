"""Run the notebooks: each .py in notebooks/ becomes the .ipynb beside it, with its outputs.

python scripts/notebooks.py                  all of them
python scripts/notebooks.py quickstart       some
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"


def execute(source: Path) -> nbformat.NotebookNode:
    """The notebook of a .py file with its outputs, run in an empty folder; raises nbclient's error of a cell."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # not random, so that running again changes outputs only
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress"  # tqdm's, where ipywidgets are absent
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, resources=resources, record_timing=False).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def main() -> None:
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.py")):
        start, file = time.perf_counter(), FOLDER / f"{name}.ipynb"
        nbformat.write(execute(FOLDER / f"{name}.py"), file)
        print(f"{file.name}: {time.perf_counter() - start:.0f} s, {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
