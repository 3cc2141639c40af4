"""All commands, in the order in which they are used. Each parses, calls one function and prints; heavy imports stay
inside.
"""

from __future__ import annotations

import click

from tokenbench.cli.check import check
from tokenbench.cli.choose import choose
from tokenbench.cli.compare import compare
from tokenbench.cli.convert import convert
from tokenbench.cli.export import export
from tokenbench.cli.group import Group
from tokenbench.cli.listing import env, list_, show
from tokenbench.cli.new import new
from tokenbench.cli.report import merge, report
from tokenbench.cli.run import run
from tokenbench.cli.trace import trace
from tokenbench.cli.train import train
from tokenbench.cli.tune import tune
from tokenbench.cli.verify import verify


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tokenbench")
def main() -> None:
    """Token sparsification for vision transformers, measured honestly.

    Start with `tokenbench run`; then `tokenbench report`.
    """


for command in (
    run,
    train,
    list_,
    show,
    env,
    trace,
    report,
    choose,
    tune,
    compare,
    merge,
    convert,
    export,
    new,
    check,
    verify,
):
    main.add_command(command)
