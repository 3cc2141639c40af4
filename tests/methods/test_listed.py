"""What is said of methods in their table is what they say of themselves."""

from __future__ import annotations

from pathlib import Path

from tokenbench.methods import all_methods

TABLE = Path(__file__).parents[2] / "docs" / "methods.md"


def test_table() -> None:
    """Every method has a line with its kind, training, licence and proof."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.read_text().splitlines()]
    found = {cells[0].strip("`"): cells for cells in lines if len(cells) == 7 and cells[0].startswith("`")}
    own = {n: c for n, c in all_methods().items() if c.__module__.startswith("tokenbench.")}  # no plug-ins
    for name, cls in own.items():
        training = "" if cls.kind is None else "trained" if cls.trained else "training-free"
        _, _, kind, told, _, licence, held = found.pop(name)
        assert (kind, told, licence, held) == (cls.kind or "", training, cls.licence, cls.held), name
    assert not found
