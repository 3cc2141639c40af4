"""What the terminal shows: progress on stderr, tables on stdout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table as Grid
from rich.text import Text

from tokenbench.backbones import SHORT_NAMES
from tokenbench.maps.arrays import TokenMaps
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import Method
from tokenbench.methods.recipe import Recipe
from tokenbench.reports.paper import tables
from tokenbench.runs.results import Row

if TYPE_CHECKING:
    import pandas as pd

SPARE = ("params M", "top-5 %", "peak MB", "selecting", "last tokens", "latency ms", "Δ GMAC")  # first to go
WIDE = 4000  # columns, for output that is piped: nothing is cut or wrapped


def console() -> Console:
    """Standard output, coloured and fitted only where it is a terminal."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(highlight=False, width=WIDE)


class Watching:
    """A `runner.Watch` on stderr: a bar with the time left and sentences above it; only lines where it is piped."""

    def __init__(self) -> None:
        out = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=out,
            transient=True,
            disable=not out.is_terminal,
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
        """A new bar in place of the last, or a line."""
        if self._progress.disable:
            self.say(what)
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(what, total=total)

    def step(self, done: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done)

    def note(self, text: str) -> None:
        """How it stands, beside the bar; a line where it is piped."""
        if self._progress.disable:
            self.say(text)
        else:
            self._progress.update(self._task, description=text)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(plain(text), soft_wrap=True)


def print_results(rows: Sequence[Row]) -> None:
    """A table for each set of conditions, then speed-ups by batch size where several were timed."""
    out = console()
    for table in tables.tables(rows):
        out.print()
        out.print(plain(table.title, "bold"))
        out.print(plain(table.conditions, "dim"))
        cells, notes = _fitted(table, out.width)
        out.print(_grid(cells))
        for note in notes:
            out.print(plain(f"· {note}", "dim"))


def _fitted(table: tables.Table, width: int) -> tuple[pd.DataFrame, Sequence[str]]:
    """The cells that fit in so many columns: without intervals if need be, then without the spare ones."""

    def fits() -> bool:
        widths = [max(len(str(name)), *map(len, cells[name])) for name in cells]
        return sum(widths) + 2 * (len(widths) - 1) <= width

    cells, spare = table.frame, [name for name in SPARE if name in table.frame]
    if fits():
        return cells, table.notes
    cells = cells.map(lambda cell: re.sub(r"(?<=\S) \[[^]]*, [^]]*\]$", "", cell))
    left_out = ["intervals"]
    while spare and not fits():
        left_out.append(spare.pop(0))
        cells = cells.drop(columns=left_out[-1])
    return cells, [*table.notes, f"too wide here: {', '.join(left_out)}; `tokenbench report` writes them to files."]


def print_methods() -> None:
    """Every method in a line."""
    grid = Grid("method", "what it does", "needs its own training", "paper", box=None, header_style="bold")
    for name, cls in all_methods().items():
        paper = f"{cls.paper.venue}, arXiv {cls.paper.arxiv}" if cls.paper else tables.MISSING
        _add(grid, name, _first_line(cls), "yes" if cls.trained else "no", paper)
    console().print(grid)


def print_backbones() -> None:
    """The short names, what each stands for, and which methods run on it; below, why others do not."""
    import warnings

    import torch

    from tokenbench import backbones

    settings = [cls() for name, cls in all_methods().items() if name != "dense"]
    lines = [["short name", "timm name", "tokens", *(m.name for m in settings)]]
    reasons: dict[str, list[str]] = {}  # in order of their numbers, with the methods they stop
    for short, full in SHORT_NAMES.items():
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            backbone = backbones.create(short)
        rows, cols = backbone.grid
        lines.append([short, full, f"{backbone.prefix} + {rows}×{cols}"])
        for method in settings:
            reason = method.refusal(backbone)
            if reason is not None and method.name not in reasons.setdefault(reason, []):
                reasons[reason].append(method.name)
            lines[-1].append("✓" if reason is None else f"{list(reasons).index(reason) + 1}")
    out = console()
    grid = _lines(lines)
    wanted = out.measure(grid, options=out.options.update(max_width=WIDE)).maximum
    out.print(grid if wanted <= out.width else _lines([[short, *rest] for short, _, *rest in lines]))
    out.print()
    for number, (reason, methods) in enumerate(reasons.items(), 1):
        out.print(plain(f"{number}  {', '.join(methods)}: {reason}"))
    out.print(
        "Any other timm VisionTransformer with plain blocks, and any Swin, is taken by its timm name.", style="dim"
    )


