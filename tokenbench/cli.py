"""The command line. Each command parses, calls one function and prints; heavy imports stay inside."""

from __future__ import annotations

import errno
import os
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tokenbench.errors import TokenbenchError, UnknownName, UsageError

if TYPE_CHECKING:
    from tokenbench.candidates import Plan
    from tokenbench.training import Job

DEFAULT_METHODS = "all"
DEFAULT_RESULTS = Path("results.jsonl")


class Group(click.Group):
    """Commands in the order they are used; what goes wrong on purpose becomes one sentence and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In order of definition."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, but offering the nearest name."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownName("command", args[0], self.commands, "`tokenbench --help`")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command and leave with its exit code; 130 for Ctrl-C."""
        try:
            code = super().invoke(ctx) or 0
        except TokenbenchError as error:
            click.echo(f"Error: {error}", err=True)
            code = error.exit_code
        except click.UsageError as error:
            see = error.ctx.command_path if error.ctx else ctx.command_path
            click.echo(f"Error: {error.format_message()} See `{see} --help`.", err=True)
            code = error.exit_code
        except KeyboardInterrupt:
            click.echo("Interrupted; what was measured is kept, and the same command goes on from there.", err=True)
            code = 130
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of a pipe left, which click ends quietly
                raise
            where = f" for {error.filename}" if error.filename else ""
            click.echo(f"Error: {error.strerror or error}{where}; mend that and run the command again.", err=True)
            code = 1
        ctx.exit(code)


def _config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
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
        from tokenbench.methods import load_plugin

        for path in paths:
            load_plugin(path)


