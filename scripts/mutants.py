"""What `make mutants` has found so far: mutants made, killed and left of each module, as a table.

python scripts/mutants.py                # the table
python scripts/mutants.py runs/gates     # and what those that survived in this module changed
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

FOUND = Path("mutants/tokenbench")
CAUGHT = ("killed", "timeout", "segfault", "caught by type check")


def main() -> None:
    print("| module | mutants | tried | killed | of those tried | survived | without a test |")
    print("|---|---|---|---|---|---|---|")
    for meta in sorted(FOUND.rglob("*.py.meta")):
        module = str(meta.relative_to(FOUND)).removesuffix(".py.meta")
        codes = json.loads(meta.read_text())["exit_code_by_key"]
        of = Counter(status_by_exit_code[code] for code in codes.values())
        tried, caught = len(codes) - of["not checked"], sum(of[status] for status in CAUGHT)
        if not tried:
            continue
        share = f"{100 * caught / tried:.0f} %"
        print(f"| {module} | {len(codes)} | {tried} | {caught} | {share} | {of['survived']} | {of['no tests']} |")
        if module in sys.argv[1:]:
            for name, code in codes.items():
                if status_by_exit_code[code] not in (*CAUGHT, "not checked"):
                    lines = get_diff_for_mutant(name, path=Path("tokenbench") / f"{module}.py").splitlines()
                    print(f"    {name.rsplit('.', 1)[1]}: {status_by_exit_code[code]}", file=sys.stderr)
                    print(*(f"        {x}" for x in lines[2:] if x[:1] in "+-"), sep="\n", file=sys.stderr)


if __name__ == "__main__":
    main()
