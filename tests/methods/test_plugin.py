"""A new method is one new file: it is measured, listed, documented and tested without another edit."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tokenbench import methods
from tokenbench.cli import main

HALVE = '''
import torch
from pydantic import Field

from tokenbench import Method, Reducer


class EverySecond(Reducer):
    where = "after"

    def forward(self, tokens, attn):
        count = (tokens.count - tokens.prefix + 1) // 2
        index = 2 * torch.arange(count, device=tokens.x.device).expand(tokens.x.shape[0], -1)
        return tokens.keep(index)


class Halve(Method):
    """Halving: every second patch goes after one block."""

    name = "halve"
    main = "block"

    block: int = Field(1, ge=0, description="the block after which half of the patches go")

    def supports(self, vit):
        return None if self.block < vit.depth else f"block {self.block} does not exist"

    def reducers(self, vit):
        return {self.block: [EverySecond()]}
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    methods.all_methods()
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halve.py").write_text(HALVE)
    yield str(tmp_path / "halve.py")
    assert "halve" in methods.all_methods(), "the test did load it"


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(args), catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def test_it_is_measured(file: str) -> None:
    settings = ("--weights", "random", "-b", "2", "--rounds", "3", "--json")
    code, out, _ = call("run", "--plugin", file, "--methods", "halve[block=3,99]", *settings)
    assert code == 0
    dense, halve, beyond = map(json.loads, out.splitlines())
    assert (halve["label"], halve["setting"], halve["status"]) == ("halve[block=3]", {"block": 3}, "ok")
    assert halve["tokens_mean"] == [197] * 3 + [99] * 9
    assert halve["gmacs"] < dense["gmacs"] and halve["speedup"] and halve["latency_p50"]
    assert (beyond["status"], beyond["reason"]) == ("skipped", "block 99 does not exist")


def test_it_is_listed_and_documented(file: str) -> None:
    code, out, _ = call("list", "--plugin", file)
    assert code == 0 and re.search(r"halve +Halving: every second patch goes after one block\. +no +–", out)
    code, out, _ = call("show", "halve", "--plugin", file)
    assert code == 0
    assert re.search(r"block +1 +whole number ≥ 0 +the block after which half of the patches go", out)
    assert 'tokenbench run --methods "halve[block=1]"' in out


def test_its_knobs_are_checked_like_any_others(file: str) -> None:
    code, _, err = call("run", "--plugin", file, "--methods", "halve[block=-1]")
    assert (code, err) == (2, "Error: halve: block=-1 is not allowed, it should be greater than or equal to 0.\n")
    code, _, err = call("show", "halv", "--plugin", file)
    assert (code, err) == (2, "Error: Unknown method 'halv'. Did you mean halve? See `tokenbench list`.\n")


def test_it_goes_through_the_contract(file: str) -> None:
    methods.load_plugin(file)
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/methods/test_contract.py",
        "--plugin",
        file,
        "-k",
        "halve and not export",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    found = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", done.stdout)}
    assert done.returncode == 0, done.stdout[-2000:]
    assert found.get("passed", 0) >= 10 and "failed" not in found and "error" not in found
