"""Rows to report on, all alike unless told otherwise."""

from __future__ import annotations

from typing import Any

from tokenbench.runs.row import FIRST_METRICS, Row

ENV = {"torch": "2.9", "timm": "1.0"}


def row(method: str = "dense", label: str | None = None, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "method": method,
        "setting": {},
        "label": label or method,
        "backbone": "vit_x",
        "weights": {"kind": "file", "name": "w.safetensors", "hash": "aa"},
        "dataset": "photos",
        "split": "val",
        "sample_hash": "bb",
        "image_size": (224, 224),
        "device": "cpu",
        "hardware": "Some CPU, 2 cores",
        "precision": "fp32",
        "batch": 8,
        "compile": False,
        "seed": 42,
        "version": "0.1.0",
        "env": ENV,
        "status": "ok",
        "top1": 70.0,
        "images": 100,
        "gmacs": 2.0 if method == "dense" else 1.0,
        "images_per_s": 50.0,
        "speedup": 1.0,
    }
    values |= changes
    if "metrics" in changes:
        values = {name: value for name, value in values.items() if name not in FIRST_METRICS}
    return Row.model_validate(values)