def _told(recipe: Recipe) -> str:
    """The values of a recipe that tell it from others: those that are not DeiT's, and how long it is."""
    knobs = {f"{key} of the method": value for key, value in recipe.knobs.items()}
    told = recipe.model_dump(exclude_defaults=True, exclude={"source", "knobs"})
    return ", ".join(f"{key}={_value(value)}" for key, value in {"epochs": recipe.epochs, **told, **knobs}.items())


def print_method(name: str) -> None:
    """A method's docstring, paper, knobs and reported numbers."""
    cls = get(name)
    out = console()
    out.print(plain(_first_line(cls), "bold"))
    if cls.paper:
        out.print(plain(f"{cls.paper.title} ({cls.paper.venue}, arXiv {cls.paper.arxiv})"))
    out.print("Needs its own training." if cls.trained else "Runs without training.")
    if cls.notes:
        out.print(plain(cls.notes))
    if cls.model_fields:
        schema = cls.model_json_schema()["properties"]
        grid = Grid("knob", "default", "allowed", "what it is", box=None, header_style="bold")
        for knob, field in cls.model_fields.items():
            _add(grid, knob, _value(field.default), _allowed(schema[knob]), field.description or "")
        out.print()
        out.print(grid)
    if cls.reported:
        grid = Grid("backbone", "setting", "top-1 %", "GMAC", "", box=None, header_style="bold")
        for r in cls.reported:
            setting = ", ".join(f"{k}={_value(v)}" for k, v in r.settings.items()) or tables.MISSING
            top1, gmacs = (tables.MISSING if v is None else f"{v:g}" for v in (r.top1, r.gmacs))
            how = "trained for it" if r.trained else "off the shelf"
            _add(grid, r.backbone, setting, top1, gmacs, f"{how}; {r.note}" if r.note else how)
        out.print("\nreported by the paper", style="bold")
        out.print(grid)
    for title, recipe in cls.recipes.items():
        out.print()
        out.print(plain(f"recipe {title} ({recipe.source})", "bold"))
        out.print(plain(f"  {_told(recipe)}"))
    own = " --plugin FILE" if cls.__module__.startswith("tokenbench_plugin") else ""
    out.print()
    out.print(plain(f"tokenbench run --methods {_example(cls)} --backbone deit_s{own}", "dim"))


def print_environment(values: Mapping[str, Any]) -> None:
    """Hardware and versions."""
    grid = Grid(box=None, show_header=False)
    for key, value in values.items():
        _add(grid, key, tables.MISSING if value is None else str(value))
    console().print(grid)


def print_maps(maps: Sequence[TokenMaps]) -> None:
    """The numbers of token maps, means over the images, and how far the settings agree."""
    from tokenbench.reports.maps import traces

    out = console()
    count = len(maps[0].names)
    title = f"{maps[0].backbone}, {count} image{'s' if count > 1 else ''}, after the last block"
    frames = {title: traces.summary(maps)}
    if len(maps) > 1:
        frames["agreement: IoU of the kept patches / NMI of the clusters"] = traces.between(maps)
    for heading, frame in frames.items():
        out.print()
        out.print(plain(heading, "bold"))
        out.print(_grid(frame))


def plain(text: str, style: str = "") -> Text:
    """Text as it is: brackets are no markup, and what could steer a terminal is left out."""
    return Text("".join(sign if sign.isprintable() else " " for sign in text), style)


def _grid(cells: pd.DataFrame) -> Grid:
    """A table whose first column is the name of each line."""
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for i, name in enumerate(cells.columns):
        grid.add_column(plain(str(name)), justify="left" if i == 0 else "right", no_wrap=i == 0)
    for values in cells.itertuples(index=False, name=None):
        _add(grid, *values)
    return grid


def _lines(lines: Sequence[Sequence[str]]) -> Grid:
    """A table of lines, the first of which is its head."""
    grid = Grid(*lines[0], box=None, header_style="bold", pad_edge=False)
    for line in lines[1:]:
        _add(grid, *line)
    return grid


def _add(grid: Grid, *cells: object) -> None:
    grid.add_row(*(plain(str(cell)) for cell in cells))


def _first_line(cls: type[Method]) -> str:
    return (cls.__doc__ or cls.name).strip().splitlines()[0]


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


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
    return f'"{cls.name}[{cls.main}={_value(field.default)}]"' if field else cls.name
