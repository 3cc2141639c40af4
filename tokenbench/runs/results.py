"""The row and the results file: append-only JSON lines, one a job.

A file may be cut off in the middle of its last line by a crash or a full disk; nothing before that is lost, and the
next append starts on a line of its own. Null means not measured and is never 0.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tokenbench.errors import ResultsError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


class WeightsId(BaseModel):
    """Which weights: "file", "hub", "shipped" or "random", their name, and 16 hex digits of the file's SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file", "hub", "shipped", "random"]
    name: str
    hash: str | None = None


class Identity(BaseModel):
    """What was run, on what. Two rows with the same `id` are two runs of one job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    setting: dict[str, Any]  # every knob
    label: str
    backbone: str
    weights: WeightsId  # of the dense model
    trained: WeightsId | None = None  # the method's own, where it does not run on the dense ones
    dataset: str | None  # None where no data was used, in a speed run on random images
    split: str | None
    sample_hash: str | None
    image_size: tuple[int, int]  # height, width
    device: str
    hardware: str
    precision: str
    batch: int
    compile: bool
    seed: int
    version: str | None  # of tokenbench

    @model_validator(mode="before")
    @classmethod
    def _json(cls, data: Any) -> Any:
        """Values as JSON has them, so that a row equals itself read back; NaN and infinity become null."""
        return _plain(data)

    @property
    def id(self) -> str:
        """SHA-256, 16 hex digits, over the identity as canonical JSON."""
        values = self.model_dump(mode="json", include=set(Identity.model_fields))
        if self.trained is None:
            del values["trained"]  # so that rows from before it keep their ids
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Row(Identity):
    """One job's identity, what came of it, and what was measured; every metric may be None."""

    status: Literal["ok", "skipped", "failed", "oom"]
    reason: str | None = None  # one sentence, unless ok

    top1: float | None = None  # percent, as all accuracies
    top1_low: float | None = None  # 95 % interval
    top1_high: float | None = None
    top5: float | None = None
    agreement: float | None = None  # percent of images whose class is the dense model's
    diff_dense: float | None = None  # top1 minus the dense model's, in points
    diff_dense_low: float | None = None
    diff_dense_high: float | None = None
    p_value: float | None = None
    images: int | None = None  # evaluated
    images_total: int | None = None  # in the split they were taken from
    skipped: int | None = None  # unreadable

    gmacs: float | None = None  # 1e9 multiply-adds an image
    gmacs_fvcore: float | None = None
    gmacs_by_block: list[float | None] | None = None
    gmacs_by_part: dict[str, float | None] | None = None
    params_m: float | None = None  # 1e6

    images_per_s: float | None = None
    speedup: float | None = None  # over the dense model
    speedup_low: float | None = None
    speedup_high: float | None = None
    latency_p10: float | None = None  # milliseconds a batch
    latency_p50: float | None = None
    latency_p90: float | None = None
    reduction_share: float | None = None  # of the time, spent in the reducers: 0 to 1
    runs: int | None = None  # timed
    spread: float | None = None  # of the timed runs, relative to their median
    peak_memory_mb: float | None = None  # MiB

    tokens_mean: list[float | None] | None = None  # after each block
    tokens_std: list[float | None] | None = None

    env: dict[str, Any] = Field(default_factory=dict)
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @field_validator("time")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _says_why(self) -> Row:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a row that is {self.status} needs a reason")
        return self


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
        with _explained(self.path, "written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()

    def append(self, row: Row) -> None:
        """Add one row and have it on disk before returning; raises `ResultsError` if that cannot be."""
        with _explained(self.path, "written"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                line = (b"\n" if _is_cut(self.path) else b"") + dumps(row).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())

    def rows(self) -> list[Row]:
        """As `load`, without the problems; none where there is no file yet."""
        return load(self.path)[0] if self.path.is_file() else []

    def done(self) -> set[str]:
        """The ids with an ok row."""
        return {row.id for row in self.rows() if row.status == "ok"}

    def predictions(self, id: str) -> Path:
        """Where a job's predictions are to be written; the folder is made."""
        path = predictions_path(self.path, id)
        with _explained(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
        return path


def dumps(row: Row) -> str:
    """A row as one line of JSON, without the newline."""
    return json.dumps({"schema": SCHEMA, "id": row.id, **row.model_dump(mode="json")}, allow_nan=False)


def load(paths: str | Path | Iterable[str | Path]) -> tuple[list[Row], list[Problem]]:
    """The newest ok row of each id, or the newest of one that never was ok; and the lines that cannot be used.

    Rows come in the order in which their ids first appear. Raises `ResultsError` if a file cannot be read.
    """
    chosen, problems = _newest(paths)
    return [row for row, _ in chosen.values()], problems


def done(path: str | Path) -> set[str]:
    """The ids with an ok row; empty where there is no file yet."""
    return Results(path).done()


def merge(paths: Iterable[str | Path], output: str | Path) -> tuple[list[Row], list[Problem]]:
    """Write what `load` chooses from several files, with its predictions, to a new one; returns what `load` returns."""
    output = Path(output)
    if output.exists():
        raise ResultsError(f"{output} exists already; give the merged file a new name.")
    chosen, problems = _newest(paths)
    for id, (_, source) in chosen.items():
        predictions = predictions_path(source, id)
        if predictions.is_file():
            with _replacing(predictions_path(output, id)) as part:
                shutil.copyfile(predictions, part)
    with _replacing(output) as part:
        part.write_text("".join(dumps(row) + "\n" for row, _ in chosen.values()), encoding="utf-8")
    return [row for row, _ in chosen.values()], problems


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """A table of rows: a column a field; `setting.r`, `weights.kind`, `trained.name` and the like for what lies inside.

    Numbers that were not measured are NaN, in columns of float64.
    """
    import pandas as pd

    records = []
    for row in rows:
        record = {"id": row.id, **row.model_dump()}
        for name in ("setting", "weights", "trained"):
            record |= {f"{name}.{key}": value for key, value in (record.pop(name) or {}).items()}
        records.append(record)
    table = pd.DataFrame(records, columns=None if records else ["id", *Row.model_fields])
    numbers = [name for name, f in Row.model_fields.items() if f.annotation in (float | None, int | None)]
    return table.astype(dict.fromkeys(numbers, "float64"))


def predictions_path(path: str | Path, id: str) -> Path:
    """Where a results file keeps the predictions of a job."""
    path = Path(path)
    return path.with_name(f"{path.stem}.predictions") / f"{id}.npz"


def _newest(paths: str | Path | Iterable[str | Path]) -> tuple[dict[str, tuple[Row, Path]], list[Problem]]:
    chosen: dict[str, tuple[Row, Path]] = {}
    problems: list[Problem] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        with _explained(path, "read"):
            lines = path.read_bytes().split(b"\n")
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
        data = json.loads(line.decode(), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        raise ValueError("the line is cut or damaged") from None
    schema = data.pop("schema", None) if isinstance(data, dict) else None
    if not isinstance(schema, int):
        raise ValueError("the line is not a row of results")
    if schema > SCHEMA:
        raise ValueError(f"the row has schema {schema} and this version reads {SCHEMA}, so update tokenbench")
    id = data.pop("id", None)
    try:
        row = Row.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "row"
        raise ValueError(f"the row is damaged: {where}: {first['msg']}") from None
    if row.id != id:
        raise ValueError("the row was altered: its id is not that of its identity")
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_cut(path: Path) -> bool:
    """Whether the last line lacks its newline."""
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file to write beside `path`, which takes its place once it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with _explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _explained(path: Path, what: Literal["read", "written"]) -> Iterator[None]:
    """Turn an `OSError` into one sentence."""
    try:
        yield
    except OSError as error:
        advice = "free some space or give another path" if what == "written" else "give the path of a results file"
        raise ResultsError(f"{path} cannot be {what} ({error.strerror or error}); {advice}.") from None
