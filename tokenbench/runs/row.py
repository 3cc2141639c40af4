"""The row: one job's identity, what came of it, and what was measured. Null means not measured and is never 0."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from tokenbench.measure.machine import BUSY, HELD
from tokenbench.runs.budget import Budget

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
# Schema 1 knew one task, and had its metrics among the fields of the row.
FIRST_TASK = "classification"
FIRST_METRICS = (
    *("top1", "top1_low", "top1_high", "top5", "agreement"),
    *("diff_dense", "diff_dense_low", "diff_dense_high", "p_value"),
)
FIRST_INTERVALS = ("top1", "diff_dense")


class WeightsId(BaseModel):
    """Which weights: "file", "hub", "shipped" or "random", their name, and 16 hex digits of the file's SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["file", "hub", "shipped", "random"]
    name: str
    hash: str | None = None


class Identity(BaseModel):
    """What was run, on what. Two rows with the same `id` are two runs of one job."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: str = FIRST_TASK
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
    conditions: dict[str, Any] = Field(default_factory=dict)  # other choices that decide the numbers, if not the usual

    @model_validator(mode="before")
    @classmethod
    def _json(cls, data: Any) -> Any:
        """Values as JSON has them, so that a row equals itself read back; NaN and infinity become null."""
        return _plain(data)

    @property
    def shared(self) -> dict[str, Any]:
        """The conditions that are not the method's own, so that its rows can stand beside others'."""
        return {name: value for name, value in self.conditions.items() if name not in ("method_source", "file")}

    @property
    def mode(self) -> str:
        """How the model runs: eager, compiled, or exported to another runtime."""
        return "exported" if "runtime" in self.conditions else "compiled" if self.compile else "eager"

    @property
    def id(self) -> str:
        """SHA-256, 16 hex digits, over the identity as canonical JSON."""
        values = self.model_dump(mode="json", include=set(Identity.model_fields))
        for name, before in (("task", FIRST_TASK), ("trained", None), ("conditions", {})):
            if values[name] == before:
                del values[name]  # so that rows from before there was a choice keep their ids
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Row(Identity):
    """One job's identity, what came of it, and what was measured; every metric may be None."""

    status: Literal["ok", "skipped", "failed", "oom"]
    reason: str | None = None  # one sentence, unless ok

    budget: Budget | None = None  # of the training of the weights it ran on, where their file says it

    metrics: dict[str, float | None] = Field(default_factory=dict)  # by the names that the task declares
    intervals: dict[str, str] = Field(default_factory=dict)  # by which formula each metric's 95 % ends are: "Wilson"
    images: int | None = None  # evaluated
    images_total: int | None = None  # in the split they were taken from
    skipped: int | None = None  # unreadable
    imagenet_val: bool | None = None  # whether they are of ImageNet-1k's validation set; None if nobody looked

    gmacs: float | None = None  # 1e9 multiply-adds an image
    gmacs_fvcore: float | None = None
    gmacs_by_block: list[float | None] | None = None
    gmacs_by_part: dict[str, float | None] | None = None
    params_m: float | None = None  # 1e6
    params_by_part: dict[str, float | None] | None = None  # 1e6, of the parts that the task names
    ms_by_part: dict[str, float | None] | None = None  # milliseconds a batch, medians

    images_per_s: float | None = None
    speedup: float | None = None  # over the dense model
    speedup_low: float | None = None  # 95 % interval; in rows without `noisy` 10th and 90th percentile over rounds
    speedup_high: float | None = None
    latency_p10: float | None = None  # milliseconds a batch
    latency_p50: float | None = None
    latency_p90: float | None = None
    reduction_share: float | None = None  # of the time, spent in the reducers: 0 to 1
    runs: int | None = None  # timed
    spread: float | None = None  # of the timed runs, relative to their median
    noisy: bool | None = None  # whether its speed is less sure than it should be
    speed_goal: float | None = None  # how sure that is: half the width of the interval, relative to it
    machine: dict[str, float | None] | None = None  # what else the machine did: `measure.machine.since`
    compile_s: float | None = None  # seconds of the first run of the compiled model
    peak_memory_mb: float | None = None  # MiB
    joules: float | None = None  # an image
    joules_spread: float | None = None  # of the readings, relative to their median
    joules_readings: int | None = None

    tokens_mean: list[float | None] | None = None  # after each block
    tokens_std: list[float | None] | None = None

    env: dict[str, Any] = Field(default_factory=dict)
    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="before")
    @classmethod
    def _first_schema(cls, data: Any) -> Any:
        """A row of schema 1: its metrics stood among the fields."""
        if not isinstance(data, Mapping) or "metrics" in data or data.get("task", FIRST_TASK) != FIRST_TASK:
            return data
        rest = {name: value for name, value in data.items() if name not in FIRST_METRICS}
        return {**rest, "metrics": {name: data.get(name) for name in FIRST_METRICS}}

    @model_validator(mode="before")
    @classmethod
    def _first_intervals(cls, data: Any) -> Any:
        """A row that does not say by which formulas: they were bootstrap's until runs had sessions."""
        if not isinstance(data, Mapping) or "intervals" in data or data.get("task", FIRST_TASK) != FIRST_TASK:
            return data
        env = data.get("env")
        told = isinstance(env, Mapping) and "session" in env
        found = {"top1": "Wilson", "diff_dense": "Tango"} if told else dict.fromkeys(FIRST_INTERVALS, "bootstrap")
        return {**data, "intervals": found}

    def __getattr__(self, name: str) -> Any:
        """A metric by its name: `row.top1`."""
        metrics = self.__dict__.get("metrics", {})
        if name not in metrics:
            raise AttributeError(f"A row of task '{self.__dict__.get('task')}' has no field or metric '{name}'.")
        return metrics[name]

    @property
    def busy(self) -> bool:
        """Whether the machine was kept from it by so much that times are longer than they would be."""
        return any(value is not None and value > BUSY for name in HELD if (value := (self.machine or {}).get(name)))

    @field_validator("time")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        return value.astimezone(UTC)

    @model_validator(mode="after")
    def _says_why(self) -> Row:
        if self.status != "ok" and not self.reason:
            raise ValueError(f"a row that is {self.status} needs a reason")
        return self


def dumps(row: Row) -> str:
    """A row as one line of JSON, without the newline."""
    return json.dumps({"schema": SCHEMA, "id": row.id, **row.model_dump(mode="json")}, allow_nan=False)


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """A table of rows: a column a field and a metric; `setting.r`, `weights.kind`, `trained.name` for what lies inside.

    Numbers that were not measured are NaN, in columns of float64.
    """
    import pandas as pd

    records, metrics = [], list(FIRST_METRICS)
    for row in rows:
        record: dict[str, Any] = {}
        for name, value in {"id": row.id, **row.model_dump()}.items():
            if name == "metrics":
                record |= value
                metrics += [metric for metric in value if metric not in metrics]
            elif name in ("setting", "weights", "trained", "conditions", "budget"):
                record |= {f"{name}.{key}": inner for key, inner in (value or {}).items()}
            else:
                record[name] = value
        records.append(record)
    empty = ["id", *(name for name in Row.model_fields if name != "metrics"), *metrics]
    table = pd.DataFrame(records, columns=None if records else empty)
    numbers = [name for name, f in Row.model_fields.items() if f.annotation in (float | None, int | None)]
    return table.astype({name: "float64" for name in (*numbers, *metrics) if name in table})


def _plain(value: Any) -> Any:
    if isinstance(value, str):  # half a sign, as of a folder's name that is not UTF-8, could not be written again
        return value if value.isascii() else value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
