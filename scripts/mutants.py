"""Mutants: the code changed in small ways, one at a time, and which changes no test notices, as a table.

python scripts/mutants.py                                # what was found so far
python scripts/mutants.py --shown runs/gates             # and what those that survived in this module changed
python scripts/mutants.py --try                          # try all: hours, and it goes on where it was stopped
python scripts/mutants.py --try "tokenbench.runs.row*"   # try these, again if they were tried
python scripts/mutants.py --try --sample 30 --seed 1     # of each module 30 drawn at random; the table is of these
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mutmut import __main__ as mutmut
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers import isolation

FOUND = Path("mutants/tokenbench")
CAUGHT = ("killed", "timeout", "segfault", "caught by type check")
PROCESSES = 2


class CheapestFirst(PytestRunner):
    """The tests that reach a mutant file by file, the cheapest first: what a file prepares, it prepares once."""

    def execute_pytest(self, params: list[str], **options: Any) -> int:
        return super().execute_pytest(params, **options | {"plugins": [*options.get("plugins", ()), self]})

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        """What a test prepares counts as well, by mutmut's own count it does not."""
        if call.when == "setup":
            state().duration_by_test[item.nodeid] = state().duration_by_test.get(item.nodeid, 0.0) + call.duration

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        cost: dict[str, float] = defaultdict(float)
        for test in tests:
            cost[_file(test)] += state().duration_by_test[test]
        ordered = sorted(tests, key=lambda test: (cost[_file(test)], _file(test), state().duration_by_test[test]))
        return super().run_tests(mutant_name=mutant_name, tests=ordered)


def attempt(patterns: list[str], sample: int | None, seed: int) -> None:
    isolation.PytestRunner = CheapestFirst  # type: ignore[misc]
    if sample is not None:
        set_mutant_under_test("mutant_generation")
        FOUND.mkdir(parents=True, exist_ok=True)
        mutmut.copy_src_dir()
        mutmut.create_mutants(PROCESSES)
        patterns = [name for codes in found(patterns, sample, seed).values() for name in codes]
    mutmut._run(patterns, PROCESSES)


def found(patterns: list[str], sample: int | None, seed: int) -> dict[str, dict[str, int | None]]:
    """The exit code of each mutant of each module, None where it was not tried; of a sample, those that are drawn."""
    every = {}
    for module in modules():
        codes = exit_codes(module)
        names = [name for name in codes if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]
        if sample is not None:
            names = random.Random(f"{seed} {module}").sample(names, min(sample, len(names)))
        every[module] = {name: codes[name] for name in names}
    return every


def modules() -> list[str]:
    return sorted(str(meta.relative_to(FOUND)).removesuffix(".py.meta") for meta in FOUND.rglob("*.py.meta"))


def exit_codes(module: str) -> dict[str, int | None]:
    codes: dict[str, int | None] = json.loads((FOUND / f"{module}.py.meta").read_text())["exit_code_by_key"]
    return codes


def table(every: dict[str, dict[str, int | None]]) -> None:
    """A line a module, and one a wing, to which each module counts by how many mutants there are of it."""
    print("| module | mutants | tried | killed | of those tried, 95 % interval | survived | without a test |")
    print("|---|---|---|---|---|---|---|")
    wings: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for module, codes in every.items():
        of = Counter(status_by_exit_code[code] for code in codes.values())
        tried, caught = of.total() - of["not checked"], sum(of[status] for status in CAUGHT)
        if tried:
            size = len(exit_codes(module))
            wings[module.partition("/")[0]].append((size, tried, caught / tried))
            told = f"{interval(caught / tried, tried)} | {of['survived']} | {of['no tests']} |"
            print(f"| {module} | {size} | {tried} | {caught} | {told}")
    for wing, parts in wings.items():
        size = sum(n for n, _, _ in parts)
        share = sum(n * killed for n, _, killed in parts) / size
        worth = size**2 / sum(n**2 / tried for n, tried, _ in parts)  # as many, were they drawn from the whole wing
        print(f"| {wing}/ | {size} | {sum(tried for _, tried, _ in parts)} | | {interval(share, worth)} | | |")


def interval(share: float, tried: float) -> str:
    from tokenbench.measure.verdicts import wilson  # not before the tests, which are to import the mutants

    low, high = wilson(share * tried, tried)  # type: ignore[arg-type]
    return f"{100 * share:.0f} % ({low:.0f} to {high:.0f})"


def show(module: str, codes: dict[str, int | None]) -> None:
    """What the mutants that survived in a module changed."""
    for name, code in codes.items():
        if status_by_exit_code[code] not in (*CAUGHT, "not checked"):
            lines = get_diff_for_mutant(name, path=Path("tokenbench") / f"{module}.py").splitlines()
            print(f"\n{name}: {status_by_exit_code[code]}")
            print(*(line for line in lines[2:] if line[:1] in "+-"), sep="\n")


def _file(test: str) -> str:
    return test.partition("::")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description="Try mutants, and say of each module how many the tests kill.")
    parser.add_argument("patterns", nargs="*", help="names of mutants, as tokenbench.runs.row*; default: all")
    parser.add_argument("--try", dest="trying", action="store_true", help="run the tests first")
    parser.add_argument("--sample", type=int, help="so many of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    parser.add_argument("--shown", nargs="*", default=[], help="modules whose survivors are shown, as runs/gates")
    asked = parser.parse_args()
    chosen = asked.patterns, asked.sample, asked.seed
    if asked.trying:
        attempt(*chosen)
    every = found(*chosen)
    table(every)
    for module in asked.shown:
        show(module, every[module])


if __name__ == "__main__":
    main()
