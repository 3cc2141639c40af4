"""`tokenbench choose`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options, streams
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.runs.axes import Axis
    from tokenbench.runs.choose import Choice, Offer, Wanted
    from tokenbench.runs.row import Row

BY = {
    "gmacs": "gmacs",
    "latency": "latency_p50",
    "throughput": "images_per_s",
    "memory": "peak_memory_mb",
    "energy": "joules",
}
UNITS = {"latency": {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}, "memory": {"": 1.0, "mib": 1.0, "mb": 1e6 / 2**20}}
UNITS["memory"] |= {"gib": 1024.0, "gb": 1e9 / 2**20}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-zµ]*)\s*")


_LIMITS = (
    click.option(
        "--max-drop",
        type=click.FloatRange(min=0, max=100),
        help="Points that may be lost.  [default: 1, if no cost is]",
    ),
    click.option("--max-latency", metavar="TIME", help="Median of a batch, as 20ms or 0.02s."),
    click.option("--min-throughput", type=click.FloatRange(min=0, min_open=True), help="Images a second."),
    click.option("--max-gmacs", type=click.FloatRange(min=0, min_open=True), help="GMAC an image."),
    click.option("--max-memory", metavar="SIZE", help="Peak of one pass, as 800MiB or 2GB."),
    click.option(
        "--by",
        type=click.Choice(["accuracy", *BY]),
        help="What to rank by.  [default: latency, or gmacs; accuracy where only costs are limited]",
    ),
)


def limiting(command: Any) -> Any:
    """The flags of what a setting must keep to; `wanted_of` makes of them what is asked."""
    for option in reversed(_LIMITS):
        command = option(command)
    return command


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@limiting
@click.option("-n", "--most", type=click.IntRange(min=1), default=5, show_default=True, help="Settings to show.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, one a choice, instead of tables.")
@options.plugin
def choose(results: tuple[Path, ...], most: int, as_json: bool, **flags: Any) -> int:
    """Which setting to use: those of RESULTS (results.jsonl) that keep to limits, ranked, with how sure that is.

    A setting is sure to lose at most --max-drop where its 95 % interval says so, corrected for all that stand to
    choose; timed limits must hold the whole interval. Rows of one machine and one set of data stand to choose together,
    of several backbones too, against the best dense model there. Exit code 1 where no setting is sure.
    """
    from tokenbench.reports import answers
    from tokenbench.runs.choose import decide
    from tokenbench.runs.conditions import across

    rows, problems = options.rows_of(results)
    for problem in problems:
        click.echo(streams.printable(f"Left out {problem}"), err=True)
    choices = [decide(members, wanted_of(flags, answers.usual(members))) for members in across(rows).values()]
    if not choices:
        raise UsageError("There are no rows to choose from; run `tokenbench run` first, or give another results file.")
    for choice in choices:
        show(choice, most, as_json)
    return int(not any(choice.best for choice in choices))


def show(choice: Choice, most: int, as_json: bool) -> None:
    """A choice on stdout: its sentence, what follows it, and the best offers."""
    from tokenbench.cli import screen
    from tokenbench.reports import answers

    if as_json:
        click.echo(json.dumps(_plain(choice, most), allow_nan=False))
        return
    out = screen.console()
    out.print()
    out.print(screen.plain(f"{answers.headline(choice)}.", "bold"))
    if choice.rows:
        out.print(screen.plain(_where(choice.rows[0]), "dim"))
        follow = "".join(part if isinstance(part, str) else part[0] for part in answers.lead(choice))
        if follow:
            out.print(screen.plain(follow))
        screen.print_lines(answers.table(choice, most))


def wanted_of(flags: dict[str, Any], usual: Axis) -> Wanted:
    """What the flags ask for, ranked by an axis unless they say another; raises `UsageError` for what means nothing."""
    from tokenbench.runs.axes import AXES
    from tokenbench.runs.choose import Limit, Wanted

    axes = {axis.field: axis for axis in AXES}
    given = {
        "gmacs": flags["max_gmacs"],
        "latency": quantity("max-latency", flags["max_latency"], UNITS["latency"], "20ms, 0.02s"),
        "throughput": flags["min_throughput"],
        "memory": quantity("max-memory", flags["max_memory"], UNITS["memory"], "800MiB, 2GB"),
    }
    limits = tuple(Limit(axes[BY[name]], value) for name, value in given.items() if value is not None)
    drop = 1.0 if flags["max_drop"] is None and not limits else flags["max_drop"]
    by = flags["by"] or ("accuracy" if drop is None else None)
    return Wanted(drop, limits, usual if by is None else axes[BY[by]] if by in BY else None)


def quantity(flag: str, text: str | None, units: dict[str, float], example: str) -> float | None:
    """A number with a unit; raises `UsageError` for any other text."""
    if text is None:
        return None
    match = _QUANTITY.fullmatch(text)
    factor = units.get(match[2].lower().replace("µ", "u")) if match else None
    if match is None or factor is None or not float(match[1]) > 0:
        raise UsageError(f"--{flag} {text} is not allowed; write it like {example}.")
    return float(match[1]) * factor


def _where(row: Row) -> str:
    height, width = row.image_size
    data = f"{row.dataset} ({row.split})" if row.dataset else "no data"
    return f"{data}; {height}×{width}; {row.hardware}, {row.precision}, batch {row.batch}"


def _plain(choice: Choice, most: int) -> dict[str, Any]:
    from tokenbench.reports import answers

    offers = [plain(offer) for offer in (*choice.offers, *choice.refused)[:most]]
    asked = choice.wanted
    return {
        "answer": answers.headline(choice),
        "use": choice.best.row.label if choice.best else None,
        "max_drop": asked.drop,
        "limits": {limit.axis.field: limit.value for limit in asked.limits},
        "by": asked.by.field if asked.by else "accuracy",
        "reference": choice.reference.label if choice.reference else None,
        "batch": choice.rows[0].batch if choice.rows else None,
        "offers": offers,
    }


def plain(offer: Offer) -> dict[str, Any]:
    """An offer as values of JSON."""
    drop, bound, saving, row = offer.drop, offer.bound, offer.saving, offer.row
    return {
        **{"id": row.id, "label": row.label, "backbone": row.backbone, "keeps": offer.keeps},
        **{"difference": drop.value if drop else None, "low": drop.low if drop else None},
        **{"high": drop.high if drop else None, "lost_at_most": bound.at_most if bound else None},
        **{"saved": saving.share if saving else None, "saved_low": saving.low if saving else None},
        **{"saved_high": saving.high if saving else None, "images": row.images},
    }
