"""Train the dense weights of deit_nano that tokenbench ships, on the whole Fashion-MNIST training set.

Most steps see a random quarter of the patches (patch dropout, as in masked autoencoders and FLIP), later ones half and
the last ones all: 196 tokens are what costs on a CPU. Muon (timm.optim) with a warm-up and a cosine.

    python scripts/train_deit_nano.py --data DIR_WITH_IDX_FILES --output tokenbench/sample/deit_nano.safetensors

DIR holds the four idx files of Fashion-MNIST (Debian: dataset-fashion-mnist). It goes on from OUTPUT's .partial file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.layers import PatchDropout
from timm.models import create_model
from timm.optim import create_optimizer_v2
from torch import nn

import tokenbench.backbones  # noqa: F401  registers deit_nano with timm
from tokenbench.checkpoints import HEADER

FILES = {"train": "train", "test": "t10k"}
SAVE_EVERY = 500  # steps


def read(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 28, 28) uint8 and labels (N,) of a split."""
    pixels = gzip.decompress((folder / f"{FILES[split]}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{FILES[split]}-labels-idx1-ubyte.gz").read_bytes())
    x = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(x.copy()), torch.from_numpy(np.frombuffer(labels, np.uint8, offset=8).astype(np.int64))


def normalise(x: torch.Tensor, cfg: dict) -> torch.Tensor:
    return (x.float() / 255 - cfg["mean"][0]) / cfg["std"][0]


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images and shift each by up to 2 pixels."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    x[flip] = x[flip].flip(-1)
    dy, dx = torch.randint(-2, 3, (2,), generator=generator).tolist()
    return F.pad(x, (2, 2, 2, 2), value=float(x.min()))[..., 2 + dy : 30 + dy, 2 + dx : 30 + dx]


@torch.inference_mode()
def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor, cfg: dict) -> float:
    model.eval()
    right = sum(
        (model(normalise(a, cfg)).argmax(1) == b).sum().item() for a, b in zip(x.split(64), y.split(64), strict=True)
    )
    model.train()
    return 100.0 * right / len(y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--epochs", type=float, nargs=3, default=(7, 1.5, 0.75), help="at 1/4, 1/2 and all of the patches"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.015)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=42)
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    x, y = read(args.data, "train")
    x_test, y_test = read(args.data, "test")
    model = create_model("deit_nano")
    cfg = model.pretrained_cfg
    optimizer = create_optimizer_v2(model, opt="muon", lr=args.lr, weight_decay=args.weight_decay)
    base = [group["lr"] for group in optimizer.param_groups]
    per_epoch = len(x) // args.batch
    ends = np.cumsum([round(e * per_epoch) for e in args.epochs]).tolist()
    total, warmup = ends[-1], 200
    dropouts = [PatchDropout(0.75), PatchDropout(0.5), nn.Identity()]

    partial = args.output.with_suffix(".partial.pt")
    log = args.output.with_suffix(".log.jsonl")
    start = 0
    if partial.exists():
        state = torch.load(partial, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    begin, losses = time.time(), []
    for step in range(start, total):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        torch.manual_seed(args.seed * 1_000_003 + step)
        model.patch_drop = dropouts[sum(step >= end for end in ends[:-1])]
        scale = min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))
        for group, lr in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = lr * scale
        index = torch.randint(0, len(x), (args.batch,), generator=generator)
        loss = F.cross_entropy(model(augment(normalise(x[index], cfg), generator)), y[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            row = {"step": step + 1, "of": total, "loss": round(float(np.mean(losses)), 4), "lr": args.lr * scale}
            row["seconds"] = round(time.time() - begin, 1)
            if (step + 1) % SAVE_EVERY == 0 and step + 1 < total:
                drop, model.patch_drop = model.patch_drop, nn.Identity()
                row["test_top1_first_1000"] = accuracy(model, x_test[:1000], y_test[:1000], cfg)
                model.patch_drop = drop
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
                torch.save(state, partial.with_suffix(".tmp"))
                os.replace(partial.with_suffix(".tmp"), partial)
            with log.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)
            losses.clear()

    weights = {k: v.half().contiguous() for k, v in model.state_dict().items()}  # stored as float16
    settings = {
        "backbone": "deit_nano",
        "method": "dense",
        "dataset": "Fashion-MNIST train, 60000 images",
        "recipe": {k: v for k, v in vars(args).items() if k not in ("data", "output")},
    }
    save_file(weights, args.output, metadata={"format": "pt", HEADER: json.dumps(settings, sort_keys=True)})
    model.patch_drop = nn.Identity()
    model.load_state_dict({k: v.float() for k, v in load_file(args.output).items()})
    print({"test_top1_all_10000": accuracy(model, x_test, y_test, cfg)}, flush=True)
    partial.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
