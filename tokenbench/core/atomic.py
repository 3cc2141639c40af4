"""Files written whole or not at all.

What is being written is named `.NAME.HOST.PID.part`, so that the leftovers of a killed writer are told from the work of
one that lives, and removed.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tokenbench.errors import TokenbenchError

ADVICE = "free some space or give another path"
FOLDER = "tokenbench"  # the name, among parts, of a folder that is filled
LONGEST = 30  # characters of a name that are kept in that of its part, for names have 255 bytes
OLD = 86400.0  # seconds after which the part of another machine, whose processes are not seen here, is a leftover
PART = re.compile(r"\.(?:(?P<host>[\w-]*)\.)?(?P<pid>\d{1,18})\.part")


@contextmanager
def explained(path: Path, error: type[TokenbenchError], advice: str = ADVICE) -> Iterator[None]:
    """Tell an `OSError` as one sentence of `error`: that `path` cannot be written, why, and what to do."""
    try:
        yield
    except OSError as why:
        raise error(f"{path} cannot be written ({why.strerror or why}); {advice}.") from None


@contextmanager
def replacing(path: Path, error: type[TokenbenchError], advice: str = ADVICE) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is whole and on disk.

    Folders on the way are made, links are followed, and what killed writers of `path` left is removed.

    Raises:
        TokenbenchError: `error`, where the file cannot be written or `path` is anything but a regular file.
    """
    with explained(path, error, advice):
        target = regular(path)
        folders(target.parent)
        tidy(target.parent, target.name)
        part = target.with_name(_part(target.name))
        try:
            yield part
            _sync(part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def write(path: Path, content: bytes | str, error: type[TokenbenchError], advice: str = ADVICE) -> None:
    """Write a file, text as UTF-8; raises `error` as `replacing` does."""
    data = content.encode() if isinstance(content, str) else content
    with replacing(path, error, advice) as part:
        part.write_bytes(data)


@contextmanager
def filling(folder: Path, error: type[TokenbenchError], advice: str = ADVICE) -> Iterator[Path]:
    """A folder to write into, whose files move to the same places in `folder` once all are whole: pages last.

    `folder` is made; what else it holds stays as it is.

    Raises:
        TokenbenchError: `error`, where a file cannot be written or something else has its place.
    """
    with explained(folder, error, advice):
        made = not folder.exists()
        folders(folder)
        tidy(folder)
        stage = folder / _part(FOLDER)
        try:
            stage.mkdir()
            yield stage
            files = [file for file in stage.rglob("*") if file.is_file()]
            moves = {file: folder / file.relative_to(stage) for file in files}
            for file, target in moves.items():
                with explained(target, error, advice):
                    regular(target)
                    folders(target.parent)
                _sync(file)
            for file in sorted(files, key=lambda file: file.suffix == ".html"):
                os.replace(file, moves[file])
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            if made:
                with suppress(OSError):  # it is not empty
                    folder.rmdir()


def check(path: Path, error: type[TokenbenchError], advice: str = ADVICE) -> None:
    """Raise `error` if `replacing` could not write `path`: better now than after hours of work. Makes nothing."""
    with explained(path, error, advice):
        target = regular(path)
        tidy(target.parent, target.name)
        above = next(folder for folder in target.parents if folder.exists())
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{above} is no folder")
        if not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"nothing can be made in {above}")


def regular(path: Path) -> Path:
    """Where a path leads; raises `OSError` if what is there is no regular file, which could block or swallow all."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "it is a device or a pipe, not a regular file")
    return target


def folders(path: Path) -> None:
    """Make a folder and those above it; raises `OSError` that says what is in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is no folder") from None


def tidy(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left of a file of that name, or of filling the folder where no name is given."""
    start = f".{(name or FOLDER)[:LONGEST]}"
    with suppress(OSError):  # what cannot be removed now is met again
        for entry in list(os.scandir(folder)):
            found = PART.fullmatch(entry.name.removeprefix(start)) if entry.name.startswith(start) else None
            if found is None or not _left(found["host"], int(found["pid"]), entry.stat(follow_symlinks=False).st_mtime):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _left(host: str | None, pid: int, changed: float) -> bool:
    """Whether the writer of a part is gone. A part of this very process is one of another that had its number."""
    here = os.name == "posix" and host in (None, _host())
    return (here and not _lives(pid)) or time.time() - changed > OLD


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # another user's
    return pid != os.getpid()


def _part(name: str) -> str:
    return f".{name[:LONGEST]}.{_host()}.{os.getpid()}.part"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:LONGEST]


def _sync(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
