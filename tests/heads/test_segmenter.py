"""UPerNet against segmentation-models-pytorch's decoder, losses, and ways to test."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tokenbench.heads.segmenter import IGNORED, Design, Segmenter, UPerNet, merged, slid

WIDTHS = [8, 16, 32, 64]


class Body(nn.Module):
    """Four maps of noise that depends on the image."""

    out_channels = WIDTHS

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        pooled = {i: nn.functional.avg_pool2d(images, 4 << i).mean(1, keepdim=True) for i in range(4)}
        return {
            str(i): x * torch.linspace(-1, 1, w).view(1, -1, 1, 1)
            for (i, x), w in zip(pooled.items(), WIDTHS, strict=True)
        }


def maps(size: int = 64) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, width, size >> (2 + i), (size + 32) >> (2 + i)) for i, width in enumerate(WIDTHS)]


@torch.inference_mode()
def test_upernet_equals_smps_without_its_norms() -> None:
    """The same layers in the same order, so the same weights give the same features."""
    smp = pytest.importorskip("segmentation_models_pytorch.decoders.upernet.decoder")
    theirs = smp.UPerNetDecoder([3, 0, *WIDTHS], 5, 24).eval()
    for name, module in list(theirs.named_modules()):
        if isinstance(module, nn.LayerNorm) or type(module).__name__ == "LayerNorm2d":
            parent, _, last = name.rpartition(".")
            setattr(theirs.get_submodule(parent), last, nn.Identity())
    ours = UPerNet(WIDTHS, 24).eval()
    names = {"pooled.0": "psp.out_conv.0", "fused.0": "fusion_block.0"}
    names |= {f"pools.{i}.1.0": f"psp.blocks.{i}.1.0" for i in range(4)}
    names |= {f"laterals.{i}.0": f"fpn_lateral_blocks.{2 - i}.conv_norm_relu.0" for i in range(3)}  # coarse ones first
    names |= {f"outs.{i}.0": f"fpn_conv_blocks.{2 - i}.0" for i in range(3)}
    given = theirs.state_dict()
    with torch.no_grad():
        for own, name in names.items():
            ours.get_submodule(own).weight.copy_(given.pop(f"{name}.weight"))
    assert not [name for name, value in given.items() if value.dim() == 4], "no convolution of theirs is left"
    levels = maps()
    torch.testing.assert_close(ours(levels), theirs([None, None, *levels]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["upernet", "light"])
def test_losses_and_logits(head: Any) -> None:
    torch.manual_seed(0)
    model = Segmenter(Body(), 3, Design(head=head, width=16)).train()
    labels = torch.randint(3, (2, 70, 50))
    labels[:, :9] = IGNORED
    losses = model(torch.randn(2, 3, 70, 50), labels)
    assert list(losses) == ["pixels", "auxiliary"]
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    nothing = model(torch.randn(2, 3, 70, 50), torch.full((2, 70, 50), IGNORED))
    assert nothing["pixels"] == 0 and nothing["auxiliary"] == 0
    with torch.inference_mode():
        assert model.eval()(torch.randn(1, 3, 1, 1)).shape == (1, 3, 1, 1)
        assert model(torch.randn(2, 3, 70, 50)).shape == (2, 3, 70, 50)


def test_windows_mirror_and_sizes() -> None:
    """What depends on each pixel alone is the same however it is tested."""
    images = torch.randn(1, 3, 40, 56)

    def pixelwise(x: Tensor) -> Tensor:
        return torch.stack([x[:, 0], -x[:, 0]], dim=1)

    torch.testing.assert_close(slid(pixelwise, images, 24, 16), pixelwise(images))
    torch.testing.assert_close(slid(pixelwise, images, 500, 16), pixelwise(images))
    whole = pixelwise(images).softmax(dim=1)
    torch.testing.assert_close(merged(pixelwise, images, (1.0,), True, 24), whole)
    smooth = torch.full((1, 3, 40, 56), 0.3)
    torch.testing.assert_close(merged(pixelwise, smooth, (0.5, 1.0, 1.75), True, 0), pixelwise(smooth).softmax(dim=1))


@pytest.mark.parametrize("norm", ["train", "sync", "frozen"])
def test_batch_norm_over_processes(norm: Any) -> None:
    """Heads always, the body where the design says so; weights keep their names, and the optimizer its parameters."""
    body: Any = Body()
    body.stem = nn.Sequential(nn.BatchNorm2d(3))
    model = Segmenter(body, 3, Design(width=16, norm=norm)).train()
    names, before = list(model.state_dict()), [id(p) for p in model.parameters()]
    model.synchronise()
    assert list(model.state_dict()) == names and [id(p) for p in model.parameters()] == before
    assert isinstance(body.stem[0], nn.SyncBatchNorm) is (norm == "sync")
    heads = [m for n, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and "body" not in n]
    assert heads and all(isinstance(module, nn.SyncBatchNorm) for module in heads)
    assert body.stem[0].training is (norm != "frozen")
