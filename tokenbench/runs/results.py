"""The results file: append-only JSON lines, one a job.

A file may be cut off in the middle of its last line by a crash or a full disk; nothing before that is lost, and the
next append starts on a line of its own.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple, overload

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.runs import reading
from tokenbench.runs.glance import Glance
from tokenbench.runs.row import Row, dumps


@dataclass(frozen=True)
class Problem:
    """A line that was left out when a file was loaded, and why."""

    path: str
    line: int  # from 1
    why: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.why}"


class Place(NamedTuple):
    """Where a row stands."""

    path: Path
    start: int  # bytes from the beginning of the file
    length: int


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
        return list(load(self.path)[0]) if self.path.is_file() else []

    def predictions(self, id: str) -> Path:
        """Where a job's predictions are to be written; the folder is made."""
        path = predictions_path(self.path, id)
        with atomic.explained(path, ResultsError):
            atomic.folders(path.parent)
        return path


def load(paths: str | Path | Iterable[str | Path]) -> tuple[Rows, list[Problem]]:
    """The newest ok row of each id, or the newest of one that never was ok; and the lines that cannot be used.

    Rows come in the order in which their ids are first ok, and are made when they are asked for. Raises `ResultsError`
    if a file cannot be read.
    """
    chosen: dict[str, tuple[bool, datetime, Path, int, int]] = {}
    problems: list[Problem] = []
    glance = Glance()
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        start = stop = 0
        with _readable(path), atomic.regular(path).open("rb") as file:
            for number, line in enumerate(file, 1):
                start, stop = stop, stop + len(line)
                if line.isspace():
                    continue
                try:
                    told = glance.told(line) or reading.told(line)
                except ValueError as error:
                    problems.append(Problem(str(path), number, str(error)))
                    continue
                before = chosen.get(told.id)
                if before is None or (told.ok, told.time) >= before[:2]:
                    if before is not None and told.ok > before[0]:
                        del chosen[told.id]
                    chosen[told.id] = (told.ok, told.time, path, start, stop - start)
    return Rows({id: Place(*place[2:]) for id, place in chosen.items()}), problems


def merge(paths: Iterable[str | Path], output: str | Path) -> tuple[Rows, list[Problem]]:
    """Write what `load` chooses from several files, with its predictions, to a new one; returns what `load` returns."""
    output = Path(output)
    if output.exists():
        raise ResultsError(f"{output} exists already; give the merged file a new name.")
    paths = list(paths)
    rows, problems = load(paths)
    if not rows:
        raise ResultsError(f"There is no row in {', '.join(map(str, paths))}; give files that `tokenbench run` wrote.")
    with atomic.replacing(output, ResultsError) as whole, whole.open("w", encoding="utf-8") as file:
        for row in rows:
            predictions = predictions_path(rows.place(row.id), row.id)
            if predictions.is_file():
                with atomic.replacing(predictions_path(output, row.id), ResultsError) as part:
                    shutil.copyfile(predictions, part)
            file.write(dumps(row) + "\n")
    return rows, problems


def predictions_path(path: str | Path, id: str) -> Path:
    """Where a results file keeps the predictions of a job."""
    path = Path(path)
    return path.with_name(f"{path.stem}.predictions") / f"{id}.npz"


class Rows(Sequence[Row]):
    """Rows of results files, each made when it is asked for; kept is only where they stand."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._places)

    def __iter__(self) -> Iterator[Row]:
        """All of them, in order; make a list to go through them twice."""
        yield from self.of(self._places)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        """By position."""
        ids = list(self._places)[index]
        return list(self.of(ids)) if isinstance(ids, list) else next(self.of([ids]))

    def __eq__(self, other: object) -> bool:
        """Whether the rows are the same, whatever sequence the others are in."""
        return isinstance(other, Sequence) and len(self) == len(other) and list(self) == list(other)

    def of(self, ids: Iterable[str]) -> Iterator[Row]:
        """Those of these ids that there are.

        Raises:
            ResultsError: a file is no longer what it was.
        """
        with ExitStack() as opened:
            files: dict[Path, IO[bytes]] = {}
            for place in (self._places[id] for id in ids if id in self._places):
                with _readable(place.path):
                    file = files.get(place.path) or opened.enter_context(place.path.open("rb"))
                    files[place.path] = file
                    file.seek(place.start)
                    line = file.read(place.length)
                try:
                    yield reading.parse(line)
                except ValueError:
                    raise ResultsError(f"{place.path} was changed while it was read; run the command again.") from None

    def place(self, id: str) -> Path:
        """The file that a row is of."""
        return self._places[id].path


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
