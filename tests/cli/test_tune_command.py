"""`tokenbench tune` on what ships, at a size that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokenbench.cli import main


@pytest.mark.slow
def test_a_knob_is_found_with_few_runs(tmp_path: Path) -> None:
    words = ["tune", "--method", "tome", "--max-drop", "5", "--limit", "300", "--rounds", "3", "--runs", "4", "-q"]
    done = CliRunner().invoke(main, [*words, "--weights", "dense", "-o", str(tmp_path / "r.jsonl"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    tried = [offer for offer in told["offers"] if offer["label"] != "dense"]
    assert 2 <= len(tried) <= 4 and told["use"].startswith("tome[r=") and told["by"] == "gmacs"
    assert all(offer["lost_at_most"] <= 5 for offer in tried if offer["keeps"])
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert {json.loads(line)["label"] for line in lines} >= {offer["label"] for offer in tried}
