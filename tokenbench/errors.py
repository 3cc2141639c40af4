"""The errors a user can meet. Each message is one sentence: what was given, what is allowed, what to do.

TokenbenchError                 (exit code 1)
├── UsageError                  (exit code 2) the command or call cannot mean anything
│   ├── UnknownName             no method, backbone or knob of that name; the nearest one is offered
│   ├── BadSetting              a knob's value is out of range or of the wrong type
│   └── Unsupported             the method cannot run on that backbone, or the backbone is not served
├── DataError                   images or labels that cannot be used
│   └── BadData                 (exit code 2, a UsageError too) the data folder or file of labels given is none
├── WeightsError                a weights file that is cut short, does not fit, or would run code
├── TrainingError               a training run that cannot go on
├── ResultsError                a results file that cannot be read or written
└── ContractBroken              a method that does not keep what every method must
"""

from __future__ import annotations

import difflib
import signal
import traceback
from collections.abc import Iterable
from pathlib import Path

PLUGIN = "tokenbench_plugin_"  # what the name of a plug-in's module begins with


class TokenbenchError(Exception):
    """Base of every error tokenbench raises on purpose; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(TokenbenchError):
    """The command or call cannot mean anything as it was given."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is not registered; `kind` says of what ("method"), `see` where the names are listed."""

    def __init__(self, kind: str, name: str, known: Iterable[str], see: str) -> None:
        near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]}?" if near else ""
        super().__init__(f"Unknown {kind} '{name}'.{hint} See {see}.")

    def __reduce__(self) -> tuple[type[UsageError], tuple[str]]:
        """What other processes get of it: the sentence."""
        return UsageError, (str(self),)


class BadSetting(UsageError):
    """A knob's value is out of range or of the wrong type."""


class Unsupported(UsageError):
    """The method cannot run on that backbone, or the backbone cannot be served; the message gives the reason."""


class DataError(TokenbenchError):
    """Images or labels that cannot be used."""


class BadData(DataError, UsageError):
    """The data folder or file of labels that was given is none, or what is meant by it is not clear."""


class WeightsError(TokenbenchError):
    """A weights file that is cut short, does not fit the model, or would run code when loaded."""


class TrainingError(TokenbenchError):
    """A training run that cannot go on; the message names the last good checkpoint."""


class ResultsError(TokenbenchError):
    """A results file that cannot be read or written."""


class ContractBroken(TokenbenchError):
    """A method that does not keep what every method must; the message is a clause that says what."""


class Stopped(KeyboardInterrupt):
    """A signal that ends the process; like Ctrl-C it passes by whatever handles errors."""

    def __init__(self, number: int) -> None:
        super().__init__(f"Stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def first_line(error: BaseException) -> str:
    """What an error says first, as a clause; the name of its type where it says nothing, or only a key."""
    lines = "" if isinstance(error, KeyError) else str(error).strip()
    return " ".join(lines.splitlines()[0].split()).rstrip(".") if lines else type(error).__name__


def first_sentence(error: BaseException) -> str:
    """As `first_line`, up to the first full stop: what libraries say after it is advice for other users than ours."""
    return first_line(error).split(". ")[0]


def place(error: BaseException) -> str:
    """Where in a plug-in an error arose, as ` (halve.py:12)`; nothing where in none."""
    found = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__")).startswith(PLUGIN):
            found = f" ({Path(frame.f_code.co_filename).name}:{line})"
    return found or (place(error.__cause__) if error.__cause__ else "")
