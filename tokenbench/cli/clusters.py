"""Flags of commands whose jobs may run on a Ray cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.cli import options
from tokenbench.errors import UsageError

if TYPE_CHECKING:
    from tokenbench.runs.remote import Share

_FILES = ("weights", "teacher", "labels", "class_order", "images", "annotations", "clips")  # that may be paths
_OPTIONS = (
    click.option(
        "--engine", type=click.Choice(["here", "ray"]), default="here", show_default=True, help="Where jobs run."
    ),
    click.option("--address", help="Of a Ray cluster, as 10.0.0.1:6379 or auto.  [default: this machine alone]"),
    click.option("--cpus-per-job", type=click.FloatRange(min=0, min_open=True), help="With --engine ray."),
    click.option(
        "--gpus-per-job", type=click.FloatRange(min=0), help="With --engine ray; below 1, speed is not timed."
    ),
)


def engine(command: Any) -> Any:
    """Where jobs run."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def share_of(flags: Mapping[str, Any]) -> Share:
    """What of a node each job gets."""
    from tokenbench.runs.remote import Share

    return Share(flags["cpus_per_job"], flags["gpus_per_job"], flags.get("settings_per_job") or 1)


def refuse(flags: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what is said of a cluster where there is none."""
    names = ("cpus_per_job", "gpus_per_job", "settings_per_job", "address")
    odd = next((name for name in names if flags.get(name) is not None), None)
    if odd is not None:
        raise UsageError(f"--{odd.replace('_', '-')} says something of a cluster; add --engine ray.")


def plugins() -> Sequence[Path]:
    """The plug-ins of this command, as any folder finds them."""
    found: Sequence[Path] = click.get_current_context().meta.get(options.PLUGINS, ())
    return [path.absolute() for path in found]


def from_anywhere(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags with paths that workers find, which run in folders of their own."""
    from tokenbench.data import packs

    found = {**flags, "output": flags["output"].absolute()}
    if flags["data_dir"] is not None:
        found["data_dir"] = packs.absolute(flags["data_dir"])
    for name in _FILES:
        if flags.get(name):
            parts = [part.strip() for part in str(flags[name]).split(",")]
            found[name] = ",".join(str(Path(part).absolute()) if Path(part).exists() else part for part in parts)
    return found
