"""The description says what was measured on, and not whose machine it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from tokenbench.errors import BadSetting
from tokenbench.runs import environment


def test_the_description_is_complete_json() -> None:
    found = environment.describe("cpu")
    assert json.loads(json.dumps(found)) == found
    for key in ("cpu", "cpu_capability", "cores", "threads", "os", "python", "torch", "torchvision", "timm", "fvcore"):
        assert found[key], key
    assert {"tokenbench", "memory_gib", "gpu", "commit", "dirty"} <= found.keys()
    assert found["gpu"] is None and found["torch"] == torch.__version__.split("+")[0]


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
    monkeypatch.setattr(environment, "_text", lambda path: line * 2)
    assert environment._cpu() == "Intel Xeon Gold 6230"
    assert environment.describe("cpu")["cpu"] == "Intel(R) Xeon(R) Gold 6230 CPU @ 2.10GHz"
    monkeypatch.setattr(environment, "_text", lambda path: "")
    assert environment._cpu()


@pytest.mark.parametrize("device", ["cuda:99", "toaster"])
def test_a_device_that_is_not_here_is_one_sentence(device: str) -> None:
    with pytest.raises(BadSetting, match=rf"^device={device} is not .*\.$"):
        environment.describe(device)


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
    commit, dirty = environment._commit()
    assert commit is not None and len(commit) == 40 and dirty is False
    package.write_text("# changed")
    assert environment._commit() == (commit, True)
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "lib" / "tokenbench" / "runs" / "environment.py"))
    (tmp_path / "lib").mkdir()
    assert environment._commit() == (None, None)  # installed inside somebody else's checkout


def test_what_is_not_installed_has_no_version() -> None:
    assert environment.version("no-such-package-anywhere") is None
