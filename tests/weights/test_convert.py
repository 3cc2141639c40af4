"""`tokenbench convert`, and checkpoints by their name on the hub: from its cache, and from a server that does as it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from layouts import deit, dynamicvit, stvit_r

from tokenbench.cli import main
from tokenbench.errors import WeightsError
from tokenbench.weights import files, published

COMMIT = "b4a27a07fc282198466b3b688ebecc6f146cc9fd"


def call(*args: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["convert", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_says_what_it_read_and_what_it_assumed(tmp_path: Path) -> None:
    source, out = tmp_path / "dyvit.pth", tmp_path / "new" / "dyvit.safetensors"
    torch.save({"model": dynamicvit(192)}, source)
    code, text, _ = call(source, out)
    lines = text.splitlines()
    assert code == 0 and len(lines) == 4
    assert lines[0].startswith(f"Read dyvit.pth (sha256 {files.sha(source)}): dynamicvit[keep_rate=0.7] on deit_t")
    assert lines[1] == "5,899,582 parameters, 1000 classes, images of 224x224."
    assert lines[2].startswith("Assumed: keep_rate=0.7, the default") and lines[3] == f"Written: {out}"
    header = files.header(out)
    assert header["published"] == {
        "layout": "raoyongming/DynamicViT",
        "source": "dyvit.pth",
        "hash": files.sha(source),
    }
    assert (header["method"], header["backbone"], header["classes"]) == ("dynamicvit", "deit_t", 1000)
    assert (header["setting"]["keep_rate"], header["image_size"]) == (0.7, [224, 224])


def test_what_is_there_is_replaced_only_by_force(tmp_path: Path) -> None:
    source, out = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"model": deit(64, depth=12)}, source)
    out.write_bytes(b"mine")
    code, _, error = call(source, out, "--method", "tome[r=13]")
    assert code == 2 and "exists; give another name, or --force" in error and out.read_bytes() == b"mine"
    code, _, error = call(source, out, "--method", "tome[r=13]", "--force")
    assert code == 1 and "no known size" in error and out.read_bytes() == b"mine"
    torch.save({"model": deit(192)}, source)
    code, text, _ = call(source, out, "--method", "tome[r=13]", "--backbone", "vit_ti", "--force")
    assert code == 0 and "tome[r=13] on vit_ti, timm or DeiT" in text and "Assumed" not in text
    code, _, error = call(source, tmp_path / "a.pt")
    assert code == 2 and "must end in .safetensors" in error
    code, _, error = call(source, tmp_path / "b.safetensors", "--method", "evti")
    assert code == 2 and "Did you mean evit?" in error


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, with STViT-R in it, and nobody to ask."""
    from huggingface_hub import constants

    repo = tmp_path / "hub" / "models--csncsn--STViT-R"
    snapshot = repo / "snapshots" / COMMIT
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (snapshot / "more").mkdir(parents=True)
    torch.save({"model": stvit_r(96)}, snapshot / "STViT-R-Swin-S.pth")
    torch.save({"model": dynamicvit(192)}, snapshot / "more" / "a.pth")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repo


def test_the_hubs_cache_is_used_without_a_network(cache: Path) -> None:
    found = published.read("csncsn/STViT-R/STViT-R-Swin-S.pth")
    assert (found.method.name, found.backbone, found.parameters) == ("stvit_r", "swin_s", 49_625_518)
    assert found.source == f"csncsn/STViT-R@{COMMIT[:12]}/STViT-R-Swin-S.pth" and len(found.hash) == 16
    found = published.read(f"hf-hub:csncsn/STViT-R@{COMMIT}/more/a.pth")
    assert found.source == f"csncsn/STViT-R@{COMMIT[:12]}/more/a.pth" and found.backbone == "deit_t"


def test_what_the_hub_does_not_have_is_one_sentence(cache: Path) -> None:
    with pytest.raises(WeightsError, match=r"^other\.pth of csncsn/STViT-R cannot be had \(HF_HUB_OFFLINE is set"):
        published.read("hf-hub:csncsn/STViT-R/other.pth")
    with pytest.raises(WeightsError, match=r"^There is no file 'runs/evit/best\.pth', and on the hub best\.pth of"):
        published.read("runs/evit/best.pth")
    for local in ("./runs/evit/best.pth", "/runs/evit/best.pth", "best.pth"):
        with pytest.raises(WeightsError, match="does not exist"):
            published.read(local)


class Hub(BaseHTTPRequestHandler):
    """Answers for one file of one repository as the hub does."""

    data = b""
    asked: list[str]

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if self.path == "/":
            self.send_response(200)
        elif self.path.startswith("/csncsn/other/resolve/") and self.path.endswith("/deit-t.pth"):
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(self.data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(self.data)))
            self.end_headers()
            if body:
                self.wfile.write(self.data)
            return
        else:
            self.send_response(404)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    torch.save({"model": dynamicvit(192)}, tmp_path / "given.pth")
    Hub.data, Hub.asked = (tmp_path / "given.pth").read_bytes(), []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded_once_and_read_from_the_cache_after(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # made from HF_ENDPOINT at import
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    name, out = "csncsn/other/deit-t.pth", tmp_path / "out.safetensors"
    code, text, _ = call(name, out)
    assert code == 0 and text.startswith(f"Read csncsn/other@{COMMIT[:12]}/deit-t.pth (sha256 ")
    assert files.header(out)["published"]["hash"] == files.sha(tmp_path / "given.pth")
    assert (tmp_path / "hub" / "models--csncsn--other" / "snapshots" / COMMIT).is_dir()
    assert sum(line.startswith("GET /csncsn/other/resolve/main/deit-t.pth") for line in Hub.asked) == 1
    asked = len(Hub.asked)
    assert published.read(name).source == f"csncsn/other@{COMMIT[:12]}/deit-t.pth" and len(Hub.asked) == asked
    with pytest.raises(
        WeightsError, match=r"none\.pth of csncsn/other cannot be had \(csncsn/other has no none\.pth\)"
    ):
        published.read("csncsn/other/none.pth")
