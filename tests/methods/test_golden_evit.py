"""EViT against the published implementation: whole models, training forward with gradients, the schedule."""

import pytest
import torch
import torch.nn.functional as F
from golden import GRADIENTS, Case, close, close_logits, close_trace, same_kept

from tokenbench.core.tokens import Tokens
from tokenbench.methods.dense import Dense
from tokenbench.methods.evit import EViT
from tokenbench.model import Model

BIG, RECT = "evit/vit64_224", "evit/vit64_rect160x224"


def settings(run: dict) -> EViT:
    fixed = run.get("tokens")
    return EViT(
        keep_rate=run.get("forward_keep_rate") or run["keep_rate"] or 1.0,
        fuse=run["fuse_token"],
        tokens=tuple(t for t in fixed if t is not None) if fixed else None,
    )


@pytest.mark.parametrize(
    ("name", "run"),
    [(BIG, r) for r in ("k0.7_fuse", "k0.7_drop", "k0.5_fuse", "k0.9_drop", "k0.9_fuse", "k0.7_fuse_fwd0.85")]
    + [(BIG, r) for r in ("tokens_fuse", "res160_k0.7_fuse")]
    + [(RECT, r) for r in ("k0.7_fuse", "k0.5_drop")],
)
def test_model(name: str, run: str) -> None:
    case = Case(name, run)
    backbone, images = case.backbone(), case.io["in/input"]
    if run.startswith("res160"):
        images = case.io["in/input_160"]
        _resize_as_published(backbone.vit, 10)
    with torch.inference_mode():
        out = Model(backbone, settings(case.runs[run])).eval().run(images, trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    if f"out/{run}/final_tokens" in case.io:
        close(out.features, case.out(run, "final_tokens"))
    same_kept(out.trace, case, run)


def _resize_as_published(vit: torch.nn.Module, side: int) -> None:
    """The published forward resamples positions without antialiasing; timm uses it."""
    pos = vit.pos_embed.data
    old = int((pos.shape[1] - 1) ** 0.5)
    grid = pos[:, 1:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    vit.set_input_size(img_size=(side * 16, side * 16))
    vit.pos_embed.data = torch.cat([pos[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


@pytest.mark.parametrize("run", ["train_k0.7_fuse_fwd0.8", "train_k0.5_drop"])
def test_training_forward(run: str) -> None:
    case = Case(BIG, run)
    method = settings(case.runs[run])
    model = Model(case.backbone(), method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    losses = method.losses(out, case.io["in/labels"])
    loss = sum(losses.values())
    assert loss.item() == pytest.approx(case.out(run, "loss").item(), rel=1e-5)
    loss.backward()
    names = [k.removeprefix(f"out/{run}/grad.") for k in case.io if k.startswith(f"out/{run}/grad.")]
    assert names
    params = dict(model.vit.named_parameters())
    for name in names:
        close(params[name].grad, case.out(run, f"grad.{name}"), GRADIENTS)


def test_schedule() -> None:
    for table in Case("evit/helpers").info["keep_rate_schedules"]:
        method = EViT(
            keep_rate=table["base_keep_rate"],
            shrink_start=table["shrink_start_epoch"],
            shrink_epochs=table["shrink_epochs"],
        )
        for _, iteration, rate in table["rows"]:
            assert method.at(iteration / table["iters_per_epoch"]).keep_rate == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("run", ["complement_3x20_of49", "complement_2x1_of5", "complement_4x138_of196"])
def test_what_is_dropped(run: str) -> None:
    """The fused token holds exactly the complement of the kept indices."""
    case = Case("evit/helpers", run)
    index, total = case.io[f"in/{run}/idx"], case.runs[run]["dim"]
    tokens = Tokens(torch.randn(index.shape[0], total, 4), 0, (1, total)).traced()
    fused = tokens.keep(index, fuse=torch.ones(index.shape[0], total)).source[:, -1]
    complement = torch.stack([row.nonzero()[:, 0] for row in fused])
    assert torch.equal(complement, case.out(run, "complement"))


@pytest.mark.parametrize("name", [BIG, RECT])
def test_plain(name: str) -> None:
    case = Case(name, "plain")
    with torch.inference_mode():
        out = Model(case.backbone(), Dense()).eval().run(case.io["in/input"])
    close_logits(out.logits, case.out("plain", "logits"))
