"""The picture of the README: what `tokenbench run` prints of a results file, as SVG.

python scripts/picture.py results.jsonl docs/run.svg
"""

import io
import sys

from rich.console import Console

from tokenbench.cli import screen
from tokenbench.runs.results import load


def main() -> None:
    source, output = sys.argv[1:]
    recorder = Console(record=True, width=132, highlight=False, force_terminal=True, file=io.StringIO())
    screen.console = lambda: recorder
    screen.print_results(load(source)[0])
    recorder.save_svg(output, title="tokenbench run")


if __name__ == "__main__":
    main()
