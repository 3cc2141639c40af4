"""What `tokenbench list` and `show` print: methods, tasks and backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Grid

from tokenbench.cli.screen import WIDE, add, console, plain
from tokenbench.errors import PLUGIN
from tokenbench.methods import catalogue
from tokenbench.methods.catalogue import ListedMethod
from tokenbench.methods.paper import KINDS
from tokenbench.reports.cells import MISSING
from tokenbench.tasks import all_tasks
from tokenbench.tasks import get as get_task
from tokenbench.tasks.base import Task


def print_methods() -> None:
    """Every method in a line, in groups by what becomes of tokens."""
    head = ("method", "what it does", "training", "licence of the source", "held to", "paper")
    grid = Grid(*head, box=None, header_style="bold")
    methods = catalogue.methods()
    _add_method(grid, methods["dense"])
    for kind, what in (*KINDS.items(), (None, MISSING)):
        alike = [method for name, method in methods.items() if method.kind == kind and name != "dense"]
        if alike:
            grid.add_row()
            grid.add_row(plain(kind or "others", "bold"), plain(what, "bold"))
        for method in alike:
            _add_method(grid, method)
    console().print(grid)
    tasks = [name for name, cls in all_tasks().items() if cls.on_pyramid]
    console().print(plain(f"\nFor {' and '.join(tasks)}: {_making_pyramids()}.", "dim"))


def _add_method(grid: Grid, method: ListedMethod) -> None:
    paper = f"{method.paper.venue}, arXiv {method.paper.arxiv}" if method.paper else MISSING
    told = (method.licence or MISSING, method.held or MISSING, paper)
    add(grid, method.name, method.about, "trained" if method.trained else "training-free", *told)


def print_backbones() -> None:
    """The short names, what each stands for, and which methods run on it; below, why others do not."""
    methods = [name for name in catalogue.methods() if name != "dense"]
    lines = [["short name", "timm name", "tokens", *methods]]
    reasons: dict[str, list[str]] = {}  # in order of their numbers, with the methods they stop
    for short, backbone in catalogue.backbones().items():
        rows, cols = backbone.grid
        lines.append([short, backbone.full, f"{backbone.prefix} + {rows}×{cols}"])
        refused = {method: reason for reason, stopped in backbone.refused.items() for method in stopped}
        for method in methods:
            reason = refused.get(method)
            if reason is not None and method not in reasons.setdefault(reason, []):
                reasons[reason].append(method)
            lines[-1].append("✓" if reason is None else f"{list(reasons).index(reason) + 1}")
    out = console()
    grid = _lines(lines)
    wanted = out.measure(grid, options=out.options.update(max_width=WIDE)).maximum
    out.print(grid if wanted <= out.width else _lines([[short, *rest] for short, _, *rest in lines]))
    out.print()
    for number, (reason, stopped) in enumerate(reasons.items(), 1):
        out.print(plain(f"{number}  {', '.join(stopped)}: {reason}"))
    out.print(
        "Any other timm VisionTransformer with plain blocks, and any Swin, is taken by its timm name.", style="dim"
    )


def print_tasks() -> None:
    """Every task in a line."""
    grid = Grid("task", "what it measures", "metrics", box=None, header_style="bold")
    for name, cls in all_tasks().items():
        add(grid, name, _about(cls), ", ".join(metric.short for metric in cls.metrics))
    console().print(grid)


def print_task(name: str) -> None:
    """A task's docstring, data, metrics and knobs."""
    cls = get_task(name)
    out = console()
    out.print(plain(_about(cls), "bold"))
    if cls.layout:
        out.print(plain(f"--data-dir: {cls.layout}."))
    if cls.on_pyramid:
        out.print(plain(f"Methods that make feature pyramids: {_making_pyramids()}."))
    grid = Grid("metric", "what it is", "better", "interval", box=None, header_style="bold")
    for metric in cls.metrics:
        better = "more" if metric.better == "up" else "less"
        add(grid, metric.name, metric.axis, better, "95 %" if metric.interval else MISSING)
    out.print()
    out.print(grid)
    _print_knobs(cls.model_json_schema().get("properties", {}))
    for title, recipe in cls().recipes(None).items() if cls.recipes is not Task.recipes else ():
        _print_recipe(title, recipe.source, recipe.told())
    out.print()
    out.print(plain(f"tokenbench run --task {name}{_plugin(cls.__module__.startswith(PLUGIN))}", "dim"))


