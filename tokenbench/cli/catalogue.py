"""What `tokenbench list` and `show` print: methods, tasks and backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Grid

from tokenbench.backbones import SHORT_NAMES
from tokenbench.cli.screen import WIDE, add, console, plain
from tokenbench.errors import PLUGIN
from tokenbench.methods import all_methods, get
from tokenbench.methods.base import KINDS, Method
from tokenbench.methods.learning import Learning
from tokenbench.reports.cells import MISSING
from tokenbench.tasks import all_tasks
from tokenbench.tasks import get as get_task
from tokenbench.tasks.base import Task


def print_methods() -> None:
    """Every method in a line, in groups by what becomes of tokens."""
    head = ("method", "what it does", "training", "licence of the source", "held to", "paper")
    grid = Grid(*head, box=None, header_style="bold")
    methods = all_methods()
    _add_method(grid, methods["dense"])
    for kind, what in (*KINDS.items(), (None, MISSING)):
        alike = [cls for name, cls in methods.items() if cls.kind == kind and name != "dense"]
        if alike:
            grid.add_row()
            grid.add_row(plain(kind or "others", "bold"), plain(what, "bold"))
        for cls in alike:
            _add_method(grid, cls)
    console().print(grid)


def _add_method(grid: Grid, cls: type[Method]) -> None:
    paper = f"{cls.paper.venue}, arXiv {cls.paper.arxiv}" if cls.paper else MISSING
    told = (cls.licence or MISSING, cls.held or MISSING, paper)
    add(grid, cls.name, _first_line(cls), "trained" if cls.trained else "training-free", *told)


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


def print_tasks() -> None:
    """Every task in a line."""
    grid = Grid("task", "what it measures", "metrics", box=None, header_style="bold")
    for name, cls in all_tasks().items():
        add(grid, name, _first_line(cls), ", ".join(metric.short for metric in cls.metrics))
    console().print(grid)


def print_task(name: str) -> None:
    """A task's docstring, data, metrics and knobs."""
    cls = get_task(name)
    out = console()
    out.print(plain(_first_line(cls), "bold"))
    if cls.layout:
        out.print(plain(f"--data-dir: {cls.layout}."))
    grid = Grid("metric", "what it is", "better", "interval", box=None, header_style="bold")
    for metric in cls.metrics:
        better = "more" if metric.better == "up" else "less"
        add(grid, metric.name, metric.axis, better, "95 %" if metric.interval else MISSING)
    out.print()
    out.print(grid)
    _print_knobs(cls)
    for title, recipe in cls().recipes(None).items() if cls.recipes is not Task.recipes else ():
        out.print()
        out.print(plain(f"recipe {title} ({recipe.source})", "bold"))
        out.print(plain(f"  {_told(recipe)}"))
    out.print()
    out.print(plain(f"tokenbench run --task {name}{_plugin(cls)}", "dim"))


def _print_knobs(cls: type[Method] | type[Task]) -> None:
    if not cls.model_fields:
        return
    schema = cls.model_json_schema()["properties"]
    grid = Grid("knob", "default", "allowed", "what it is", box=None, header_style="bold")
    for knob, field in cls.model_fields.items():
        add(grid, knob, _value(field.default), _allowed(schema[knob]), field.description or "")
    console().print()
    console().print(grid)


def _plugin(cls: type) -> str:
    return " --plugin FILE" if cls.__module__.startswith(PLUGIN) else ""


def _told(recipe: Learning) -> str:
    """The values of a recipe that tell it from others: those that are not of its kind's first, and how long it is."""
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
    told = ["Needs its own training." if cls.trained else "Runs without training."]
    told += [f"It {cls.kind}: {KINDS[cls.kind]}."] if cls.kind else []
    told += [f"Licence of the source: {cls.licence}."] if cls.licence else []
    told += [f"Held to {cls.held}."] if cls.held else []
    out.print(plain(" ".join(told)))
    if cls.notes:
        out.print(plain(cls.notes))
    _print_knobs(cls)
    if cls.reported:
        grid = Grid("backbone", "setting", "top-1 %", "GMAC", "", box=None, header_style="bold")
        for r in cls.reported:
            setting = ", ".join(f"{k}={_value(v)}" for k, v in r.settings.items()) or MISSING
            top1, gmacs = (MISSING if v is None else f"{v:g}" for v in (r.top1, r.gmacs))
            how = "trained for it" if r.trained else "off the shelf"
            add(grid, r.backbone, setting, top1, gmacs, f"{how}; {r.note}" if r.note else how)
        out.print("\nreported by the paper", style="bold")
        out.print(grid)
    for title, recipe in cls.recipes.items():
        out.print()
        out.print(plain(f"recipe {title} ({recipe.source})", "bold"))
        out.print(plain(f"  {_told(recipe)}"))
    out.print()
    out.print(plain(f"tokenbench run --methods {_example(cls)} --backbone deit_s{_plugin(cls)}", "dim"))


def _lines(lines: Sequence[Sequence[str]]) -> Grid:
    """A table of lines, the first of which is its head."""
    grid = Grid(*lines[0], box=None, header_style="bold", pad_edge=False)
    for line in lines[1:]:
        add(grid, *line)
    return grid


def _first_line(cls: type[Method] | type[Task]) -> str:
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
