"""Copy a golden case into tests/golden, as small as it can be without touching a number.

    python scripts/golden_case.py ../shared/golden/topk/vit64_112p8 --images 1 --drop "*.cls_attn"

Left out are runs not asked for, images after the first ones where all outputs are per image, and tensors that no test
reads; `cut` in the copy's case.json says what. Weights that another case of tests/golden has are not copied again:
`weights_of` names that case.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
BY_RUN = ("decision_margins_min_over_batch_and_layers", "decision_margins", "float_noise")


def first(tensor: Tensor, batch: int, images: int) -> Tensor:
    """The first images along the axis of the batch: the first of its length among the leading two, if any."""
    for axis in (0, 1):
        if tensor.ndim > axis and tensor.shape[axis] == batch:
            return tensor.narrow(axis, 0, images).clone()
    return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the whole case, as <method>/<case>")
    parser.add_argument("--runs", default="*", help="those to keep, as patterns with commas; all by default")
    parser.add_argument("--images", type=int, help="images to keep, where no run's numbers are of the whole batch")
    parser.add_argument("--drop", action="append", default=[], help="tensors to leave out, as a pattern")
    args = parser.parse_args()

    info: dict[str, Any] = json.loads((args.folder / "case.json").read_text())
    every = [run["name"] for run in info["runs"]]
    wanted = args.runs.split(",")
    if unknown := [pattern for pattern in wanted if not fnmatch.filter(every, pattern)]:
        parser.error(f"no run is called {', '.join(unknown)}; there are {', '.join(every)}")
    runs = [run for run in every if any(fnmatch.fnmatch(run, pattern) for pattern in wanted)]
    io = load_file(args.folder / "io.safetensors")
    kept = {
        name: tensor
        for name, tensor in io.items()
        if ((parts := name.split("/"))[1] in runs or parts[1] not in every)
        and not any(fnmatch.fnmatch(name, pattern) for pattern in args.drop)
    }
    if args.images:
        if any(fnmatch.fnmatch(name, pattern) for name in kept for pattern in ("*/loss", "*/grad*", "*.grad*")):
            parser.error("a loss or a gradient is of the whole batch: leave its run out, or --images")
        batches = {run: kept[f"in/{run}/x"].shape[0] for run in runs if f"in/{run}/x" in kept}
        whole = kept["in/input"].shape[0] if "in/input" in kept else 0
        kept = {k: first(v, batches.get(k.split("/")[1], whole), args.images) for k, v in kept.items()}

    weights = load_file(path) if (path := args.folder / "weights.safetensors").exists() else {}
    if any(name.split("/")[0] in every for name in weights):
        weights = {k: v for k, v in weights.items() if k.split("/")[0] in runs}
    target = GOLDEN / args.folder.parent.name / args.folder.name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_file(kept, target / "io.safetensors")
    if weights:
        if (same := holder(weights)) is None:
            save_file(weights, target / "weights.safetensors")
        else:
            info["weights_of"] = same

    info["runs"] = [run for run in info["runs"] if run["name"] in runs]
    for key in BY_RUN:
        if isinstance(info.get(key), dict):
            info[key] = {k: v for k, v in info[key].items() if k.split("/")[0] in runs}
    if "tensors" in info:
        info["tensors"] = {k: {**v, "shape": list(kept[k].shape)} for k, v in info["tensors"].items() if k in kept}
    info["cut"] = {"runs": [r for r in every if r not in runs], "images": args.images, "tensors": args.drop}
    (target / "case.json").write_text(json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    print(f"{target.relative_to(GOLDEN.parents[1])}: {sum(f.stat().st_size for f in target.iterdir()):,} bytes")


def holder(weights: dict[str, Tensor]) -> str | None:
    """The case of tests/golden that has just these weights."""
    for path in sorted(GOLDEN.glob("*/*/weights.safetensors")):
        there = load_file(path)
        if there.keys() == weights.keys() and all(torch.equal(there[k], v) for k, v in weights.items()):
            return path.parent.relative_to(GOLDEN).as_posix()
    return None


if __name__ == "__main__":
    main()
