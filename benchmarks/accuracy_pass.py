"""Does one pass over the data serve five methods at the price of five models and one decoding?

    python benchmarks/accuracy_pass.py --data-dir IMAGES --limit 96

Each round times, interleaved: decoding alone, each model alone on decoded batches, and the pass that does it all.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

import torch
from common import spread, table, text, write

from tokenbench import backbones, data
from tokenbench.measure.accuracy import predict
from tokenbench.methods.sweep import parse
from tokenbench.model import Model

METHODS = "dense,random,topk,tome,evit"
ALLOWED = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="vit_ti")
    parser.add_argument("--limit", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "accuracy_pass")
    args = parser.parse_args()

    backbone = backbones.create(args.backbone)
    models = {m.label: Model(backbone, m).eval() for m in parse(METHODS)}
    loader = data.loader(data.open_folder(args.data_dir), backbone.config, args.batch, limit=args.limit)
    batches = list(loader)
    predict(models, batches)  # warm-up

    parts: dict[str, list[float]] = {"decoding": [], **{name: [] for name in models}, "one pass": [], "ratio": []}
    for _ in range(args.rounds):
        begin = perf_counter()
        for _ in loader:
            pass
        parts["decoding"].append(perf_counter() - begin)
        for name, model in models.items():
            begin = perf_counter()
            predict({name: model}, batches)
            parts[name].append(perf_counter() - begin)
        begin = perf_counter()
        predict(models, loader)
        parts["one pass"].append(perf_counter() - begin)
        alone = parts["decoding"][-1] + sum(parts[name][-1] for name in models)
        parts["ratio"].append(parts["one pass"][-1] / alone)

    found = {name: spread(values) for name, values in parts.items()}
    lines = [[name, text(value)] for name, value in found.items() if name != "ratio"]
    body = (
        f"{args.backbone}, {loader.total} images of {loader.name}, batch {args.batch}, fp32, "
        f"{torch.get_num_threads()} threads, {args.rounds} rounds; seconds, medians with quartiles.\n\n"
        f"{table(['part', 'seconds'], lines)}\n\n"
        f"One pass over the sum of its parts: **{text(found['ratio'], '{:.3f}')}**, at most {ALLOWED} allowed."
    )
    settings = {k: str(v) for k, v in vars(args).items() if k not in ("data_dir", "output")}
    write(args.output, "One pass for five methods", body, {"seconds": found, "settings": settings})


if __name__ == "__main__":
    main()
