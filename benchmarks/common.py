"""What the benchmarks share: medians with their spread, and files that say what machine they were made on."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from tokenbench.backbones import Backbone
from tokenbench.methods.base import Method
from tokenbench.methods.sweep import parse
from tokenbench.runs import environment


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, _, high = quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": median(values), "q1": low, "q3": high, "runs": len(values)}


def text(found: dict[str, float], form: str = "{:.2f}") -> str:
    return f"{form.format(found['median'])} [{form.format(found['q1'])}, {form.format(found['q3'])}]"


def served(text: str, backbone: Backbone) -> tuple[list[Method], dict[str, str]]:
    """The settings written, `all` at their defaults, that run on the backbone; and why the others do not, by label."""
    settings = parse(text)
    refused = {method.label: why for method in settings if (why := method.refusal(backbone)) is not None}
    return [method for method in settings if method.label not in refused], refused


def table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---", *["---:"] * (len(head) - 1)], *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(path: Path, title: str, body: str, data: dict[str, Any], device: str = "cpu") -> None:
    """Write `path`.md and `path`.json and print the first."""
    env = environment.describe(device)
    made = datetime.now(UTC).date().isoformat()
    on = f"{env['hardware']}, {env['cpu_capability']}, torch {env['torch']}, timm {env['timm']}, {made}"
    page = f"# {title}\n\n{body}\n\nMeasured on {on}.\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    path.with_suffix(".json").write_text(json.dumps({**data, "env": env, "date": made}, indent=1) + "\n")
    print(page)
