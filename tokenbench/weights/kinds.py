"""What a file is that people take for weights, told by its first bytes, and what to do about it."""

from __future__ import annotations

import json
import os
import pickletools
import zipfile
from pathlib import Path

HEAD = 1024  # bytes that are looked at
TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before it wrote zip archives
UNPACKED = 4  # times its size that an archive of weights may hold: torch.save does not compress
STARTS = {
    b"version https://git-lfs": "is a git-lfs pointer and not the weights; fetch them with `git lfs pull`",
    b"\x93NUMPY": "is one array of NumPy; give a state dict saved by torch.save or as safetensors",
    b"\x89HDF": "is an HDF5 file, as Keras writes; give the weights as PyTorch or safetensors have them",
    b"GGUF": "is a GGUF file, whose weights are quantised; give the original weights",
    b"\x1f\x8b": "is packed by gzip; unpack it",
    b"BZh": "is packed by bzip2; unpack it",
    b"\xfd7zXZ": "is packed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"Rar!": "is a RAR archive; unpack it",
    b"%PDF": "is a PDF document; give the weights",
    b"\x89PNG": "is an image; give the weights",
    b"\xff\xd8\xff": "is an image; give the weights",
}


def is_safetensors(path: Path) -> bool:
    """Whether a file is laid out as safetensors, whatever its name; by its name if it is too short to tell."""
    start = _head(path)[:9]
    if len(start) < 9 or start[:2] in (b"PK", b"\x80\x02"):
        return path.suffix == ".safetensors" and start[:2] not in (b"PK", b"\x80\x02")
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and length < path.stat().st_size)


def is_index(path: Path) -> bool:
    """Whether a file is the index of a checkpoint in several parts."""
    return _head(path).lstrip()[:1] == b"{" and "weight_map" in (_json(path) or {})


def foreign(path: Path) -> str | None:
    """What a file is, and what to do, as the rest of a sentence; None for what may hold weights that can be read."""
    head = _head(path)
    if not head:
        return "is empty; it is cut or damaged"
    for start, what in STARTS.items():
        if head.startswith(start):
            return what
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, and give the file of weights in it"
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite model; give the weights as PyTorch or safetensors have them"
    if path.suffix == ".onnx" or (head[0] == 8 and head[1] < 32 and (b"onnx" in head or b"pytorch" in head)):
        return "is an ONNX model; give the weights it was exported from"
    if head.startswith(b"PK"):
        return _archive(path)
    if head[:1] == b"\x80" and 2 <= head[1] <= 5:
        return None if head.startswith(TORCH) else _pickle(path)
    return None if is_safetensors(path) and head[8:9] == b"{" else _text(path, head)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _archive(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "cannot be read as weights (its archive has no end); it is cut or damaged"
    names = [entry.filename for entry in entries]
    size, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED * size + 2**26:
        return (
            f"would unpack to {unpacked / 2**20:,.0f} MiB from {size / 2**20:,.1f}, as no weights do, so it is not read"
        )
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        return "is a TorchScript archive, which is code; save the model's state dict with torch.save"
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return "is an archive of NumPy arrays (npz); give a state dict saved by torch.save or as safetensors"
    if any("/data/weights/" in name or name.endswith("archive_format") for name in names):
        return "is a program of torch.export; save the model's state dict with torch.save"
    return f"is a zip archive of {os.path.basename(names[0]) if names else 'nothing'}; unpack it, and give the weights"


def _pickle(path: Path) -> str | None:
    """A pickle that torch.save did not write."""
    calls = None
    try:
        with path.open("rb") as file:
            for code, argument, _ in pickletools.genops(file):
                if code.name in ("GLOBAL", "STACK_GLOBAL", "INST"):
                    calls = calls or str(argument or "a class").replace(" ", ".")
    except ValueError:
        return "cannot be read as weights (its pickle has no end); it is cut or damaged"
    if calls is None:
        return "is a pickle without tensors; give a state dict saved by torch.save or as safetensors"
    return (
        f"is a pickle that torch.save did not write and could run code when loaded ({calls}), so it is not read; save "
        "its tensors by torch.save, or convert it to safetensors"
    )


def _text(path: Path, head: bytes) -> str | None:
    try:
        text = head.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return None
    if text[:1] == "<":
        what = "a web page" if "html" in text.lower() else "an answer in XML"
        return f"is {what} that was saved in place of the weights; download them again"
    if text[:1] == "{" and is_index(path):
        return None
    if text[:1] in ("{", "["):
        return "is JSON; give the file of weights beside it"
    if text.isprintable() or "\n" in text:
        first = (text.splitlines() or [""])[0][:40]
        return f"is text that begins with {first!r}; give the weights"
    return None


def _json(path: Path) -> dict[str, object] | None:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
