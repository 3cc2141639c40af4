"""What a number was measured on: hardware, versions, commit. No host names, no user names, no paths."""

from __future__ import annotations

import os
import platform
import re
import secrets
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenbench.core.words import counted
from tokenbench.errors import BadSetting

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "torchvision", "timm", "fvcore", "tokenbench")


def hardware(device: str | torch.device) -> str:
    """One short line, "Intel Xeon, 2 cores" or "NVIDIA H100 80GB HBM3"; results are compared only where it is equal.

    Raises:
        BadSetting: there is no such device here.
    """
    import torch

    device = _device(device)
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    cores, threads = _cores(), torch.get_num_threads()
    used = counted(cores, "core") if threads == cores else f"{threads} of {cores} cores"
    return f"{_cpu()}, {used}" if device.type == "cpu" else f"{_cpu()}, {device.type}"


def describe(device: str | torch.device) -> dict[str, Any]:
    """Hardware, system and versions, ready for JSON; None where a thing does not exist or cannot be known.

    `session` is another at each call: what has the same was measured together. Memory is in GiB. Raises
    `BadSetting` where there is no such device.
    """
    import torch

    device = _device(device)
    commit, dirty = _commit()
    return {
        "device": device.type,
        "hardware": hardware(device),
        "cpu": _model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "pinned": _pinned(),
        "memory_gib": _memory(),
        "gpu": _gpu(device) if device.type == "cuda" else None,
        "os": _os(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "session": secrets.token_hex(4),
    }


def place(device: str | torch.device) -> str:
    """A name for this very device of this very machine, for files: never put into a row."""
    import torch

    device = _device(device)
    which = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else device.type
    return re.sub(r"[^A-Za-z0-9-]", "-", f"{platform.node()}-{which}")


def version(package: str) -> str | None:
    """The installed version of a package, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device(device: str | torch.device) -> torch.device:
    import torch

    try:
        found = torch.device(device)
    except RuntimeError:
        raise BadSetting(f"device={device} is not allowed, it must be cpu, cuda, cuda:N or mps.") from None
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type == "cuda" and not 0 <= (found.index or 0) < count:  # torch wraps indices over 127
        raise BadSetting(f"device={device} is not here, {count} CUDA devices are; use --device cpu.")
    return found


def _gpu(device: torch.device) -> dict[str, Any]:
    import torch

    props = torch.cuda.get_device_properties(device)
    return {
        "name": props.name,
        "memory_gib": round(props.total_memory / 2**30, 1),
        "driver": _line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
    }


def _cpu() -> str:
    """The processor's model name, without trademarks and clock."""
    return " ".join(re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b|@.*", " ", _model()).split())


def _model() -> str:
    """The processor's model name in full."""
    name = ""
    if platform.system() == "Linux":
        found = re.search(r"^model name\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
        name = found[1] if found else ""
    elif platform.system() == "Darwin":
        name = _line("sysctl", "-n", "machdep.cpu.brand_string") or ""
    return " ".join((name or platform.processor() or platform.machine()).split())


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _pinned() -> bool:
    """Whether the user had OpenMP tie each thread to a core."""
    bound = os.environ.get("OMP_PROC_BIND", "false").lower() != "false"
    return bound or any(name in os.environ for name in ("GOMP_CPU_AFFINITY", "KMP_AFFINITY"))


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _os() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def _commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout the package runs from and whether tracked files differ; (None, None) if installed."""
    root = Path(__file__).resolve().parents[2]
    top = _line("git", "-C", str(root), "rev-parse", "--show-toplevel")
    commit = _line("git", "-C", str(root), "rev-parse", "--verify", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root:
        return None, None
    return commit, _line("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no") is not None


def _line(*command: str) -> str | None:
    """The first line a command prints; None if it fails, is not there, or prints nothing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.splitlines()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
