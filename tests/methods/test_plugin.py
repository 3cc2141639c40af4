"""A new method is one new file: it is measured, listed, documented and tested without another edit."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import femto
import pytest
from click.testing import CliRunner

from tokenbench import contract, methods
from tokenbench.cli import main
from tokenbench.core import registry
from tokenbench.errors import ContractBroken, UsageError
from tokenbench.reports.paper import tables
from tokenbench.runs import differing, runner
from tokenbench.runs.results import Results
from tokenbench.runs.row import Row

HALVE = '''
from itertools import count as counting

import torch
from pydantic import Field

from tokenbench import Method, Reducer


COUNT = counting()


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


UNUSED = """class EverySecond(Reducer):
    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Linear(2, 2)
"""
UNSAVED = """    def __init__(self):
        super().__init__()
        self.first = torch.initial_seed() == 1

    def forward(self, tokens, attn):
        if self.first:
            return tokens
"""
COSTLY = """more = (tokens.x @ torch.ones(32, 9999)).sum(-1, keepdim=True)
        return tokens.with_x(tokens.x + more).keep(index)"""
ADDED = """def wrap(self, vit):
        vit.vit.more = torch.nn.Linear(1, 1)
        return vit

    def reducers"""


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


def test_edited_it_is_measured_again(file: str) -> None:
    def ran() -> tuple[Row, Row]:
        methods.load_plugin(file)
        dense, halve = runner.run(femto.plan("halve"), Results("results.jsonl"), femto.Watch())
        return dense, halve

    dense, halve = ran()
    assert dense.conditions == {} and ran() == (dense, halve)
    assert halve.conditions == {"method_source": hashlib.sha256(HALVE.encode()).hexdigest()[:16]}
    (table,) = tables.tables([dense, halve])
    assert list(table.frame["method"]) == ["dense", "halve[block=1]"] and "method source" not in table.conditions
    assert f"halve[block=1]: a plug-in, source {halve.conditions['method_source']}." in table.notes
    assert "conditions" not in differing.differ(dense, halve)
    before = os.stat(file)
    Path(file).write_text(HALVE.replace("+ 1) // 2", "+ 1) // 3"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # edited as fast as may be, to one of equal size
    _, edited = ran()
    assert edited.id != halve.id and edited.tokens_mean != halve.tokens_mean
    assert differing.differ(halve, edited)["conditions"] == (str(halve.conditions), str(edited.conditions))


def test_it_is_listed_and_documented(file: str) -> None:
    code, out, _ = call("list", "--plugin", file)
    assert code == 0 and re.search(
        r"halve +Halving: every second patch goes after one block\. +training-free +– +– +–", out
    )
    assert out.index("others") < out.index("halve")
    code, out, _ = call("show", "halve", "--plugin", file)
    assert code == 0
    assert re.search(r"block +1 +whole number ≥ 0 +the block after which half of the patches go", out)
    assert 'tokenbench run --methods "halve[block=1]"' in out


def test_its_knobs_are_checked_like_any_others(file: str) -> None:
    code, _, err = call("run", "--plugin", file, "--methods", "halve[block=-1]")
    assert (code, err) == (2, "Error: halve: block=-1 is not allowed, it should be greater than or equal to 0.\n")
    code, _, err = call("show", "halv", "--plugin", file)
    assert (code, err) == (2, "Error: Unknown method 'halv'. Did you mean halve? See `tokenbench list`.\n")


def test_it_is_checked_without_pytest(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a check on stdout; what is broken says why and where, and the rest is checked all the same."""
    few = {family: contract.FAMILIES[family] for family in ("vit", "swin", "lvvit")}
    monkeypatch.setattr(contract, "FAMILIES", few)  # the others cost half a minute of exporting
    code, out, _ = call("check", file)
    *lines, total = out.splitlines()
    families = {line.partition(" on ")[2].partition(":")[0] for line in lines}
    assert code == 0 and len(lines) == len(families) * len(contract.CHECKS) and families == {"vit", "lvvit"}
    assert total == f"{len(lines) - len(families)} passed, {len(families)} left out"
    assert "passed    halve[block=1] on vit: maps sum as they must" in lines
    assert "left out  halve[block=1] on vit: neutral setting equals dense: halve has no neutral setting" in lines
    broken = HALVE.replace("        index =", "        if attn is None: {}[0]\n        index =")
    Path(file).write_text(broken.replace(', description="the block after which half of the patches go"', ""))
    del few["lvvit"]
    code, out, _ = call("check", file, "--methods", "halve[block=3]")
    line = broken.splitlines().index("        if attn is None: {}[0]") + 1
    assert code == 1 and "broken    halve[block=3] on vit: documented: knob block has no description" in out
    assert f"broken    halve[block=3] on vit: same seed same result: KeyError: KeyError (halve.py:{line})" in out
    code, out, err = call("check", file, "--methods", "halve[block=99]")
    assert (code, out) == (1, "")
    assert "no tiny model serves halve[block=99] (vit: block 99 does not exist; swin: " in err