plugin = click.option(
    "--plugin",
    type=click.Path(path_type=Path),
    multiple=True,
    callback=_plugins,
    is_eager=True,
    expose_value=False,
    help="A Python file with a Method of your own; it is run.",
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tokenbench")
def main() -> None:
    """Token sparsification for vision transformers, measured honestly.

    Start with `tokenbench run`; then `tokenbench report`.
    """


@main.command()
@click.option("--methods", default=DEFAULT_METHODS, show_default=True, help='A sweep such as "tome[r=4,8,13],evit".')
@click.option("--backbone", default="deit_nano", show_default=True, help="Short or timm names, separated by commas.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="ImageFolder to measure accuracy on.")
@click.option("--weights", default="auto", show_default=True, help="auto, dense, random, or files and folders.")
@click.option("-b", "--batch-size", default=None, help="Sizes to time, as 1,32,128; or auto.  [default: 32; GPU 128]")
@click.option("-j", "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--amp", is_flag=True, help="Short for --precision bf16.")
@click.option("--compile", "compiled", is_flag=True, help="Time under torch.compile.")
@click.option("--image-size", default=None, help="Other than the model's own: 384, or 224x448 (height x width).")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many images, spread evenly.")
@click.option("--rounds", type=click.IntRange(min=3), default=10, show_default=True, help="Timed runs of each model.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=DEFAULT_RESULTS, show_default=True)
@click.option("--force", is_flag=True, help="Run what is done already, too.")
@click.option("--json", "as_json", is_flag=True, help="Print rows as JSON lines instead of a table.")
@click.option(
    "--config", type=click.Path(path_type=Path), callback=_config, is_eager=True, expose_value=False, help="TOML file."
)
@plugin
def run(**flags: Any) -> int:
    """Measure accuracy, GMACs, speed, memory and tokens.

    Finished work is skipped. Without --data-dir, accuracy is measured for deit_nano only, on the images that ship.
    """
    from tokenbench import runner, screen
    from tokenbench.results import Results, dumps

    plan = _plan(flags)
    with screen.Watching() as watch:
        rows = runner.run(plan, Results(flags["output"]), watch)
    if flags["as_json"]:
        for row in rows:
            click.echo(dumps(row))
    else:
        screen.print_results(rows)
        click.echo(
            f"\nRows in {flags['output']}: {len(rows)}; `tokenbench report {flags['output']}` makes files of them."
        )
    return int(any(row.status in ("failed", "oom") for row in rows))


@main.command()
@click.option("--method", required=True, help='One setting, such as "evit[keep_rate=0.7]".')
@click.option("--backbone", default="deit_nano", show_default=True, help="A short or timm name.")
@click.option("--data-dir", type=click.Path(path_type=Path), required=True, help="ImageFolder with train and val.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The run's folder.")
@click.option("--recipe", help="One of the method's recipes.  [default: its first]")
@click.option("--epochs", metavar="NUMBER", help="Other than the recipe's.")
@click.option("-b", "--batch-size", metavar="NUMBER", help="Images an update, over all processes.")
@click.option("--lr", metavar="NUMBER", help="Highest learning rate, at the recipe's lr_batch.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any other value of the recipe.")
@click.option(
    "--weights", default="auto", show_default=True, help="To start from: auto (the recipe's), random, a file."
)
@click.option("--teacher", default="auto", show_default=True, help="The teacher's weights: auto, or a file.")
@click.option("--image-size", default=None, help="Other than the model's own: 384, or 224x448 (height x width).")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--amp", is_flag=True, help="Short for --precision bf16.")
@click.option("--accumulate", type=click.IntRange(min=1), default=1, show_default=True, help="Passes an update.")
@click.option("--compile", "compiled", is_flag=True, help="Under torch.compile.")
@click.option("--grad-checkpointing", is_flag=True, help="Less memory, more time.")
@click.option("-j", "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Processes that load.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.")
@click.option("--save-every", type=click.IntRange(min=1), help="Updates.  [default: an epoch, at most 10 minutes]")
@click.option(
    "--eval-every", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="Epochs."
)
@click.option("--tracker", help="trackio or wandb.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    callback=_config,
    is_eager=True,
    expose_value=False,
    help="TOML file; values of the recipe in [recipe].",
)
@plugin
@click.pass_context
def train(ctx: click.Context, /, **flags: Any) -> None:
    """Train or fine-tune a method by its own recipe.

    Stopped at any moment, the same command goes on from the last checkpoint. Under `torchrun`, many processes train one
    model. `tokenbench show METHOD` lists its recipes.
    """
    from tokenbench import screen, training

    job = _job(flags, ctx.meta.get("recipe", {}))
    with screen.Watching() as watch:
        found = training.train(job, watch)
    if found.leads:
        click.echo(f"{found.path}: top-1 {found.top1:.2f} % on {found.images} {found.split} images.")


@main.command("list")
@click.option("--backbones", is_flag=True, help="Backbones instead of methods.")
@plugin
def list_(backbones: bool) -> None:
    """Methods, or backbones and their short names."""
    from tokenbench import screen

    screen.print_backbones() if backbones else screen.print_methods()


@main.command()
@click.argument("method")
@plugin
def show(method: str) -> None:
    """A method: its paper, its knobs, what it reported."""
    from tokenbench import screen

    screen.print_method(method)


@main.command()
@click.option("--device", default="auto", show_default=True)
def env(device: str) -> None:
    """The hardware and versions that rows are stamped with."""
    from tokenbench import environment, screen

    screen.print_environment(environment.describe(_device(device)))


@main.command()
@click.option("--methods", default=DEFAULT_METHODS, show_default=True, help='A sweep such as "tome[r=8,13],evit".')
@click.option("--backbone", default="deit_nano", show_default=True, help="A short or timm name.")
@click.option("--images", type=click.Path(path_type=Path), multiple=True, help="A file or folder; may be repeated.")
@click.option("--weights", default="auto", show_default=True, help="auto, dense, random, or files and folders.")
@click.option("--image-size", default=None, help="Other than the model's own: 384, or 224x448 (height x width).")
@click.option("--limit", type=click.IntRange(min=1), help="Use this many images, spread evenly.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, or auto.")
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option("--format", "kind", type=click.Choice(["png", "svg", "pdf"]), default="png", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports/maps"), show_default=True)
@plugin
def trace(**flags: Any) -> None:
    """Draw which patches each method keeps and merges, with numbers, and a page to play with (maps.html).

    Without --images: the photographs that ship, or for deit_nano some of Fashion-MNIST.
    """
    from tokenbench import screen, tracing
    from tokenbench.jobs import parse
    from tokenbench.reports import traces

    maps = tracing.trace_all(
        parse(flags["methods"]),
        flags["backbone"],
        flags["images"],
        weights=str(flags["weights"]),
        seed=flags["seed"],
        image_size=_size(flags["image_size"]),
        device=_device(flags["device"]),
        limit=flags["limit"],
        say=lambda text: click.echo(text, err=True),
    )
    for file in traces.write(maps, flags["output"], flags["kind"]):
        click.echo(file)
    screen.print_maps(maps)


@main.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("reports"), show_default=True)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    help="Token maps to show, as `tokenbench trace` writes them.  [default: OUTPUT/maps, where there are any]",
)
def report(results: tuple[Path, ...], output: Path, maps: Path | None) -> None:
    """A page, tables and figures of RESULTS (results.jsonl if none is given) in --output; the tables here, too."""
    from tokenbench import mapfiles, screen
    from tokenbench.reports import figures, html, tables, viewer
    from tokenbench.results import load

    if not results and not DEFAULT_RESULTS.exists():
        raise UsageError(f"There is no {DEFAULT_RESULTS} here; run `tokenbench run` first, or name a results file.")
    rows, problems = load(results or (DEFAULT_RESULTS,))
    for problem in problems:
        click.echo(f"Left out {problem}", err=True)
    if maps is None and any((output / "maps").glob("*.npz")):
        maps = output / "maps"
    shown = viewer.fragment(mapfiles.load(maps)) if maps else ""
    files = tables.write(rows, output)
    drawn = figures.write(rows, output)
    page = html.write(rows, output, shown)
    screen.print_results(rows)
    if drawn.left_out:
        click.echo(f"\nOf {output / 'figures'}, {drawn.left_out}; report fewer results files to have them.", err=True)
    click.echo(
        f"\nWritten: {', '.join(map(str, files))}, {len(drawn.files)} files in {output / 'figures'}, and the page"
    )
    click.echo(page)


@main.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new file.")
def merge(results: tuple[Path, ...], output: Path) -> None:
    """One results file of several, from several machines: the newest good row of each job."""
    from tokenbench.results import merge as merge_files

    rows, problems = merge_files(results, output)
    for problem in problems:
        click.echo(f"Left out {problem}", err=True)
    click.echo(f"Rows in {output}: {len(rows)}, of {len(results)} files.")


@main.command()
@click.argument("source", metavar="IN")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--method", help='What it is of, where the file does not tell: "evit[keep_rate=0.7]".')
@click.option("--backbone", help="A short or timm name, where the tensors do not tell.")
@click.option("--ema", is_flag=True, help="Take averaged weights where the file has both.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@plugin
def convert(source: str, out: Path, method: str | None, backbone: str | None, ema: bool, force: bool) -> None:
    """A published checkpoint as safetensors with its method and backbone in the header.

    IN is a file (.pth, .pt, .bin, .safetensors) or one on the hub: csncsn/STViT-R/STViT-R-Swin-S.pth.
    """
    from tokenbench import published

    found = published.convert(source, out, method, backbone, ema, force)
    height, width = found.image_size
    click.echo(f"Read {found.source} (sha256 {found.hash}): {found.method.label} on {found.backbone}, {found.layout}.")
    click.echo(f"{found.parameters:,} parameters, {found.classes} classes, images of {height}x{width}.")
    for sentence in found.assumed:
        click.echo(f"Assumed: {sentence}.")
    click.echo(f"Written: {out}")


def _plan(flags: dict[str, Any]) -> Plan:
    """The plan that the flags of `run` describe; raises `UsageError` for a value that means nothing."""
    import torch

    from tokenbench.candidates import Plan
    from tokenbench.jobs import parse

    if flags["amp"] and flags["precision"] == "fp16":
        raise UsageError("--amp means bf16 and --precision says fp16; give one of them.")
    device = _device(flags["device"])
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    batch = flags["batch_size"] or ("128" if device.startswith("cuda") else "32")
    return Plan(
        methods=parse(flags["methods"]),
        backbones=list(dict.fromkeys(name.strip() for name in flags["backbone"].split(",") if name.strip())),
        data_dir=flags["data_dir"],
        weights=str(flags["weights"]),
        device=device,
        precision="bf16" if flags["amp"] else flags["precision"],
        batches=[] if batch == "auto" else _numbers("batch-size", str(batch), ","),
        workers=flags["workers"],
        seed=flags["seed"],
        limit=flags["limit"],
        image_size=_size(flags["image_size"]),
        compile=flags["compiled"],
        rounds=flags["rounds"],
        force=flags["force"],
    )


def _job(flags: dict[str, Any], table: dict[str, Any]) -> Job:
    """The training job that the flags of `train` describe; a flag wins over `--set`, and that over a TOML table."""
    import torch

    from tokenbench.jobs import parse
    from tokenbench.training import Job

    settings = parse(flags["method"])
    if len(settings) != 1:
        raise UsageError(f"--method {flags['method']} gives {len(settings)} settings; train one at a time.")
    method = settings[0]
    recipes = type(method).recipes
    name = flags["recipe"] or next(iter(recipes))
    if name not in recipes:
        raise UnknownName(f"recipe of {method.name}", name, recipes, f"`tokenbench show {method.name}`")
    changes = dict(table)
    for text in flags["changes"]:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text} is not allowed; write it like --set weight_decay=0.05.")
        changes[key.strip()] = value.strip()
    named = {"epochs": flags["epochs"], "batch": flags["batch_size"], "lr": flags["lr"]}
    changes |= {key: value for key, value in named.items() if value is not None}
    if flags["threads"]:
        torch.set_num_threads(flags["threads"])
    return Job(
        method=method,
        backbone=flags["backbone"],
        recipe=recipes[name].change(changes),
        data_dir=flags["data_dir"],
        output=flags["output"],
        weights=str(flags["weights"]),
        teacher=str(flags["teacher"]),
        image_size=_size(flags["image_size"]),
        device=_device(flags["device"]),
        precision="bf16" if flags["amp"] else flags["precision"],
        passes=flags["accumulate"],
        compile=flags["compiled"],
        recompute=flags["grad_checkpointing"],
        workers=flags["workers"],
        seed=flags["seed"],
        save_every=flags["save_every"],
        evaluate_every=flags["eval_every"],
        tracker=flags["tracker"],
    )


def _device(name: str) -> str:
    """The device to use; raises `UsageError` for one that is not here."""
    import torch

    from tokenbench import environment

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


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    numbers = _numbers("image-size", str(text), "x")
    return (numbers[0], numbers[-1])


def _numbers(flag: str, text: str, separator: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(separator)]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1 or (separator == "x" and len(numbers) > 2):
        example = "384, or 224x448" if separator == "x" else "32, or 1,32,128, or auto"
        raise UsageError(f"--{flag} {text} is not allowed; write {example}.")
    return list(dict.fromkeys(numbers)) if separator == "," else numbers


if __name__ == "__main__":
    main()
