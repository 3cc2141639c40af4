"""`tokenbench check`."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--methods", "--method", help='Settings to check, as "halve[block=3]".  [default: each Method as it is]')
def check(file: Path, methods: str | None) -> int:
    """Put the methods of a Python file through the contract that every method keeps.

    Tiny random models are used, so it takes seconds. FILE is run.
    """
    from tokenbench import contract
    from tokenbench.cli import screen
    from tokenbench.methods import get, load_plugin
    from tokenbench.methods.base import make
    from tokenbench.methods.sweep import parse

    names = load_plugin(file)
    settings = parse(methods) if methods else [make(get(name), get(name).trial) for name in names]
    outcomes: Counter[str] = Counter()
    for method in settings:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's tracers, which are no news of the method
            for verdict in contract.verdicts(method):
                outcomes[verdict.outcome] += 1
                why = f": {verdict.why}" if verdict.why else ""
                line = f"{verdict.outcome:<9} {method.label} on {verdict.family}: {verdict.check}{why}"
                click.echo(screen.plain(line).plain)
    click.echo(", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
    return int(outcomes["broken"] > 0)