def _making_pyramids() -> str:
    """Which methods make feature pyramids, by backbone."""
    by_backbone: dict[str, list[str]] = {}
    for name, method in catalogue.methods().items():
        for backbone in method.pyramids:
            by_backbone.setdefault(backbone, []).append(name)
    return "; ".join(f"on {backbone} {', '.join(names)}" for backbone, names in by_backbone.items())


def print_method(name: str) -> None:
    """A method's docstring, paper, knobs and reported numbers."""
    method, out = catalogue.method(name), console()
    out.print(plain(method.about, "bold"))
    if method.paper:
        out.print(plain(f"{method.paper.title} ({method.paper.venue}, arXiv {method.paper.arxiv})"))
    told = ["Needs its own training." if method.trained else "Runs without training."]
    told += [f"It {method.kind}: {KINDS[method.kind]}."] if method.kind else []
    told += [f"Licence of the source: {method.licence}."] if method.licence else []
    told += [f"Held to {method.held}."] if method.held else []
    told += [f"Makes feature pyramids of {' and of '.join(method.pyramids)}."] if method.pyramids else []
    out.print(plain(" ".join(told)))
    if method.notes:
        out.print(plain(method.notes))
    _print_knobs(method.knobs)
    if method.printed:
        grid = Grid("backbone", "setting", "top-1 %", "GMAC", "", box=None, header_style="bold")
        for r in (printed.reported for printed in method.printed):
            setting = ", ".join(f"{k}={_value(v)}" for k, v in r.settings.items()) or MISSING
            top1, gmacs = (MISSING if v is None else f"{v:g}" for v in (r.top1, r.gmacs))
            how = "trained for it" if r.trained else "off the shelf"
            add(grid, r.backbone, setting, top1, gmacs, f"{how}; {r.note}" if r.note else how)
        out.print("\nreported by the paper", style="bold")
        out.print(grid)
    for title, recipe in method.recipes.items():
        _print_recipe(title, recipe.source, recipe.told)
    out.print()
    out.print(plain(f"tokenbench run --methods {_example(method)} --backbone deit_s{_plugin(method.plugin)}", "dim"))


def _print_knobs(knobs: Mapping[str, Mapping[str, Any]]) -> None:
    """Knobs, from the properties of a JSON schema."""
    if not knobs:
        return
    grid = Grid("knob", "default", "allowed", "what it is", box=None, header_style="bold")
    for knob, schema in knobs.items():
        add(grid, knob, _value(schema.get("default")), _allowed(schema), schema.get("description", ""))
    console().print()
    console().print(grid)


def _print_recipe(title: str, source: str, told: Mapping[str, Any]) -> None:
    out = console()
    out.print()
    out.print(plain(f"recipe {title} ({source})", "bold"))
    out.print(plain(f"  {', '.join(f'{key}={_value(value)}' for key, value in told.items())}"))


def _plugin(loaded: bool) -> str:
    return " --plugin FILE" if loaded else ""


def _lines(lines: Sequence[Sequence[str]]) -> Grid:
    """A table of lines, the first of which is its head."""
    grid = Grid(*lines[0], box=None, header_style="bold", pad_edge=False)
    for line in lines[1:]:
        add(grid, *line)
    return grid


def _about(cls: type[Task]) -> str:
    return (cls.__doc__ or cls.name).strip().splitlines()[0]


def _value(value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, tuple | list):
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


def _example(method: ListedMethod) -> str:
    main = method.main
    return (
        f'"{method.name}[{main}={_value(method.knobs[main].get("default"))}]"' if main in method.knobs else method.name
    )
