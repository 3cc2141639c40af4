"""What lies between two rows: the answers of a pass that is not over and the times of rounds, kept so that a kill costs
little of it.

Files in a folder beside the results, named by the job and by what it was measured on; they go once the job has its row.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenbench.core import atomic
from tokenbench.errors import ResultsError
from tokenbench.measure.speed import Pair
from tokenbench.tasks.base import Scored, Task

SHARE = 0.05  # of the time that goes into writing, at most
PART = re.compile(r"(?P<job>[0-9a-f]{16})-(?P<env>[0-9a-f]{8})-(?P<start>\d+)-(?P<stop>\d+)\.part")


def folder(results: Path) -> Path:
    """Where what is unfinished of a results file is."""
    return results.with_name(f"{results.stem}.unfinished")


def same(env: Mapping[str, Any]) -> str:
    """8 hex digits of what a measurement must have been made on to be gone on with here: all but the session."""
    text = json.dumps({name: value for name, value in env.items() if name != "session"}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class Pace:
    """When to write: as often as writing takes `SHARE` of the time."""

    def __init__(self) -> None:
        self._ended, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time again."""
        return time.monotonic() - self._ended >= self._cost / SHARE

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is done inside is the writing."""
        began = time.monotonic()
        yield
        self._ended = time.monotonic()
        self._cost = self._ended - began


class Answers:
    """What one setting said of the items of a pass so far. With no folder, nothing is kept on disk."""

    def __init__(self, task: Task, where: Path | None, job: str, env: str) -> None:
        self.until = 0  # items that need not be asked for again
        self.skipped: list[tuple[str, str]] = []  # of those that were kept, the ones that could not be read
        self._task, self._where, self._name = task, where if task.keeps_parts else None, f"{job}-{env}"
        self._parts: list[Scored] = []
        self._new: list[tuple[Any, Any]] = []  # answers and targets since
        self._new_skipped: list[tuple[str, str]] = []
        self._take_up()
        self._kept = self.until

    def add(self, answer: Any, targets: Any, until: int, skipped: Sequence[tuple[str, str]]) -> None:
        """What was said of the next items, all up to `until` but those that were skipped."""
        self._new.append((answer, targets))
        self._new_skipped += skipped
        self.until = until

    def keep(self) -> None:
        """Write what was added."""
        if self._where is None or not self._new:
            return
        with atomic.explained(self._where, ResultsError):
            atomic.folders(self._where)
        path = self._where / f"{self._name}-{self._kept}-{self.until}.part"
        if self._new_skipped:
            atomic.write(path.with_suffix(".json"), json.dumps(self._new_skipped), ResultsError)
        self._parts.append(self._gathered())
        self._parts[-1].save(path)
        self._new, self._new_skipped, self._kept = [], [], self.until

    def all(self) -> Scored:
        """The whole pass as one."""
        parts = [*self._parts, *([self._gathered()] if self._new else [])]
        return parts[0] if len(parts) == 1 else self._task.join(parts)

    def _gathered(self) -> Scored:
        answers, targets = zip(*self._new, strict=True)
        return self._task.gather(answers, targets)

    def _take_up(self) -> None:
        """Parts that follow one another from the first item on; what comes after a gap is not used."""
        found: dict[int, tuple[int, Path]] = {}
        for path in sorted(self._where.glob(f"{self._name}-*.part")) if self._where else ():
            match = PART.fullmatch(path.name)
            if match:
                start, stop = int(match["start"]), int(match["stop"])
                found[start] = max(found.get(start, (0, path)), (stop, path))
        while self.until in found:
            stop, path = found[self.until]
            try:
                part = self._task.load(path)
                listed = path.with_suffix(".json")
                skipped = json.loads(listed.read_text()) if listed.is_file() else []
            except (ResultsError, OSError, ValueError):  # damaged, so asked again
                break
            self._parts.append(part)
            self.skipped += [(str(name), str(why)) for name, why in skipped]
            self.until = stop


class Rounds:
    """The times of rounds so far, by job."""

    def __init__(self, where: Path, env: str, session: str | None) -> None:
        self._where, self._env, self._session = where, env, session
        self._sessions: dict[str, str | None] = {}
        self._changed: dict[str, Sequence[Pair]] = {}
        self._pace = Pace()

    def before(self, job: str) -> list[Pair]:
        """The pairs of times of a job that were kept."""
        try:
            data = json.loads(self._file(job).read_text())
            pairs = [(float(own), None if other is None else float(other)) for own, other in data["pairs"]]
            self._sessions[job] = data["session"]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        return pairs

    def session(self, job: str) -> str | None:
        """The session in which its timing began."""
        return self._sessions.get(job, self._session)

    def keep(self, job: str, pairs: Sequence[Pair]) -> None:
        """Take down all pairs of a job."""
        self._changed[job] = pairs
        if self._pace.due():
            self.write()

    def write(self) -> None:
        """Put on disk what changed."""
        if not self._changed:
            return
        with self._pace.writing():
            with atomic.explained(self._where, ResultsError):
                atomic.folders(self._where)
            for job, pairs in self._changed.items():
                text = json.dumps({"session": self.session(job), "pairs": list(pairs)})
                atomic.write(self._file(job), text, ResultsError)
        self._changed = {}

    def _file(self, job: str) -> Path:
        return self._where / f"{job}-{self._env}.rounds"


def tidy(results: Path, job: str) -> None:
    """Remove all that is kept of a job that has its row, and the folder once it is empty."""
    where = folder(results)
    for path in where.glob(f"{job}-*"):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        where.rmdir()
