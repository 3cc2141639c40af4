"""Methods here beside the code that their authors published, with the same weights, interleaved in one process.

    git clone https://github.com/youweiliang/evit
    python benchmarks/against_published.py evit=evit tome=ToMe dynamicvit=DynamicViT stvit_r=STViT-R --batches 32,1

Nothing is fetched, and nothing of theirs is kept: give the folders of checkouts of youweiliang/evit,
raoyongming/DynamicViT, facebookresearch/ToMe and changsn/STViT-R. Their code is run as it is, in this torch and timm;
what they import and do not need for a forward pass may be missing. Ratios are of the published code's time over ours,
the median over rounds with its 95 % interval.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import timm
import torch
from common import table, write
from torch import nn

from tokenbench import backbones
from tokenbench.errors import first_line
from tokenbench.measure import speed
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.weights import published

DEIT_S = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
SWIN_S = {"depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24]}
HEAD = [
    "method",
    "batch",
    "form",
    "ours, img/s",
    "published, img/s",
    "ours over published",
    "rounds",
    "outputs differ by",
]


@dataclass(frozen=True)
class Theirs:
    """A published model: the setting it is of, its backbone, and how it is made of its module."""

    setting: str
    backbone: str
    module: str
    make: Callable[[Any], nn.Module]


def _patched(tome: Any) -> nn.Module:
    model = timm.create_model("deit_small_patch16_224")
    tome.timm(model)
    model.r = 13
    return model


PUBLISHED = {
    "evit": Theirs(
        "evit[keep_rate=0.7]",
        "deit_s",
        "evit",
        lambda it: it.EViT(**DEIT_S, keep_rate=[0.7 if i in (3, 6, 9) else 1 for i in range(12)], fuse_token=True),
    ),
    "tome": Theirs("tome[r=13]", "deit_s", "tome.patch", _patched),
    "dynamicvit": Theirs(
        "dynamicvit[keep_rate=0.7]",
        "deit_s",
        "models.dyvit",
        lambda it: it.VisionTransformerDiffPruning(
            **DEIT_S, pruning_loc=[3, 6, 9], token_ratio=[0.7**stage for stage in (1, 2, 3)]
        ),
    ),
    "stvit_r": Theirs(
        "stvit_r", "swin_s", "models.swin_transformer", lambda it: it.SwinTransformer(**SWIN_S, use_global=False)
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="+", metavar="METHOD=FOLDER", help=f"of {', '.join(PUBLISHED)}")
    parser.add_argument("--batches", default="32,1")
    parser.add_argument("--forms", default="eager", help="eager, compile or bf16, separated by commas")
    parser.add_argument("--seconds", type=float, default=60, help="after which no rounds are added to a cell")
    parser.add_argument("--rounds", type=int, default=12, help="least number in a cell")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=None, help="without suffix")
    args = parser.parse_args()
    output = args.output or Path(__file__).parent / f"against_published_{args.device}"
    found: list[dict[str, Any]] = []
    for text in args.checkouts:
        name, _, folder = text.partition("=")
        if name not in PUBLISHED or not Path(folder).is_dir():
            parser.error(
                f"{text} is no METHOD=FOLDER with a folder that is here, and a method of {', '.join(PUBLISHED)}"
            )
        pair = both(PUBLISHED[name], Path(folder).resolve(), args.device)
        for form in args.forms.split(","):
            for batch in map(int, args.batches.split(",")):
                found.append(measured(PUBLISHED[name], pair, form, batch, args))
                _write(output, found, args.device)


def both(theirs: Theirs, checkout: Path, device: str) -> dict[str, nn.Module]:
    """Our model and theirs, with their random weights."""
    (method,) = parse(theirs.setting)
    torch.manual_seed(0)
    with importing(checkout):
        original = theirs.make(importlib.import_module(theirs.module)).eval()
    for parameter in original.parameters():  # of fresh ones many are 0 or 1, and hide what differs
        parameter.data.normal_(std=0.02)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "published.pth"
        torch.save({"model": original.state_dict()}, path)
        tensors = published.read(path, method, theirs.backbone).tensors
    ours = Model(backbones.create(theirs.backbone), method)
    ours.load_state_dict(dict(tensors))
    return {"published": original.to(device), "ours": ours.to(device).eval()}


@contextmanager
def importing(checkout: Path) -> Iterator[None]:
    """Modules of a checkout can be imported inside, and are forgotten after; packages that are missing are empty."""
    before = set(sys.modules)
    sys.path.insert(0, str(checkout))
    finder = _Missing(checkout)
    sys.meta_path.append(finder)
    try:
        with warnings.catch_warnings(action="ignore"), patch("timm.models.registry.register_model", lambda made: made):
            yield  # of timm's old names it warns, and models of the same names would take the place of its own
    finally:
        sys.meta_path.remove(finder)
        sys.path.remove(str(checkout))
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], MagicMock) or _within(sys.modules[name], checkout):
                del sys.modules[name]


class _Missing:
    """Finds, last of all, what the checkout asks for and is not installed: a module with anything in it."""

    def __init__(self, checkout: Path) -> None:
        self.checkout, self.here = str(checkout), {path.stem for path in checkout.iterdir()}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename and frame.f_back:
            frame = frame.f_back
        # an installed library that asks whether another is there is told the truth
        if name.partition(".")[0] in self.here or not frame.f_code.co_filename.startswith(self.checkout):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> Any:
        return MagicMock(name=spec.name, __path__=[])

    def exec_module(self, module: Any) -> None:
        pass


def _within(module: Any, folder: Path) -> bool:
    with suppress(TypeError, ValueError):
        return folder in Path(getattr(module, "__file__", None) or "").resolve().parents
    return False


def measured(theirs: Theirs, pair: dict[str, nn.Module], form: str, batch: int, args: Any) -> dict[str, Any]:
    """A line of the table; one that cannot be measured says why."""
    first = next(pair["ours"].parameters())
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(1)).to(first.device)
    line: dict[str, Any] = {"setting": theirs.setting, "backbone": theirs.backbone, "batch": batch, "form": form}
    with torch.inference_mode():
        one, other = (pair[name](images) for name in ("ours", "published"))
    line["apart"] = float((one - other).abs().max() / other.abs().max())
    options = {"min_rounds": args.rounds, "max_rounds": 200, "max_seconds": args.seconds, "warmup": 2}
    precision = "bf16" if form == "bf16" else "fp32"
    try:
        timed = speed.measure(
            pair, images, reference="published", precision=precision, compile=form == "compile", **options
        )
    except Exception as error:  # in their code or the compiler
        return line | {"failed": first_line(error)}
    return line | {name: vars(one) for name, one in timed.items()}


def _write(output: Path, found: list[dict[str, Any]], device: str) -> None:
    lines = []
    for one in found:
        start = [f"{one['setting']}, {one['backbone']}", str(one["batch"]), one["form"]]
        if "failed" in one:
            lines.append([*start, "", "", one["failed"], "", ""])
            continue
        ours, theirs = one["ours"], one["published"]
        ratio = f"{ours['speedup']:.2f} [{ours['speedup_low']:.2f}, {ours['speedup_high']:.2f}]"
        rates = [f"{it['images_per_s']:.1f}" for it in (ours, theirs)]
        lines.append([*start, *rates, ratio, str(ours["runs"]), f"{one['apart']:.1g}"])
    threads = f"{torch.get_num_threads()} threads, " if device == "cpu" else ""
    held = json.dumps(found[-1].get("ours", {}).get("machine"))
    body = (
        f"{__doc__.splitlines()[0]} {threads}random weights, the same in both; how far outputs differ is "
        f"relative to the largest, in float32. In the last cell the machine also did: {held}.\n\n{table(HEAD, lines)}"
    )
    write(output, "Beside the published code", body, {"cells": found}, device)


if __name__ == "__main__":
    main()
