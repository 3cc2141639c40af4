"""Files whole or not at all, whatever stops their writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokenbench.core import atomic
from tokenbench.errors import ResultsError, WeightsError

KILLED = """
import os, signal
from pathlib import Path
from tokenbench.core import atomic
from tokenbench.errors import ResultsError
with {call} as part:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(call: str, write: str, folder: Path) -> None:
    """A process that is killed while it writes."""
    code = KILLED.format(call=call, write=write)
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == -signal.SIGKILL


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_new_or_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "a.json"
    atomic.write(path, "é", ResultsError)
    assert path.read_bytes() == b"\xc3\xa9"
    with pytest.raises(RuntimeError), atomic.replacing(path, ResultsError) as part:
        part.write_text("half")
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt), atomic.replacing(path, ResultsError) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError) as caught:
        atomic.write(path, b"other", WeightsError, "free 3 bytes")
    assert str(caught.value) == f"{path} cannot be written (No space left on device); free 3 bytes."
    assert path.read_bytes() == b"\xc3\xa9" and names(tmp_path) == {"new/a.json"}


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path: Path) -> None:
    killed("atomic.replacing(Path('a.json'), ResultsError)", "part.write_text('half')", tmp_path)
    killed("atomic.filling(Path('.'), ResultsError)", "(part / 'page.html').write_text('half')", tmp_path)
    assert len(names(tmp_path)) == 2 and not (tmp_path / "a.json").exists()
    atomic.check(tmp_path / "a.json", ResultsError)
    assert len(names(tmp_path)) == 1 and not (tmp_path / "page.html").exists()
    with atomic.filling(tmp_path, ResultsError) as folder:
        (folder / "page.html").write_text("whole")
    assert names(tmp_path) == {"page.html"}


def test_parts_of_living_writers_and_files_of_others_stay(tmp_path: Path) -> None:
    host, dead = atomic._host(), 2**22 + 1  # above the highest number of a process
    stay = {
        f".a.json.{host}.{os.getppid()}.part",  # it lives
        f".a.json.elsewhere.{dead}.part",  # nobody here knows
        f".b.json.{host}.{dead}.part",  # of another file
        f".a.json.{host}.{dead}.part.txt",
        "a.json.5.part",
    }
    go = {f".a.json.{host}.{dead}.part", f".a.json.{dead}.part", f".a.json.elsewhere.{os.getppid()}.part"}
    for name in stay | go:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / f".a.json.elsewhere.{os.getppid()}.part", (time.time() - 2 * atomic.OLD,) * 2)
    atomic.write(tmp_path / "a.json", "", ResultsError)
    assert names(tmp_path) == stay | {"a.json"}


def test_a_folder_is_of_one_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(text: str) -> None:
        with atomic.filling(tmp_path / "out", ResultsError) as folder:
            for name in ("index.html", "tables/a.csv", "tables/b.csv"):
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text(text)

    (tmp_path / "out" / "tables").mkdir(parents=True)
    (tmp_path / "out" / "tables" / "mine.txt").write_text("mine")
    fill("one")
    synced: list[int] = []
    original = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: full(file) if len(synced) == 2 else synced.append(file))
    with pytest.raises(ResultsError, match=r"out cannot be written \(No space left on device\)"):
        fill("two")
    monkeypatch.setattr(os, "fsync", original)
    (tmp_path / "out" / "tables" / "b.csv").unlink()
    (tmp_path / "out" / "tables" / "b.csv").mkdir()
    with pytest.raises(ResultsError, match=r"b\.csv cannot be written \(Is a directory\)"):
        fill("three")
    assert {path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()} == {"one", "mine"}
    (tmp_path / "out" / "tables" / "b.csv").rmdir()
    fill("four")
    assert names(tmp_path / "out") == {"index.html", "tables/a.csv", "tables/b.csv", "tables/mine.txt"}
    assert (tmp_path / "out" / "index.html").read_text() == "four"


def test_a_page_comes_after_the_files_it_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[str] = []
    monkeypatch.setattr(os, "replace", lambda file, _: moved.append(Path(file).name))
    with atomic.filling(tmp_path, ResultsError) as folder:
        for name in ("index.html", "z.csv", "a.csv"):
            (folder / name).write_text("")
    assert moved[-1] == "index.html" and len(moved) == 3


def test_a_folder_that_was_not_there_is_not_left_empty(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic.filling(tmp_path / "new", ResultsError):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_only_regular_files_are_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "file").write_text("")
    for name, why in (
        ("pipe", "a device or a pipe"),
        ("link", "a device or a pipe"),
        ("", "Is a directory"),
        ("/dev/null", "a device or a pipe"),
        ("file/below", "file is no folder"),
    ):
        for write in (atomic.check, lambda path, error: atomic.write(path, "", error)):
            with pytest.raises(ResultsError, match=rf"cannot be written \(.*{why}"):
                write(tmp_path / name, ResultsError)


def test_links_are_followed_and_long_names_have_parts(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "a.json").symlink_to("large/b.json")
    atomic.write(tmp_path / "a.json", "text", ResultsError)
    assert (tmp_path / "a.json").is_symlink() and (tmp_path / "large/b.json").read_text() == "text"
    atomic.write(tmp_path / ("é" * 127), "text", ResultsError)
    assert (tmp_path / ("é" * 127)).read_text() == "text"


def test_it_is_light() -> None:
    code = "import sys, tokenbench.core.atomic; print([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_folder_that_takes_nothing_is_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    atomic.check(tmp_path / "new/folder/a.json", ResultsError)
    assert not list(tmp_path.iterdir()), "nothing is made"
    monkeypatch.setattr(os, "access", lambda folder, _: folder != tmp_path)  # whoever tests may be allowed anything
    with pytest.raises(ResultsError, match=rf"a\.json cannot be written \(nothing can be made in {tmp_path}\)"):
        atomic.check(tmp_path / "new/folder/a.json", ResultsError)
