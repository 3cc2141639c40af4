"""The command line: a file a group of commands; `screen` prints, and nothing else in the package does."""

from tokenbench.cli.commands import main

__all__ = ["main"]
