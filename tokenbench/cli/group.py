"""The group of commands: what goes wrong on purpose becomes one sentence and an exit code."""

from __future__ import annotations

import errno
from typing import Any

import click

from tokenbench.errors import TokenbenchError, UnknownName


class Group(click.Group):
    """Commands in the order they are used; what goes wrong on purpose becomes one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In order of definition."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, but offering the nearest name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.commands, "`tokenbench --help`")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and leave with its exit code; 130 for Ctrl-C."""
        try:
            code = super().invoke(ctx) or 0
        except TokenbenchError as error:
            click.echo(f"Error: {error}", err=True)
            code = error.exit_code
        except click.UsageError as error:
            see = error.ctx.command_path if error.ctx else ctx.command_path
            click.echo(f"Error: {error.format_message()} See `{see} --help`.", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            click.echo("Interrupted; what was measured is kept, and the same command goes on from there.", err=True)
            code = 130
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe left, which click ends quietly
                raise
            where = f" for {error.filename}" if error.filename else ""
            click.echo(f"Error: {error.strerror or error}{where}; mend that and run the command again.", err=True)
            code = 1
        ctx.exit(code)
