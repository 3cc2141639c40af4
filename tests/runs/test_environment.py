"""The description says what was measured on, and not whose machine it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from refusals import refused

from tokenbench.errors import BadSetting
from tokenbench.runs import environment


def test_the_description_is_complete_json(monkeypatch: pytest.MonkeyPatch) -> None:
    found = environment.describe("cpu")
    assert json.loads(json.dumps(found)) == found
    for key in ("cpu", "cpu_capability", "cores", "threads", "os", "python", "torch", "torchvision", "timm", "fvcore"):
        assert found[key], key
    assert {"tokenbench", "memory_gib", "gpu", "commit", "dirty"} <= found.keys()
    assert found["gpu"] is None and found["torch"] == torch.__version__.split("+")[0]
    assert found["device"] == "cpu" and found["hardware"] == environment.hardware("cpu")
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert found["python"] == platform.python_version()
    for bound, also, pinned in ((None, None, False), ("FALSE", None, False), ("close", None, True), (None, "0", True)):
        for name, value in (("OMP_PROC_BIND", bound), ("GOMP_CPU_AFFINITY", also), ("KMP_AFFINITY", None)):
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
        assert environment._pinned() is pinned, (bound, also)
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert environment.describe("cpu")["pinned"] is True
    if platform.system() == "Linux":
        kibibytes = int(Path("/proc/meminfo").read_text().split()[1])  # MemTotal comes first
        assert found["memory_gib"] == round(kibibytes / 2**20, 1)
        assert found["cores"] == len(os.sched_getaffinity(0))
    assert len(found["session"]) == 8 and found["session"] != environment.describe("cpu")["session"]


def test_a_gpu_is_described_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVIDIA's libraries would tell it."""
    told = SimpleNamespace(name="H100", total_memory=85_040_352_461, uuid="ab-1", L2_cache_size=1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"NVIDIA H100 {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: told if device.index == 1 else None)
    driver = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    monkeypatch.setattr(environment, "_line", lambda *command: "550.1" if command == driver else None)
    monkeypatch.setattr(platform, "node", lambda: "here.there")
    found = environment.describe("cuda:1")
    assert (found["device"], found["hardware"]) == ("cuda", "NVIDIA H100 1")
    assert found["gpu"] == {"name": "H100", "memory_gib": 79.2, "driver": "550.1", "cuda": torch.version.cuda}
    assert environment.place("cuda:1") == "here-there-ab-1" and environment.place("cpu") == "here-there-cpu"
    monkeypatch.setattr(environment, "_cpu", lambda: "Apple M4")
    assert environment.hardware("mps") == "Apple M4, mps"


def test_other_systems_say_what_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "Debian 13"})
    assert environment._os() == "Debian 13"
    monkeypatch.setattr(platform, "freedesktop_os_release", absent)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "release", lambda: "25.1")
    assert environment._os() == "Darwin 25.1"
    brand = ("sysctl", "-n", "machdep.cpu.brand_string")
    monkeypatch.setattr(environment, "_line", lambda *command: "Apple  M4" if command == brand else None)
    assert environment._model() == "Apple M4"
    monkeypatch.setattr(environment, "_line", lambda *command: None)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert environment._model() == "arm64"
    monkeypatch.setattr(os, "sysconf", absent)
    assert environment._memory() is None
    assert environment._text(Path("/nowhere")) == ""
    (tmp_path / "bytes").write_bytes(b"a\xffb")
    assert environment._text(tmp_path / "bytes") == "a\ufffdb"
    monkeypatch.undo()
    assert environment._line("printf", "a\nb") == "a" and environment._line("true") is None
    assert environment._line("false") is None and environment._line("no-such-command-here") is None


def test_it_names_no_host_user_or_path() -> None:
    text = json.dumps(environment.describe("cpu"))
    for private in (platform.node(), str(Path.home()), str(Path(environment.__file__).parent)):
        assert len(private) < 3 or private not in text
    assert f'"{os.environ.get("USER", "-")}"' not in text


def test_hardware_says_how_many_cores_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_cpu", lambda: "Intel Xeon")
    monkeypatch.setattr(environment, "_cores", lambda: 4)
    for threads, line in ((4, "Intel Xeon, 4 cores"), (1, "Intel Xeon, 1 of 4 cores")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert environment.hardware("cpu") == environment.hardware(torch.device("cpu")) == line
    monkeypatch.setattr(environment, "_cores", lambda: 1)
    assert environment.hardware("cpu") == "Intel Xeon, 1 core"


def test_a_model_name_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    line = "model name\t: Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz\n"
    heard: list[Path] = []
    monkeypatch.setattr(
        environment, "_text", lambda path: heard.append(path) or f"processor\t: 0\n{line * 2}flags\t: a\n"
    )
    assert environment._cpu() == "Intel Xeon Gold 6230"
    assert environment.describe("cpu")["cpu"] == "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"
    assert set(heard) == {Path("/proc/cpuinfo")}
    for told, cleaned in (
        ("AMD EPYC 7543 32-Core Processor", "AMD EPYC 7543 32-Core"),
        ("Intel(R) Core(TM) i7", "Intel Core i7"),
        ("Processors of CPUs", "Processors of CPUs"),
    ):
        monkeypatch.setattr(environment, "_model", lambda told=told: told)
        assert environment._cpu() == cleaned
    monkeypatch.undo()
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(environment, "_text", lambda path: "")
    assert environment._cpu() == " ".join((platform.processor() or platform.machine()).split())


@pytest.mark.parametrize("device", ["cuda:2", "cuda:99", "toaster"])
def test_a_device_that_is_not_here_is_one_sentence(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    wrong = "allowed, it must be cpu, cuda, cuda:N or mps"
    said = wrong if device == "toaster" else "here, 2 CUDA devices are; use --device cpu"
    with refused(BadSetting, f"device={device} is not {said}."):
        environment.describe(device)
    assert [environment._device(f"cuda{which}").index for which in ("", ":0", ":1")] == [None, 0, 1]


def test_the_commit_is_of_the_checkout_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "tokenbench" / "runs" / "environment.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    monkeypatch.setattr(environment, "__file__", str(package))
    assert environment._commit() == (None, None)

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    try:
        git("init")
    except OSError:
        pytest.skip("git is not here")
    assert environment._commit() == (None, None)
    git("add", ".")
    git("commit", "-m", "first")
    (tmp_path / "notes.txt").write_text("not tracked")
    commit, dirty = environment._commit()
    assert commit is not None and len(commit) == 40 and dirty is False
    package.write_text("# changed")
    assert environment._commit() == (commit, True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "lib" / "tokenbench" / "runs" / "environment.py"))
    (tmp_path / "lib").mkdir()
    assert environment._commit() == (None, None)  # installed inside somebody else's checkout


def test_what_is_not_installed_has_no_version() -> None:
    assert environment.version("no-such-package-anywhere") is None
