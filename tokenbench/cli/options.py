"""Options that several commands share, each written once, and what their texts mean."""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tokenbench.cli import streams
from tokenbench.core import atomic
from tokenbench.errors import UnknownName, UsageError
from tokenbench.measure.verdicts import MARGIN

if TYPE_CHECKING:
    from tokenbench.runs.results import Problem, Rows
    from tokenbench.tasks.base import Task
    from tokenbench.weights.choice import Take

LARGEST = 16384  # pixels a side, beyond which position embeddings alone are gigabytes
DEFAULT_RESULTS = Path("results.jsonl")


def _from_file(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    """Values of a TOML file stand in for defaults, as if they were typed; flags still win."""
    if value is None:
        return
    try:
        found = tomllib.loads(atomic.regular(value).read_text(encoding="utf-8"))
        json.dumps(found, default=str)  # TOML's whole numbers have 64 bits, and Python refuses to write very long ones
    except OSError as error:
        raise UsageError(f"Config '{value}' cannot be read ({error.strerror}); give a TOML file.") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"Config '{value}' is not TOML ({error}); write lines like batch-size = 32.") from None
    known = {
        name.lstrip("-"): p for p in ctx.command.params if p.name != "config" for name in p.opts if name[:2] == "--"
    }
    ctx.default_map = {}
    if ctx.command.name == "train" and isinstance(found.get("recipe"), dict):
        ctx.meta["recipe"] = found.pop("recipe")  # its values; as a name it is the flag
    for key, given in found.items():
        flag = key.replace("_", "-")
        if flag not in known:
            raise UnknownName("config key", key, known, f"`tokenbench {ctx.command.name} --help`")
        parameter = known[flag]
        ctx.default_map[str(parameter.name)] = _typed(f"Config '{value}': {key}", parameter, given)


