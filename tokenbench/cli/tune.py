"""`tokenbench tune`."""

from __future__ import annotations

from typing import Any

import click

from tokenbench.cli import options
from tokenbench.cli.choose import limiting, show, wanted_of
from tokenbench.cli.run import measuring, plan_of


@click.command()
@click.option("--method", "--methods", "methods", required=True, help='A setting to tune, or several: "tome,diffrate".')
@limiting
@click.option("--runs", type=click.IntRange(min=1), default=7, show_default=True, help="Values to try, of each method.")
@measuring
def tune(runs: int, **flags: Any) -> int:
    """Find the value of a method's main knob for a budget, by bisection on the paired test.

    `--method tome --max-drop 0.5` finds the largest r that is sure to lose at most half a point; with limits on costs
    alone, the value that changes least and keeps to them. Several settings are tuned one after the other and stand to
    choose together: "tome[inflect=-1,0]" has two schedules over the blocks, diffrate its published ones. Each value
    that is tried gets its row in --output. Exit code 1 where none of them is sure to keep to the budget.
    """
    from tokenbench.cli import screen
    from tokenbench.reports import tuning
    from tokenbench.runs.axes import AXES
    from tokenbench.runs.results import Results
    from tokenbench.runs.tune import tune as tuned

    plan = plan_of(flags)
    with screen.Watching(flags["quiet"]) as watch:
        tell = None if flags["quiet"] else lambda step: watch.say(tuning.said(step))
        choice = tuned(plan, wanted_of(flags, AXES[0]), Results(flags["output"]), watch, runs, tell)
    show(choice, len(choice.rows), flags["as_json"])
    lines = tuning.use(choice, str(flags["weights"]), flags["image_size"], options.repeated(flags))
    for line in lines if not flags["as_json"] else ():
        screen.console().print(screen.plain(line))
    return int(not lines)
