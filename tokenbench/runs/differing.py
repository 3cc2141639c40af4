"""What conditions two rows do not share."""

from __future__ import annotations

from typing import Any

from tokenbench.runs.row import Row

CONDITIONS = (
    *("weights", "trained", "dataset", "split", "sample_hash", "device", "hardware", "precision", "compile", "seed"),
    *("version", "conditions"),
)


def differ(first: Row, second: Row) -> dict[str, tuple[str, str]]:
    """Conditions that two rows do not share."""
    found = {}
    for name in CONDITIONS:
        of = "shared" if name == "conditions" and first.method != second.method else name
        both = getattr(first, of), getattr(second, of)
        if both[0] != both[1]:
            found[name] = (_told(both[0]), _told(both[1]))
    for name in ("torch", "timm", "session"):
        values = first.env.get(name), second.env.get(name)
        if values[0] != values[1]:
            found[name] = (str(values[0]), str(values[1]))
    return found


def _told(value: Any) -> str:
    return f"{value.name} ({value.hash or value.kind})" if hasattr(value, "hash") else str(value)