def _typed(where: str, parameter: click.Parameter, given: object) -> object:
    """A value of TOML as it would be typed, so that it is checked as flags are; raises `UsageError` for other kinds."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if not isinstance(given, bool):
            raise UsageError(f"{where} = {given!r} is not allowed; write true or false.")
        return given
    multiple = isinstance(parameter, click.Option) and parameter.multiple
    several = given if isinstance(given, list) else [given]
    if isinstance(given, list) and not multiple and (not given or parameter.type is not click.STRING):
        raise UsageError(f"{where} = {given!r} is not allowed; write one value.")
    texts = []
    for value in several:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise UsageError(f"{where} = {given!r} is not allowed; write a text or a number, or a list of them.")
        texts.append(str(value))
        if not texts[-1].strip() or "\0" in texts[-1]:
            raise UsageError(
                f"{where} = {given!r} is empty or holds a null character; give it a value, or leave it out."
            )
    return texts if multiple else ",".join(texts)


PLUGINS = "plugins"  # where a command's context has the paths of its plug-ins


def _plugins(ctx: click.Context, _: click.Parameter, paths: tuple[Path, ...]) -> None:
    if paths:
        from tokenbench.tasks import load_plugin

        ctx.meta[PLUGINS] = paths
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
SHIPPED = "dense,random,topk,tome,evit,dynamicvit,stvit,stvit_r"  # those that deit_nano has weights for
methods = click.option(
    "--methods",
    "--method",
    default=SHIPPED,
    show_default=True,
    help='A sweep such as "tome[r=4,8,13],evit", or all.',
)
backbone = click.option("--backbone", default="deit_nano", show_default=True, help="A short or timm name.")
weights = click.option(
    "--weights", default="auto", show_default=True, help="auto, dense, random, or files and folders."
)
_ema = click.option("--ema", is_flag=True, help="Take averaged weights where a file has both.")
_key = click.option("--weights-key", help="The key of the weights, where a file has several.")
_mean = click.option("--mean", help="Of each channel, as 0.5,0.5,0.5.  [default: the weights' own]")
_std = click.option("--std", help="Of each channel.")
_crop = click.option(
    "--crop-pct", type=click.FloatRange(min=0, max=1, min_open=True), help="Share of the image's side that is seen."
)
_interpolation = click.option("--interpolation", type=click.Choice(["bicubic", "bilinear", "lanczos", "nearest"]))
image_size = click.option(
    "--image-size", default=None, help="Other than the model's own: 384, or 224x448 (height x width)."
)
class_order = click.option(
    "--class-order",
    help="Of the folders: natural (1, 2, 10), lexical (1, 10, 2), imagenet, or a file of names.  [default: auto]",
)
labels = click.option(
    "--labels", metavar="FILE", help="File with the label of each image: text, CSV, TSV or JSON; of tables, the column."
)
limit = click.option("--limit", type=click.IntRange(min=1), help="Use this many images, spread evenly.")
device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
amp = click.option("--amp", is_flag=True, help="Short for --precision bf16.")
margin = click.option(
    "--margin",
    type=click.FloatRange(min=0, max=100),
    default=MARGIN,
    show_default=True,
    help="Points of top-1 whose loss is called small.",
)
workers = click.option(
    "-j", "--workers", type=click.IntRange(0, 1024), default=0, show_default=True, help="Processes that load."
)
threads = click.option("--threads", type=click.IntRange(1, 4096), help="CPU threads.")
seed = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=42, show_default=True)
quiet = click.option("-q", "--quiet", is_flag=True, help="No progress; what needs attention is still told.")
verbose = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    callback=streams.verbosely,
    expose_value=False,
    help="Tracebacks of errors, and what libraries log.",
)


SCENES = ("images", "annotations", "strict")  # knobs of dense tasks, as flags
_images = click.option("--images", metavar="FOLDER", help="Images, where they do not lie in --data-dir.")
_annotations = click.option("--annotations", metavar="FILE", help="Annotations in COCO's format, likewise.")
_strict = click.option("--strict", is_flag=True, help="Take anything odd in annotations for an error.")


def rows_of(results: Sequence[Path]) -> tuple[Rows, list[Problem]]:
    """The rows of results files, of `DEFAULT_RESULTS` if none is given; raises `UsageError` where that is not here."""
    from tokenbench.runs.results import load

    if not results and not DEFAULT_RESULTS.exists():
        raise UsageError(f"There is no {DEFAULT_RESULTS} here; run `tokenbench run` first, or name a results file.")
    return load(results or (DEFAULT_RESULTS,))


def scenes(command: Any) -> Any:
    """Where the data of a dense task is, and how it is checked."""
    return _images(_annotations(_strict(command)))


VIEWS = ("frames", "stride", "views", "clips")  # knobs of tasks on clips, as flags
_frames = click.option("--frames", type=click.IntRange(min=1), help="Of a clip of a video.")
_stride = click.option("--stride", type=click.IntRange(min=1), help="Every how manyth frame of a video.")
_views = click.option("--views", metavar="TIMESxCROPS", help="Clips of a video, as 4x3.")
_clips = click.option("--clips", metavar="FILE", help="Index of videos with their classes.")


def stretch(command: Any) -> Any:
    """Which frames a clip has."""
    return _frames(_stride(command))


def viewing(command: Any) -> Any:
    """Which clips a video has, and where videos are listed."""
    return stretch(_views(_clips(command)))


def taking(command: Any) -> Any:
    """Which weights to take of a file that has several."""
    return _ema(_key(command))


def pixels(command: Any) -> Any:
    """How images are brought to a model, where other than its own way."""
    return _mean(_std(_crop(_interpolation(command))))


def task_of(flags: Mapping[str, Any], knobs: Sequence[str]) -> Task:
    """The task, with those of its knobs that have flags of their own."""
    from tokenbench import tasks
    from tokenbench.core.settings import make

    task = tasks.parse(flags["task"])
    given = {knob: flags[knob] for knob in knobs if flags[knob]}
    odd = next((knob for knob in given if knob not in type(task).model_fields), None)
    if odd is not None:
        raise UsageError(f"--{odd.replace('_', '-')} says nothing to {task.name}; see `tokenbench show {task.name}`.")
    if not given:
        return task
    of_data = [knob for knob in given if knob not in ("frames", "stride", "views")]
    if of_data and flags["data_dir"] is None and "annotations" not in given:
        flag = of_data[0].replace("_", "-")
        raise UsageError(f"--{flag} says something of the images in --data-dir; give that too.")
    return make(type(task), {**task.model_dump(include=task.model_fields_set), **given})


def take_of(flags: Mapping[str, Any]) -> Take:
    """What `taking` was given; raises `UsageError` for both at once."""
    from tokenbench.weights.choice import Take

    if flags["ema"] and flags["weights_key"] is not None:
        raise UsageError("--ema and --weights-key both say which weights to take; give one of them.")
    return Take(flags["ema"], flags["weights_key"])


def pixels_of(flags: Mapping[str, Any], task: Task | None = None) -> dict[str, Any]:
    """What `pixels` was given, under timm's names; raises `UsageError` for what means nothing, or nothing to a task."""
    given = {
        "mean": _channels("mean", flags["mean"], None),
        "std": _channels("std", flags["std"], 0.0),
        "crop_pct": flags["crop_pct"],
        "interpolation": flags["interpolation"],
    }
    found = {key: value for key, value in given.items() if value is not None}
    odd = next((key for key in found if task is not None and key not in task.looks), None)
    if task is not None and odd is not None:
        raise UsageError(
            f"--{odd.replace('_', '-')} says nothing to {task.name}, which brings images to size by its own."
        )
    return found


def _channels(flag: str, text: str | None, above: float | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in str(text).split(","))
    except ValueError:
        found = ()
    odd = any(not math.isfinite(v) or (above is not None and v <= above) for v in found)
    if len(found) not in (1, 3) or odd:
        raise UsageError(f"--{flag} {text} is not allowed; write one number, or one a channel as 0.485,0.456,0.406.")
    return found


def is_given(name: str) -> bool:
    """Whether the user said it, and it is no default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def repeated(flags: Mapping[str, Any]) -> list[str]:
    """What was given of `taking`, `pixels` and plug-ins, to be typed again for the same model."""
    names = [name for name in ("weights_key", "mean", "std", "crop_pct", "interpolation") if flags[name] is not None]
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(flags[name]))]
    plugins = click.get_current_context().meta.get(PLUGINS, ())
    return [*["--ema"] * flags["ema"], *words, *(word for path in plugins for word in ("--plugin", str(path)))]


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
    except Exception:  # each kind of device that is not here says so in its own way
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
    parts = [part.strip() for part in text.split(separator)]
    found = [int(part) for part in parts if part.isascii() and part.isdecimal() and len(part) < 10]
    if len(found) < len(parts) or min(found) < 1 or (separator == "x" and (len(found) > 2 or max(found) > LARGEST)):
        example = f"384, or 224x448, {LARGEST} at most" if separator == "x" else "32, or 1,32,128, or auto"
        raise UsageError(f"--{flag} {text} is not allowed; write {example}.")
    return list(dict.fromkeys(found)) if separator == "," else found