@pytest.mark.parametrize(
    ("check", "old", "new", "why"),
    [
        ("documented", '"""Halving: every second patch goes after one block."""', "__doc__ = None", "no docstring"),
        (
            "documented",
            "def supports",
            'label = property(lambda self: "x")\n    def supports',
            "label 'x' does not begin with its name",
        ),
        (
            "neutral_setting_equals_dense",
            'main = "block"',
            'neutral = {"block": 2}',
            r"{'block': 2} differs from timm's",
        ),
        ("shapes_and_counts", "keep(index)", "keep(index.repeat(1, 3))", "the number of tokens grows: .37, 55"),
        ("shapes_and_counts", "keep(index)", "with_x(tokens.x / 0)", "logits are NaN or infinite"),
        ("shapes_and_counts", "tokens.keep(index)", "tokens", "no token is saved"),
        ("same_seed_same_result", "index = 2", "index = next(COUNT) % 2 + 2", "two runs give different logits"),
        (
            "tracing_changes_nothing",
            "index = 2",
            "index = (tokens.source is None) + 2",
            "others when tokens are traced",
        ),
        (
            "one_image_alone_equals_itself_in_a_batch",
            "index = 2",
            "index = (tokens.x.shape[0] > 1) + 2",
            "an image in a batch and alone differ by",
        ),
        (
            "gradients_reach_every_parameter",
            "class EverySecond(Reducer):",
            UNUSED,
            "no gradient reaches blocks.1.*unused",
        ),
        (
            "weights_are_all_there_is",
            "    def forward(self, tokens, attn):",
            UNSAVED,
            "others once its weights are saved",
        ),
        ("two_flop_counters_agree", "return tokens.keep(index)", COSTLY, "it costs .* GMAC, and dense"),
        ("timm_model_stays_untouched", "return {", "vit.vit.head.bias.data += 1; return {", "other logits afterwards"),
        ("dense_weights_load", "def reducers", ADDED, "dense weights are missing: vit.more"),
    ],
)
def test_each_check_can_fail(file: str, check: str, old: str, new: str, why: str) -> None:
    assert old in HALVE
    Path(file).write_text(HALVE.replace(old, new))
    methods.load_plugin(file)
    subject = contract.Subject("vit", methods.get("halve")())
    with pytest.raises(ContractBroken, match=why):
        getattr(contract, check)(subject)


@pytest.mark.slow  # `test_it_is_checked_without_pytest` runs the same checks
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


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """Puts a module where packages are, as pip leaves it, with an entry point that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[tokenbench.methods]\nhalve = {name}\n")
        registry.installed.cache_clear()
        monkeypatch.setattr(methods, "_registry", {})

    yield install
    registry.installed.cache_clear()
    sys.modules.pop("halving", None)


def test_an_installed_package_offers_methods_by_entry_points(installed: Callable[[str, str], None]) -> None:
    installed("halving", HALVE)
    cls = methods.get("halve")
    assert cls.__module__ == "halving" and "tome" in methods.all_methods()
    assert registry.source(cls) == hashlib.sha256(HALVE.encode()).hexdigest()[:16], "rows say which source it had"
    installed("broken", "import nowhere_to_be_found")
    with pytest.raises(UsageError, match="of broken does not import"):
        methods.all_methods()
