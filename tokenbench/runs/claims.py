"""Which process measures what, where several write one results file: each job is claimed before it is measured.

A process holds the lock of a file of its own while it lives, which the system lets go of when it dies, however it dies;
so a claim counts only while its owner's lock is held, on this machine or another that shares the folder.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from tokenbench.core import atomic
from tokenbench.errors import ResultsError

__all__ = ["Claims"]


class Claims:
    """The claims on the jobs of a results file. Inside its `with`, this process is known to the others."""

    def __init__(self, results: Path) -> None:
        self._results, self.folder = results, results.with_name(f".{results.stem}.claims")
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lives: FileLock | None = None

    def __enter__(self) -> Claims:
        """Raises `ResultsError` where the folder cannot be written or files in it not be locked."""
        with self._table():
            self._lives = FileLock(self._file(self._name))
            self._lives.acquire(timeout=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """All that this process claimed is free again."""
        with suppress(ResultsError), self._table() as table:
            self._forget(table, self._name)
            if self._lives is not None:
                self._lives.release()
            self._file(self._name).unlink(missing_ok=True)

    def take(self, jobs: Sequence[Sequence[str]]) -> list[int]:
        """Claim a fair share of the jobs that nobody has: the first of them, as many as are left for each process.

        Args:
            jobs: each a list of ids that go together.

        Returns:
            Which of `jobs` are this process's now. Where there are none, it is known to wait for some.
        """
        with self._table() as table:
            taken = {id: owner for id, owner in table["claims"].items() if owner != self._name}
            free = [i for i, ids in enumerate(jobs) if not taken.keys() & set(ids)]
            share = -(-len(free) // len(table["owners"]))
            table["claims"] |= {id: self._name for i in free[:share] for id in jobs[i]}
            others = [name for name in table["waiting"] if name != self._name]
            table["waiting"] = others if free or not jobs else [*others, self._name]
        return free[:share]

    def release(self, ids: Sequence[str]) -> None:
        """Let go of jobs: they have their rows, or another is to have them."""
        with self._table() as table:
            for id in ids:
                if table["claims"].get(id) == self._name:
                    del table["claims"][id]

    def wanted(self) -> bool:
        """Whether another process waits for something to do."""
        if not (self.folder / "table.json").is_file():
            return False
        with self._table() as table:
            return any(name != self._name for name in table["waiting"])

    def lock(self, what: str) -> FileLock:
        """A lock for what two processes must not do at once; still to be acquired."""
        return FileLock(self.folder / f"{what}.lock")

    @contextmanager
    def _table(self) -> Iterator[dict[str, Any]]:
        """The table, without those who died; nobody else's meanwhile. The last to leave takes the folder along."""
        with atomic.explained(self._results, ResultsError), self._locked():
            path = self.folder / "table.json"
            try:
                table = json.loads(path.read_text())
            except (OSError, ValueError):
                table = {"owners": [], "claims": {}, "waiting": []}
            if self._name not in table["owners"]:
                table["owners"].append(self._name)
            for name in [name for name in table["owners"] if name != self._name and not self._alive(name)]:
                self._forget(table, name)
            yield table
            if table["owners"]:
                part = path.with_suffix(".part")
                part.write_text(json.dumps(table))
                os.replace(part, path)
            else:
                shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            while True:
                atomic.folders(self.folder)
                lock = FileLock(self.folder / "lock")
                with suppress(FileNotFoundError):  # the last other took the folder along
                    lock.acquire()
                    break
        except NotImplementedError:
            raise ResultsError(
                f"Files in {self.folder} cannot be locked, so two runs could measure one job; write to a folder of "
                f"a file system that has locks, and copy the results."
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _alive(self, name: str) -> bool:
        """Whether a process holds its lock; what a dead one left is removed."""
        file = self._file(name)
        if not file.is_file():
            return False
        try:
            with FileLock(file, timeout=0):
                pass
        except Timeout:
            return True
        file.unlink(missing_ok=True)
        return False

    @staticmethod
    def _forget(table: dict[str, Any], name: str) -> None:
        table["owners"] = [owner for owner in table["owners"] if owner != name]
        table["waiting"] = [owner for owner in table["waiting"] if owner != name]
        table["claims"] = {id: owner for id, owner in table["claims"].items() if owner != name}

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.alive"
