"""Options that several commands share, each written once, and what their texts mean."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import click

from tokenbench.errors import UnknownName, UsageError

DEFAULT_RESULTS = Path("results.jsonl")


def _from_file(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Values of a TOML file stand in for defaults; flags still win."""
    if value is None:
        return
    try:
        found = tomllib.loads(value.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Config '{value}' cannot be read ({error.strerror}); give a TOML file.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"Config '{value}' is not TOML ({error}); write lines like batch-size = 32.") from None
    known = {p.opts[-1].lstrip("-"): p for p in ctx.command.params if p.name != "config"}
    ctx.default_map = {}
    if ctx.command.name == "train" and isinstance(found.get("recipe"), dict):
        ctx.meta["recipe"] = found.pop("recipe")  # its values; as a name it is the flag
    for key, given in found.items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise UnknownName("config key", key, known, f"`tokenbench {ctx.command.name} --help`")
        parameter = known[flag]
        if isinstance(parameter, click.Option) and parameter.multiple:
            given = given if isinstance(given, list) else [given]
        elif isinstance(given, list):
            given = ",".join(map(str, given))
        ctx.default_map[str(parameter.name)] = given


def _plugins(_: click.Context, __: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        from tokenbench.tasks import load_plugin

        for path in paths:
            load_plugin(path)


plugin = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=_plugins,
    is_eager=True,
    expose_value=False,
    help="A Python file with a Method or Task of your own; it is run.",
)
config = click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_from_file,
    is_eager=True,
    expose_value=False,
    help="TOML file; values of a recipe in [recipe].",
)
task = click.option(
    "--task", default="classification", show_default=True, help="What is scored; see `tokenbench list --tasks`."
)
methods = click.option("--methods", default="all", show_default=True, help='A sweep such as "tome[r=4,8,13],evit".')
backbone = click.option("--backbone", default="deit_nano", show_default=True, help="A short or timm name.")
weights = click.option(
    "--weights", default="auto", show_default=True, help="auto, dense, random, or files and folders."
)
image_size = click.option(
    "--image-size", default=None, help="Other than the model's own: 384, or 224x448 (height x width)."
)
limit = click.option("--limit", type=click.IntRange(min=1), help="Use this many images, spread evenly.")
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
amp = click.option("--amp", is_flag=True, help="Short for --precision bf16.")
workers = click.option(
    "-j", "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load."
)
threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
seed = click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)


def device_of(name: str) -> str:
    """The device to use; raises `UsageError` for one that is not here."""
    import torch

    from tokenbench.runs import environment

    if name == "cuda" and "LOCAL_RANK" in os.environ and int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # or the check below would take memory of the first
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    environment.hardware(name)
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, NotImplementedError):
        raise UsageError(f"device={name} cannot be used here, it must be one that torch finds; try auto.") from None
    return name


def size_of(text: str | None) -> tuple[int, int] | None:
    """Height and width; None for the model's own."""
    if text is None:
        return None
    sides = numbers("image-size", str(text), "x")
    return (sides[0], sides[-1])


def numbers(flag: str, text: str, separator: str) -> list[int]:
    """A flag's whole numbers of 1 or more; raises `UsageError` for any other text."""
    try:
        found = [int(part) for part in text.split(separator)]
    except ValueError:
        found = []
    if not found or min(found) < 1 or (separator == "x" and len(found) > 2):
        example = "384, or 224x448" if separator == "x" else "32, or 1,32,128, or auto"
        raise UsageError(f"--{flag} {text} is not allowed; write {example}.")
    return list(dict.fromkeys(found)) if separator == "," else found
