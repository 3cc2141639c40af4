"""The results file: append-only JSON lines, one a job.

A file may be cut off in the middle of its last line by a crash or a full disk; nothing before that is lost, and the
next append starts on a line of its own.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.runs.row import SCHEMA, Row, dumps

DEEPEST = 16  # levels of a row's values
LONGEST = 100_000  # characters of a text
LARGEST = 1e100  # and one over it is the smallest, so that ratios stay numbers
ODD = re.compile(rb"\d[eE][+-]?\d{3}|\d{100}")


@dataclass(frozen=True)
class Problem:
    """A line that was left out when a file was loaded, and why."""

    path: str
    line: int  # from 1
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}"


class Results:
    """A results file that is being written; it need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def check(self) -> None:
        """Raise `ResultsError` if rows could not be appended: better now than after hours of measuring."""
        with atomic.explained(self.path, ResultsError):
            atomic.regular(self.path)
            atomic.folders(self.path.parent)
            self.path.open("ab").close()
        atomic.check(predictions_path(self.path, "any"), ResultsError)

    def append(self, row: Row) -> None:
        """Add one row and have it on disk before returning; raises `ResultsError` if that cannot be."""
        with atomic.explained(self.path, ResultsError):
            atomic.folders(self.path.parent)
            with self.path.open("ab", buffering=0) as file:
                line = (b"\n" if _is_cut(self.path) else b"") + dumps(row).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """As `load`, without the problems; none where there is no file yet."""
        return load(self.path)[0] if self.path.is_file() else []

    def predictions(self, id: str) -> Path:
        """Where a job's predictions are to be written; the folder is made."""
        path = predictions_path(self.path, id)
        with atomic.explained(path, ResultsError):
            atomic.folders(path.parent)
        return path


def load(paths: str | Path | Iterable[str | Path]) -> tuple[list[Row], list[Problem]]:
    """The newest ok row of each id, or the newest of one that never was ok; and the lines that cannot be used.

    Rows come in the order in which their ids first appear. Raises `ResultsError` if a file cannot be read.
    """
    chosen, problems = _newest(paths)
    return [row for row, _ in chosen.values()], problems


def merge(paths: Iterable[str | Path], output: str | Path) -> tuple[list[Row], list[Problem]]:
    """Write what `load` chooses from several files, with its predictions, to a new one; returns what `load` returns."""
    output = Path(output)
    if output.exists():
        raise ResultsError(f"{output} exists already; give the merged file a new name.")
    paths = list(paths)
    chosen, problems = _newest(paths)
    if not chosen:
        raise ResultsError(f"There is no row in {', '.join(map(str, paths))}; give files that `tokenbench run` wrote.")
    for id, (_, source) in chosen.items():
        predictions = predictions_path(source, id)
        if predictions.is_file():
            with atomic.replacing(predictions_path(output, id), ResultsError) as part:
                shutil.copyfile(predictions, part)
    atomic.write(output, "".join(dumps(row) + "\n" for row, _ in chosen.values()), ResultsError)
    return [row for row, _ in chosen.values()], problems


def predictions_path(path: str | Path, id: str) -> Path:
    """Where a results file keeps the predictions of a job."""
    path = Path(path)
    return path.with_name(f"{path.stem}.predictions") / f"{id}.npz"


def _newest(paths: str | Path | Iterable[str | Path]) -> tuple[dict[str, tuple[Row, Path]], list[Problem]]:
    chosen: dict[str, tuple[Row, Path]] = {}
    problems: list[Problem] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        with _readable(path):
            lines = atomic.regular(path).read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _parse(line)
            except ValueError as error:
                problems.append(Problem(str(path), number, str(error)))
                continue
            if row.id not in chosen or _rank(row) >= _rank(chosen[row.id][0]):
                chosen[row.id] = (row, path)
    return chosen, problems


def _rank(row: Row) -> tuple[bool, datetime]:
    return row.status == "ok", row.time


def _parse(line: bytes) -> Row:
    """A row of this schema; raises `ValueError` with a clause that says what is wrong with the line."""
    try:
        data = json.loads(line.removeprefix(codecs.BOM_UTF8).decode(), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise ValueError("the line is cut or damaged") from None
    if len(line) > LONGEST or line.count(b"[") + line.count(b"{") > 64 or ODD.search(line):  # else nothing can be wrong
        _check(data)
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if not isinstance(schema, int) or schema < 1:
        raise ValueError("the line is not a row of results")
    if schema > SCHEMA:
        raise ValueError(f"the row has schema {schema} and this version reads {SCHEMA}, so update tokenbench")
    id = data.pop("id", None)
    try:
        row = Row.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:100] or "row"
        raise ValueError(f"the row is damaged: {where}: {first['msg']}") from None
    except OverflowError:  # Python's, of the year before 1 or after 9999
        raise ValueError("the row is damaged: time: there is no such year") from None
    if row.id != id:
        raise ValueError("the row was altered: its id is not that of its identity")
    return row


def _check(value: object, name: str = "row", depth: int = 0) -> None:
    """Raise `ValueError` for what no run writes and no report could hold."""
    if isinstance(value, dict | list):
        if depth == DEEPEST:
            raise ValueError("the row is damaged: it is nested too deeply")
        for key, inner in value.items() if isinstance(value, dict) else ((name, inner) for inner in value):
            _check(key, name, depth)
            _check(inner, key, depth + 1)
    elif isinstance(value, str) and len(value) > LONGEST:
        raise ValueError(f"the row is damaged: a text of it has {len(value)} characters")
    elif isinstance(value, int | float) and value and math.isfinite(value if isinstance(value, float) else 0):
        small = abs(value) < 1 / LARGEST and name != "p_value"
        if small or abs(value) > LARGEST:
            raise ValueError(f"the row is damaged: {name[:100]}: no such number is measured")


def _is_cut(path: Path) -> bool:
    """Whether the last line lacks its newline."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn an `OSError` into one sentence."""
    try:
        yield
    except OSError as error:
        raise ResultsError(
            f"{path} cannot be read ({error.strerror or error}); give the path of a results file."
        ) from None
