"""The commands as functions that give tables: options are the flags of the command, with underscores.

    table = tokenbench.run(methods="tome[r=8,13],evit", backbone="deit_s", data_dir="val", limit=2000)
    tokenbench.choose(table, max_drop=1.0).attrs["answer"]

Tables of pandas remember the results file that they are of, so one function takes what another gave.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

RESULTS = "results"  # in the attrs of a table


def run(**options: Any) -> pd.DataFrame:
    """Measure methods: a line a row, as `tokenbench run` writes them to `output` (results.jsonl).

    Args:
        options: the flags of `tokenbench run`: methods, backbone, data_dir, weights, batch_size, device, limit, …

    Raises:
        TokenbenchError: as the command.
    """
    from tokenbench.cli import run as command
    from tokenbench.runs.row import frame

    context, flags = _parsed(command.run, options)
    with context:
        table = frame(command.measured(flags))
    table.attrs[RESULTS] = str(flags["output"])
    return table


def train(**options: Any) -> pd.DataFrame:
    """Train methods: a line a run, with its folder, the file of its weights and how good they are.

    Args:
        options: the flags of `tokenbench train`: method, backbone, data_dir, output, epochs, …; `set` takes a mapping.

    Raises:
        TokenbenchError: as the command.
    """
    import pandas as pd

    from tokenbench.cli import train as command

    changes = options.pop("set", {})
    options["set"] = [f"{key}={value}" for key, value in changes.items()]
    context, flags = _parsed(command.train, options)
    lines = []
    with context:
        done = command.trained(flags, context.meta.get("recipe", {}))
    for job, found in done:
        line = {"method": job.method.label, "backbone": job.backbone, "seed": job.seed, "output": str(job.output)}
        if isinstance(found, Exception):
            lines.append(line | {"status": "failed", "reason": str(found)})
        else:
            score = {job.task.metrics[0].name: found.value, "images": found.images, "weights": str(found.path)}
            lines.append(line | {"status": "ok", "reason": None} | score)
    return pd.DataFrame(lines)


def report(
    results: str | Path | pd.DataFrame = "results.jsonl",
    *others: str | Path | pd.DataFrame,
    output: str | Path = "reports",
    margin: float = 1.0,
) -> Path:
    """Write a page, tables and figures to `output`; gives the page.

    Raises:
        TokenbenchError: there are no rows, or something cannot be read or written.
    """
    from tokenbench.reports import files
    from tokenbench.runs.results import load

    found, _ = load(_paths((results, *others)))
    return files.write(list(found), Path(output), margin=margin, file=lambda row: found.place(row.id)).page


def compare(*what: str | Path | pd.DataFrame, margin: float = 1.0) -> pd.DataFrame:
    """What changes from one row to another, a line a field; the arguments are those of `tokenbench compare`.

    Raises:
        UsageError: nothing matches, or too much does.
    """
    import pandas as pd

    from tokenbench.runs.compare import compare as pairs_of
    from tokenbench.runs.compare import is_file

    given = [(one, _paths((one,))) for one in what]
    files = [path for one, (path,) in given if not isinstance(one, str) or is_file(one)]
    settings = [one for one, (path,) in given if isinstance(one, str) and path not in files]
    lines = [
        {
            **{"first": pair.first.row.label, "second": pair.second.row.label, "backbone": pair.first.row.backbone},
            **{"batch": pair.first.row.batch, "field": field, "from": change.first, "to": change.second},
            **{"change": change.value, "low": change.low, "high": change.high, "p_value": change.p},
            "verdict": change.words or None,
        }
        for pair in pairs_of(files, settings, margin)
        for field, change in pair.changes.items()
    ]
    return pd.DataFrame(lines)


def choose(results: str | Path | pd.DataFrame = "results.jsonl", **limits: Any) -> pd.DataFrame:
    """Which setting to use: a line an offer, those that keep to the limits first; `attrs["answer"]` says it in words.

    Args:
        results: a results file, or what `run` gave.
        limits: the flags of `tokenbench choose`: max_drop, max_latency ("20ms", or milliseconds), min_throughput,
            max_gmacs, max_memory ("2GB", or MiB), by.

    Raises:
        UsageError: a limit that means nothing.
        ResultsError: the file cannot be read.
    """
    import pandas as pd

    from tokenbench.cli import choose as command
    from tokenbench.reports import answers
    from tokenbench.runs.choose import decide
    from tokenbench.runs.conditions import across
    from tokenbench.runs.results import load

    _, flags = _parsed(command.choose, limits)
    rows, _ = load(_paths((results,)))
    choices = [decide(members, command.wanted_of(flags, answers.usual(members))) for members in across(rows).values()]
    lines = []
    for choice in choices:
        for offer in (*choice.offers, *choice.refused):
            lines.append(command.plain(offer) | {"batch": offer.row.batch, "answer": answers.headline(choice)})
    table = pd.DataFrame(lines)
    table.attrs["answer"] = "\n".join(answers.headline(choice) for choice in choices)
    return table


def _paths(results: Iterable[str | Path | pd.DataFrame]) -> list[Path]:
    found = []
    for one in results:
        if isinstance(one, str | Path):
            found.append(Path(one))
        elif RESULTS in getattr(one, "attrs", {}):
            found.append(Path(one.attrs[RESULTS]))
        else:
            raise UsageError("A table of results does not say which file it is of; give the path of a results file.")
    return found


def _parsed(command: click.Command, options: dict[str, Any]) -> tuple[click.Context, dict[str, Any]]:
    """What the flags of a command become; raises `UsageError` for names and values that it does not take."""
    flags = {
        option.lstrip("-").replace("-", "_"): option for p in command.params for option in p.opts if option[:2] == "--"
    }
    switches = {name for p in command.params if isinstance(p, click.Option) and p.is_flag for name in _names(p)}
    texts = []
    for name, value in options.items():
        if name not in flags:
            raise UsageError(f"{command.name}() takes no '{name}'; it takes {', '.join(sorted(flags))}.")
        if name in switches:
            texts += [flags[name]] if value else []
        elif value is not None:
            several = isinstance(value, list | tuple)
            multiple = any(isinstance(p, click.Option) and p.multiple for p in command.params if name in _names(p))
            parts = [str(part) for part in value] if several else [str(value)]
            for text in parts if multiple else [",".join(parts)]:
                texts += [flags[name], text]
    try:
        context = command.make_context(str(command.name), texts)
    except click.UsageError as error:
        raise UsageError(error.format_message()) from None
    return context, context.params


def _names(option: click.Parameter) -> list[str]:
    return [name.lstrip("-").replace("-", "_") for name in option.opts]
