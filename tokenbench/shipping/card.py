"""The model card of a model: what it is, how it is loaded, and what was measured of it."""

from __future__ import annotations

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from tokenbench import __version__
from tokenbench.backbones import is_same
from tokenbench.errors import UsageError
from tokenbench.methods.paper import KINDS
from tokenbench.model import Model

TEXT = """---
{data}
---

# {label} on {backbone}

{what}{paper}, on timm's `{backbone}`, by tokenbench {version}.

```python
import tokenbench

model = tokenbench.Pretrained.from_pretrained("{name}")
logits = model(images)  # (B, {channels}, {height}, {width}) to (B, {classes})
```

`config.json` says how images are brought to it.

## Measured

{measured}
"""
NOTHING = "Nothing was measured of these weights."


def make(model: Model, row: Any = None, name: str = "OWNER/NAME") -> ModelCard:
    """The card of a model, with a `tokenbench.runs.row.Row`, if there is one; `UsageError` where that is of another."""
    backbone, method = model.backbone, model.method
    if row is not None and (row.label != method.label or not is_same(row.backbone, backbone.name)):
        raise UsageError(
            f"The row is of {row.label} on {row.backbone}, and the model is {method.label} on {backbone.name}; give a "
            "row of this model."
        )
    channels, height, width = backbone.input_size
    paper = type(method).paper
    kind = KINDS[type(method).kind] if type(method).kind else "no token is reduced"
    data = ModelCardData(
        library_name="tokenbench",
        pipeline_tag="image-classification",
        tags=["token-reduction", "vision-transformer", method.name],
        model_name=f"{method.label} on {backbone.name}" if row is not None and row.images else None,
        eval_results=_results(row) if row is not None and row.images else None,
    )
    text = TEXT.format(
        data=data.to_yaml(),
        label=method.label,
        backbone=backbone.name,
        what=f"{kind[0].upper()}{kind[1:]}",
        paper=f" ([{paper.title}](https://arxiv.org/abs/{paper.arxiv}))" if paper else "",
        version=__version__,
        name=name,
        channels=channels,
        height=height,
        width=width,
        classes=backbone.vit.num_classes,
        measured=NOTHING if row is None else _table(row),
    )
    return ModelCard(text)


def _results(row: Any) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=str(row.dataset),
            dataset_name=f"{row.dataset} ({row.split}, {row.images} images)",
            metric_type="accuracy",
            metric_value=row.top1,
        )
    ]


def _table(row: Any) -> str:
    """What is there of a row, a line each, and under which conditions."""

    def between(low: float | None, high: float | None, digits: int) -> str:
        return "" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]"

    lines = []
    if row.images:
        low, high = row.metrics.get("top1_low"), row.metrics.get("top1_high")
        data = f"{row.images} images of {row.dataset} ({row.split})"
        lines.append(("top-1", f"{row.top1:.2f} %{between(low, high, 2)}, {data}"))
    if row.gmacs is not None:
        lines.append(("GMACs", f"{row.gmacs:.3g} an image"))
    if row.params_m is not None:
        lines.append(("parameters", f"{row.params_m:.2f} million"))
    if row.images_per_s is not None:
        lines.append(("images/s", f"{row.images_per_s:.1f} at batch {row.batch}"))
    if row.speedup is not None:
        lines.append(("of dense", f"{row.speedup:.2f} times as fast{between(row.speedup_low, row.speedup_high, 2)}"))
    where = f"{row.hardware}, {row.precision}, {row.mode}, tokenbench {row.version}, torch {row.env.get('torch')}"
    shown = "\n".join(f"| {name} | {value} |" for name, value in lines)
    return f"| | |\n|---|---|\n{shown}\n\nOn {where}; intervals are of 95 %."
