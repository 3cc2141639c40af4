"""`tokenbench trace` from the command line: good input, odd input, and none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from rows import row

from tokenbench.cli import main
from tokenbench.methods.dynamicvit.dynamicvit import DynamicViT
from tokenbench.runs import candidates
from tokenbench.runs.row import dumps


def trace(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["trace", "--weights", "random", *map(str, arguments)])


def test_odd_images_are_drawn_and_damaged_ones_named(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8))
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.crop((0, 0, 1, 1)).save(folder / "pixel.png")
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n")
    result = trace("--methods", "tome[r=13],evit", "--images", folder, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "damaged.png" in result.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"images.png", "cmyk-blocks.png", "pixel-blocks.png", "cmyk.npz", "maps.csv", "agreement.csv"} <= written
    assert all(str(tmp_path / "out" / name) in result.stdout for name in written)
    assert "tome[r=13]" in result.stdout and "evit[keep_rate=0.7]" in result.stdout
    assert "entropy bits" in result.stdout and "IoU" in result.stdout


def test_without_images_the_sample_is_drawn(tmp_path: Path) -> None:
    result = trace("--methods", "topk", "--limit", 1, "-o", tmp_path)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "t-shirt-top-0-blocks.png").is_file()
    assert "agreement" not in result.stdout  # there is one setting only


def test_settings_of_one_method_are_drawn_into_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [DynamicViT(keep_rate=rate) for rate in (0.5, 0.7)]
    trained = [(SimpleNamespace(method=one, own=one, status="ok"), None) for one in settings]
    task = SimpleNamespace(scenes=lambda *_: iter(()))
    group = SimpleNamespace(
        live=lambda: trained, candidates=[], plan=SimpleNamespace(task=task), data=None, backbone=None
    )
    monkeypatch.setattr(candidates, "prepare", lambda *_: [group])
    result = trace("--task", "detection", "--data-dir", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dynamicvit-keep_rate-0.5",
        "dynamicvit-keep_rate-0.7",
    ]


def test_what_cannot_work_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    for arguments, code, words in (
        (("--images", tmp_path / "empty"), 2, "has no images"),
        (("--images", tmp_path / "nowhere.jpg"), 2, "does not exist"),
        (("--images", tmp_path / "text.png"), 1, "None of the 1 images can be read"),
        (("--methods", "evti", "-o", tmp_path), 2, "Did you mean evit?"),
        (("--methods", "stvit[tokens=400]"), 2, "None of the methods given can run on deit_nano"),
        (("--similarity", 9, "--task", "segmentation"), 2, "leave it out with --task segmentation"),
        (("--similarity", 9, "--methods", "topk", "--limit", 1), 2, "two settings or more"),
        (
            ("--data-dir", tmp_path),
            2,
            "--data-dir says nothing here, for --task classification draws --images; leave it",
        ),
        (
            ("--task", "detection", "--images", tmp_path),
            2,
            "--images says nothing here, for --task detection draws images",
        ),
        (("--task", "segmentation", "--image-size", 64), 2, "--image-size says nothing here"),
        (
            ("--task", "video", "--crop-pct", 0.9, "--images", tmp_path),
            2,
            "--crop-pct says nothing to video, which brings",
        ),
        (("--image-size", "big"), 2, "--image-size big is not allowed"),
        (("--limit", 1, "--methods", "topk", "-o", tmp_path / "text.png"), 1, "cannot be written"),
    ):
        result = trace(*arguments)
        assert result.exit_code == code, result.output
        assert words in result.stderr
        assert "Traceback" not in result.output


def test_the_report_shows_what_was_traced(tmp_path: Path) -> None:
    """The maps below its own folder, or those that are named, with how alike the settings are on more images."""
    maps = tmp_path / "report" / "maps"
    traced = trace("--methods", "topk,tome", "--limit", 1, "--similarity", 5, "-o", maps)
    assert traced.exit_code == 0, traced.output
    assert "CKA" in traced.stdout and "5 images" in traced.stdout and str(maps / "similarity.csv") in traced.stdout
    assert "How alike they are" in (maps / "maps.html").read_text()
    rows = tmp_path / "rows.jsonl"
    rows.write_text(dumps(row()) + "\n")
    found = []
    for output, more in (("report", []), ("named", ["--maps", tmp_path / "report" / "maps"]), ("none", [])):
        args = ["report", rows, "-o", tmp_path / output, *more]
        result = CliRunner().invoke(main, list(map(str, args)))
        assert result.exit_code == 0, result.output
        page = (tmp_path / output / "index.html").read_text()
        found.append(("t-shirt top 0" in page, "5 images" in page))
    assert found == [(True, True), (True, True), (False, False)]
    again = trace("--methods", "topk", "--limit", 1, "-o", maps)  # what is beside its maps now is of others
    assert again.exit_code == 0, again.output
    result = CliRunner().invoke(main, ["report", str(rows), "-o", str(tmp_path / "report")])
    assert result.exit_code == 0 and "of other settings than the maps" in result.stderr
    assert "5 images" not in (tmp_path / "report" / "index.html").read_text()
