"""The formats that a model is exported to: how each is written, and how it is opened to be run.

ONNX and PT2 are made of the graph that `torch.export` captures with a batch of any size; TorchScript is traced, since
the number of images would be constant in a trace of that graph. What else a trace takes for constant is found out when
the file is compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokenbench.core.extras import needed
from tokenbench.errors import Unsupported, first_line, first_sentence
from tokenbench.shipping import runtimes, translations
from tokenbench.shipping.header import KEY, Format, Header, read

LARGE = 1_900_000_000  # bytes of weights beyond which ONNX keeps them in a file of their own, for one holds 2 GiB
Run = Callable[[Tensor], Tensor]  # images (B, channels, H, W) to logits (B, classes)


def capture(model: nn.Module, images: Tensor) -> Any:
    """The graph of a model on a batch of any size, as a `torch.export.ExportedProgram`.

    Raises:
        Unsupported: its graph cannot be captured; the message says why.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    except Exception as error:  # of whatever part of torch meets what it does not know
        raise Unsupported(f"its graph cannot be captured ({first_line(error)})") from error


@dataclass(frozen=True)
class Kind:
    """A format: what it is written and opened by, and the extra whose libraries it needs."""

    suffix: str
    write: Callable[[nn.Module, Tensor, Header, Path], None]
    open: Callable[[Path], tuple[Run, Header]]
    extra: str | None = None
    packages: tuple[str, ...] = ()


def _write_onnx(model: nn.Module, images: Tensor, header: Header, path: Path) -> None:
    program = capture(model, images)
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    made = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        input_names=[header.input],
        output_names=[header.output],
        custom_translation_table=dict(translations.table()),
    )
    if made is None:
        raise Unsupported("torch made no ONNX of it")
    scattered = [node.attributes for node in made.model.graph.all_nodes() if node.op_type == "ScatterND"]
    if any("reduction" in given and given["reduction"].value != "none" for given in scattered):
        raise Unsupported(
            "it adds rows by index_add or index_put, of which ONNX Runtime's threads lose some where many go to one "
            "place; write scatter_add"
        )
    made.model.metadata_props[KEY] = header.model_dump_json()
    made.save(path, external_data=size > LARGE)


def _write_pt2(model: nn.Module, images: Tensor, header: Header, path: Path) -> None:
    torch.export.save(capture(model, images), path, extra_files={KEY: header.model_dump_json()})


def _open_pt2(path: Path) -> tuple[Run, Header]:
    extra = {KEY: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return module, read(extra[KEY], path)


def _write_torchscript(model: nn.Module, images: Tensor, header: Header, path: Path) -> None:
    traced = torch.jit.trace(model, (images,), check_trace=False)
    torch.jit.save(traced, str(path), _extra_files={KEY: header.model_dump_json()})


def _open_torchscript(path: Path) -> tuple[Run, Header]:
    extra = {KEY: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that torch would rather have pt2
        module = torch.jit.load(str(path), _extra_files=extra)
    return module, read(extra[KEY], path)


def _open_onnx(path: Path) -> tuple[Run, Header]:
    runtime = runtimes.OnnxRuntime(path)
    return runtime, runtime.header


KINDS: Mapping[Format, Kind] = {
    "onnx": Kind(".onnx", _write_onnx, _open_onnx, "onnx", ("onnx", "onnxscript", "onnxruntime")),
    "pt2": Kind(".pt2", _write_pt2, _open_pt2),
    "torchscript": Kind(".pt", _write_torchscript, _open_torchscript),
}


def write(format: Format, model: nn.Module, images: Tensor, header: Header, path: Path) -> None:
    """Write a model, with its header in the file.

    Args:
        format: one of `KINDS`.
        model: in eval mode.
        images: those its graph is captured on.
        header: what to say of it.
        path: where to.

    Raises:
        Unsupported: this format cannot have the graph; the message says why.
    """
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporters' own making
            KINDS[format].write(model, images, header, path)
    except (OSError, Unsupported):
        raise
    except Exception as error:  # as in `capture`
        raise Unsupported(f"{format} cannot have its graph ({first_sentence(_root(error))})") from error


def _root(error: BaseException) -> BaseException:
    """What an exporter says at last, beneath its own advice."""
    return error if error.__cause__ is None else _root(error.__cause__)


def open_file(format: Format, path: Path) -> tuple[Run, Header]:
    """A written file, ready to be run on the CPU, and its header; raises `WeightsError` for none of ours."""
    return KINDS[format].open(path)


def check_installed(format: Format) -> None:
    """Raise `UsageError` that names the extra where what a format needs is not installed."""
    kind = KINDS[format]
    for package in kind.packages:
        needed(package, str(kind.extra), f"Exporting {format}")
