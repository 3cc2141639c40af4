"""What people take for weights and is none is called by its name; what does not fit says why."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from tokenbench import backbones
from tokenbench.backbones import Backbone
from tokenbench.errors import WeightsError
from tokenbench.weights import checkpoints, files

Tiny = Callable[..., Backbone]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 22883077\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html><html><title>Virus scan warning</title></html>"


def packed(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "npz":
        np.savez(file, a=np.ones(3))
    elif kind == "npy":
        np.save(file, np.ones(3))
    elif kind == "tar":
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("weights.pth"))
    elif kind == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("weights.pth", b"x")
    elif kind == "torchscript":
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POINTER, "is a git-lfs pointer"),
        (PAGE, "is a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an answer in XML"),
        (b"", r"is empty; it is cut or damaged\.$"),
        (b"Not Found", "is text that begins with 'Not Found'"),
        (b'{"error": "no such model"}', "is JSON"),
        (b"GGUF\x03\0\0\0" + b"\0" * 50, "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "is an HDF5 file"),
        (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0" + b"\0" * 50, "is an ONNX model"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 50, "is a TensorFlow Lite model"),
        (gzip.compress(b"x" * 100), "is packed by gzip"),
        (packed("npz"), "is an archive of NumPy arrays"),
        (packed("npy"), "is one array of NumPy"),
        (packed("tar"), "is a tar archive"),
        (packed("zip"), r"is a zip archive of weights\.pth; unpack it"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, says: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    for read in (files.read, files.contents):
        with pytest.raises(WeightsError, match=says) as caught:
            read(path)
        assert "\n" not in str(caught.value) and "code" not in str(caught.value)


@pytest.mark.filterwarnings("ignore")  # torch means to do away with TorchScript
def test_torchscript_is_code(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(packed("torchscript"))
    with pytest.raises(WeightsError, match="is a TorchScript archive, which is code; save the model's state dict"):
        files.read(tmp_path / "a.pt")


def test_the_layout_is_told_by_the_content_and_not_by_the_name(tiny: Tiny, tmp_path: Path) -> None:
    save_file(tiny(seed=1).vit.state_dict(), tmp_path / "a.pth")
    torch.save(tiny(seed=1).vit.state_dict(), tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        backbone = tiny(seed=2)
        checkpoints.load(backbone, tmp_path / name)
        assert torch.equal(backbone.vit.head.weight, tiny(seed=1).vit.head.weight)


def test_a_checkpoint_in_parts_is_read_by_its_index(tiny: Tiny, tmp_path: Path) -> None:
    stored = tiny(seed=1).vit.state_dict()
    parts = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(stored)}
    for part in sorted(set(parts.values())):
        save_file({key: value for key, value in stored.items() if parts[key] == part}, tmp_path / part)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    backbone = tiny(seed=2)
    checkpoints.load(backbone, index)
    assert torch.equal(backbone.vit.head.weight, stored["head.weight"])
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match="is the index of weights in 2 parts, and model-00002-of-00002"):
        files.read(index)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: (w * 127).to(torch.int8), r"1 of its tensors is whole numbers, the first head\.weight \(int8\)"),
        (lambda w: w > 0, r"whole numbers, the first head\.weight \(bool\)"),
        (lambda w: w.to(torch.complex64), r"head\.weight is complex"),
        (
            lambda w: w.index_fill(0, torch.tensor([1]), float("nan")),
            r"32 of the [\d,]+ values of head\.weight are NaN",
        ),
        (
            lambda w: w.index_fill(0, torch.tensor([1]), float("inf")),
            r"32 of the [\d,]+ values of head\.weight are NaN or inf",
        ),
        (lambda w: w.to_sparse(), r"head\.weight is sparse \(torch\.sparse_coo\)"),
        (lambda w: torch.empty(w.shape, device="meta"), r"head\.weight has no values"),
    ],
)
def test_numbers_that_are_no_weights_are_refused(
    tiny: Tiny, tmp_path: Path, change: Callable[[Tensor], Tensor], says: str
) -> None:
    stored, backbone = dict(tiny(seed=1).vit.state_dict()), tiny(seed=2)
    stored["head.weight"] = change(stored["head.weight"])
    torch.save(stored, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=says):
        checkpoints.load(backbone, tmp_path / "a.pth")
    assert torch.equal(backbone.vit.norm.weight, tiny(seed=2).vit.norm.weight)


@pytest.mark.filterwarnings("ignore")  # torch means to move quantisation elsewhere
def test_quantised_weights_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    stored = dict(tiny().vit.state_dict())
    stored["head.weight"] = torch.quantize_per_tensor(stored["head.weight"], 0.1, 0, torch.qint8)
    torch.save(stored, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"head\.weight is quantised"):
        checkpoints.load(tiny(), tmp_path / "a.pth")


def test_a_layer_that_timm_drops_is_refused_and_what_else_it_drops_is_said(tiny: Tiny, tmp_path: Path) -> None:
    path, stored = tmp_path / "a.pth", dict(tiny(seed=1).vit.state_dict())
    torch.save(stored | {"pre_logits.fc.weight": torch.ones(32, 32), "pre_logits.fc.bias": torch.ones(32)}, path)
    with pytest.raises(WeightsError, match=r"layer between norm and head \(pre_logits\) that timm no longer has"):
        checkpoints.load(tiny(), path)
    torch.save(stored | {"mask_token": torch.ones(1, 1, 32)}, path)
    assert checkpoints.load(tiny(), path).note == "timm leaves out mask_token"


def test_a_distillation_token_too_many_or_too_few_is_named(tiny: Tiny, tmp_path: Path) -> None:
    size = dict(img_size=48, patch_size=8, embed_dim=32, depth=12, num_heads=2, num_classes=10)
    plain, distilled, path = (
        tiny(),
        Backbone(VisionTransformerDistilled(**size), "deit_t_distilled"),
        tmp_path / "a.pth",
    )
    torch.save(distilled.vit.state_dict(), path)
    with pytest.raises(WeightsError, match=r"has a distillation token .*, and tiny has none"):
        checkpoints.load(plain, path)
    with pytest.raises(WeightsError, match="give --backbone deit_t_distilled"):
        checkpoints.load(Backbone(plain.vit, "deit_t"), path)
    torch.save(plain.vit.state_dict(), path)
    with pytest.raises(
        WeightsError, match=r"no distillation token .*, and deit_t_distilled has; give --backbone deit_t\."
    ):
        checkpoints.load(distilled, path)


def test_another_backbone_is_named(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(backbones.create("deit_nano").vit.state_dict(), tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"it has width 64, blocks 12, and tiny has width 32, blocks 12; give --backbone d"
    ):
        checkpoints.load(tiny(), tmp_path / "a.pth")
    stored = {f"base_model.model.{key}": value for key, value in tiny().vit.state_dict().items()}
    torch.save(stored | {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 32)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"adapters \(LoRA\).*merge them first"):
        checkpoints.load(tiny(), tmp_path / "a.pth")


def test_a_flipped_bit_is_noticed(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    files.save(path, tiny(seed=1), {"update": 3})
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="is damaged: its tensors are not those that were written"):
        files.read(path)
