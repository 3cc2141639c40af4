"""The group of commands: what goes wrong on purpose becomes one sentence and an exit code."""

from __future__ import annotations

import errno
import itertools
import traceback
from typing import Any

import click

from tokenbench.cli import streams
from tokenbench.errors import Stopped, TokenbenchError, UnknownName, UsageError, first_line, place

KEPT = {  # what is left of a command that was stopped
    "run": "what was measured is kept, and the same command goes on from there",
    "train": "the same command goes on from the last checkpoint",
}


class Group(click.Group):
    """Commands in the order they are used; what goes wrong on purpose becomes one sentence and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, writing whatever the terminal's encoding is."""
        streams.lenient()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In order of definition."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, a mistake being one sentence here too."""
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _tell(f"{error.format_message()} See `{ctx.command_path} --help`.")
            ctx.exit(error.exit_code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, but offering the nearest name, and refusing what is empty."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.commands, "`tokenbench --help`")
        for before, given in itertools.pairwise(args):
            flag, equals, value = given.partition("=") if given.startswith("--") else (before, "=", given)
            if equals and not value.strip():
                what = flag if flag.startswith("-") else "An argument"
                raise UsageError(f"{what} is empty; give it a value, or leave it out.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and leave with its exit code: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        try:
            with streams.stopped_by_signals():
                code = super().invoke(ctx) or 0
        except TokenbenchError as error:
            _trace(ctx, error)
            _tell(str(error))
            code = error.exit_code
        except click.UsageError as error:
            see = error.ctx.command_path if error.ctx else ctx.command_path
            _tell(f"{error.format_message()} See `{see} --help`.")
            code = error.exit_code
        except KeyboardInterrupt as error:
            kept = KEPT.get(ctx.invoked_subcommand or "")
            click.echo(f"{first_line(error) if str(error) else 'Interrupted'}{f'; {kept}' if kept else ''}.", err=True)
            code = error.exit_code if isinstance(error, Stopped) else 130
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe left, which click ends quietly
                raise
            where = f" for {error.filename}" if error.filename else ""
            _trace(ctx, error)
            _tell(f"{error.strerror or error}{where}; mend that and run the command again.")
            code = 1
        except (Exception, SystemExit) as error:
            if not place(error):  # a fault of ours, whose traceback is wanted
                raise
            _trace(ctx, error)
            _tell(f"A plug-in stopped the command: {type(error).__name__}: {first_line(error)}{place(error)}.")
            code = 1
        ctx.exit(code)


def _tell(sentence: str) -> None:
    """An error on stderr, as one line in which nothing steers a terminal."""
    click.echo(f"Error: {streams.printable(sentence)}", err=True)


def _trace(ctx: click.Context, error: BaseException) -> None:
    if ctx.meta.get(streams.VERBOSE):
        for line in "".join(traceback.format_exception(error)).splitlines():
            click.echo(streams.printable(line), err=True)
