"""What the terminal shows: progress on stderr, tables on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid

from tokenbench.backbones import SHORT_NAMES
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method
from tokenbench.reports import tables
from tokenbench.results import Row

WIDE = 4000  # columns, for output that is piped: nothing is cut or wrapped


def console() -> Console:
    """Standard output, coloured and fitted only where it is a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDE)


class Watching:
    """A `runner.Watch` on stderr: a bar with the time left, and sentences above it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> Watching:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stretch(self, what: str, total: int) -> None:
        """A new bar in place of the last."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def step(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, markup=False)


def print_results(rows: Sequence[Row]) -> None:
    """A table for each set of conditions, then speed-ups by batch size where several were timed."""
    out = console()
    for table in tables.tables(rows):
        out.print()
        out.print(table.title, style="bold", markup=False)
        out.print(table.conditions, style="dim", markup=False)
        frame = table.frame()
        _print_frame(out, frame)
        for note in table.notes():
            out.print(f"· {note}", style="dim", markup=False)
    by_batch = tables.batches(rows)
    if by_batch is not None:
        out.print("\nspeed-up over dense by batch size", style="bold")
        _print_frame(out, by_batch)


def print_methods() -> None:
    """Every method in a line."""
    grid = Grid("method", "what it does", "needs its own training", "paper", box=None, header_style="bold")
    for name, cls in all_methods().items():
        paper = f"{cls.paper.venue}, arXiv {cls.paper.arxiv}" if cls.paper else tables.MISSING
        grid.add_row(name, _first_line(cls), "yes" if cls.trained else "no", paper)
    console().print(grid)


def print_backbones() -> None:
    """The short names, what each stands for, and which methods run on it."""
    import warnings

    import torch

    from tokenbench import backbones

    settings = [cls() for cls in all_methods().values()]
    grid = Grid("short name", "timm name", "tokens", "cannot run", box=None, header_style="bold")
    for short, full in SHORT_NAMES.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone = backbones.create(short)
        rows, cols = backbone.grid
        refused = [f"{m.name}: {reason}" for m in settings if (reason := m.refusal(backbone))]
        grid.add_row(short, full, f"{backbone.prefix} + {rows}×{cols}", "; ".join(refused) or tables.MISSING)
    out = console()
    out.print(grid)
    out.print(
        "Any other timm VisionTransformer with plain blocks, and any Swin, is taken by its timm name.", style="dim"
    )


def print_method(name: str) -> None:
    """A method's docstring, paper, knobs and reported numbers."""
    cls = get(name)
    out = console()
    out.print(_first_line(cls), style="bold", markup=False)
    if cls.paper:
        out.print(f"{cls.paper.title} ({cls.paper.venue}, arXiv {cls.paper.arxiv})", markup=False)
    out.print("Needs its own training." if cls.trained else "Runs without training.")
    if cls.notes:
        out.print(cls.notes, markup=False)
    if cls.model_fields:
        schema = cls.model_json_schema()["properties"]
        grid = Grid("knob", "default", "allowed", "what it is", box=None, header_style="bold")
        for knob, field in cls.model_fields.items():
            grid.add_row(knob, _plain(field.default), _allowed(schema[knob]), field.description or "")
        out.print()
        out.print(grid)
    if cls.reported:
        grid = Grid("backbone", "setting", "top-1 %", "GMAC", "", box=None, header_style="bold")
        for r in cls.reported:
            setting = ", ".join(f"{k}={_plain(v)}" for k, v in r.settings.items()) or tables.MISSING
            top1, gmacs = (tables.MISSING if v is None else f"{v:g}" for v in (r.top1, r.gmacs))
            how = "trained for it" if r.trained else "off the shelf"
            grid.add_row(r.backbone, setting, top1, gmacs, f"{how}; {r.note}" if r.note else how)
        out.print("\nreported by the paper", style="bold")
        out.print(grid)
    out.print(f"\ntokenbench run --methods {_example(cls)} --backbone deit_s", style="dim", markup=False)


def print_environment(values: Mapping[str, Any]) -> None:
    """Hardware and versions."""
    grid = Grid(box=None, show_header=False)
    for key, value in values.items():
        grid.add_row(key, tables.MISSING if value is None else str(value))
    console().print(grid)


def _print_frame(out: Console, frame: Any) -> None:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(frame.columns):
        grid.add_column(str(name), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for values in frame.itertuples(index=False, name=None):
        grid.add_row(*(str(value).replace("[", r"\[") for value in values))
    out.print(grid)


def _first_line(cls: type[Method]) -> str:
    return (cls.__doc__ or cls.name).strip().splitlines()[0]


def _plain(value: Any) -> str:
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _allowed(schema: Mapping[str, Any]) -> str:
    """A knob's range or choices, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(_allowed(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    kind = {"boolean": "true, false", "array": "a list, 3/6/9", "integer": "whole number", "number": "number"}
    return " ".join([kind.get(schema.get("type", ""), schema.get("type", "")), *limits])


def _example(cls: type[Method]) -> str:
    field = cls.model_fields.get(cls.main) if cls.main else None
    return f'"{cls.name}[{cls.main}={_plain(field.default)}]"' if field else cls.name
