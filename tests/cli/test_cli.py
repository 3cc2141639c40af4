"""The command line as a newcomer meets it: one sentence for what is wrong, the right exit code, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from tokenbench import backbones
from tokenbench.cli import main
from tokenbench.cli.run import plan_of
from tokenbench.methods import all_methods
from tokenbench.methods.evit import Attentive
from tokenbench.methods.paper import KINDS
from tokenbench.runs import runner
from tokenbench.runs.jobs import UNFINISHED
from tokenbench.runs.results import load
from tokenbench.weights import files

QUICK = ("-b", "2", "--rounds", "3", "--limit", "8", "--methods", "evit")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has a folder of its own, with weights and images that can be spoilt."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    files.save(path, backbones.create("deit_nano"), {})
    return path.read_bytes()


@pytest.fixture
def weights(here: Path, nano: bytes) -> str:
    (here / "nano.safetensors").write_bytes(nano)
    return "nano.safetensors"


def call(*args: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def folder(root: Path, classes: int) -> Path:
    for label in range(classes):
        (root / str(label)).mkdir(parents=True)
        Image.fromarray(np.full((28, 28), 20 * label, np.uint8)).save(root / str(label) / "a.png")
    return root


def test_a_run_prints_a_table_and_writes_rows(weights: str) -> None:
    code, out, err = call("run", *QUICK, "--weights", weights)
    assert code == 0
    assert out.splitlines()[1] == "deit_nano" and "evit[keep_rate=0.7]" in out
    assert out.endswith("Rows in results.jsonl: 2; `tokenbench report results.jsonl` makes files of them.\n")
    assert err.splitlines() == [
        "deit_nano: counting",
        "deit_nano: accuracy on 8 images",
        "deit_nano: memory at batch 2",
        "deit_nano: speed at batch 2",
    ]
    assert "\x1b" not in out + err, "no codes for a terminal where there is none"
    table = out.split("Rows in")[0]
    again = call("run", *QUICK, "--weights", weights)
    assert again[0] == 0 and again[1].split("Rows in")[0] == table
    assert again[2] == "deit_nano: 2 of 2 jobs are done already; --force runs them again.\n"

    code, out, err = call("report")
    assert (code, err) == (0, "") and out.startswith(table)
    assert [path.name for path in sorted(Path("reports/tables").iterdir())] == [
        "results.csv",
        "results.md",
        "results.tex",
    ]
    assert out.splitlines()[-1] == str(Path("reports/index.html")) and Path("reports/index.html").stat().st_size > 1e5
    assert {path.suffix for path in Path("reports/figures").iterdir()} == {".svg", ".png", ".pdf"}


def test_json_is_all_that_is_on_stdout() -> None:
    code, out, err = call("run", *QUICK, "--weights", "random", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row["label"] for row in rows] == ["dense", "evit[keep_rate=0.7]"]
    assert [row["reason"] for row in rows] == ["random weights, so no accuracy"] * 2
    assert all(row["metrics"]["top1"] is None and row["schema"] == 2 for row in rows)
    assert "deit_nano: counting" in err
    lines = Path("results.jsonl").read_text().splitlines()
    assert out.splitlines() == [line for line in lines if UNFINISHED not in line]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--methods evti", "Unknown method 'evti'. Did you mean evit? See `tokenbench list`."),
        ("--methods evit[keep_rat=1]", "evit has no knob 'keep_rat'; it has keep_rate, tokens, fuse, blocks, "),
        ("--methods evit[keep_rate=2]", "evit: keep_rate=2 is not allowed, it should be less than or equal to 1."),
        ("--methods evit[keep_rate=x]", "evit: keep_rate=x is not allowed, it should be a valid number"),
        ("--methods evit[", "Methods 'evit[' do not parse at 'evit['; write them like tome[r=4,8,13],evit."),
        ("--methods ,", "No method was given; write them like tome[r=4,8,13],evit, or `all`."),
        ("--backbone deit_nan", "Unknown backbone 'deit_nan'. Did you mean deit_nano? See `tokenbench list --backb"),
        ("--backbone ,", "No backbone was given; write one or more as deit_s,vit_b. See `tokenbench list --backb"),
        ("--backbone resnet18", "resnet18 cannot be served: ResNet is not a timm SwinTransformer or Vision"),
        ("--backbone resnet18", "resnet18 cannot be served: ResNet is not a timm"),
        ("--batch-size 0", "--batch-size 0 is not allowed; write 32, or 1,32,128, or auto."),
        ("--batch-size 2,,4", "--batch-size 2,,4 is not allowed; write 32, or 1,32,128, or auto."),
        ("--batch-size many", "--batch-size many is not allowed; write 32, or 1,32,128, or auto."),
        ("--image-size 0", "--image-size 0 is not allowed; write 384, or 224x448, 16384 at most."),
        ("--image-size 1x2x3", "--image-size 1x2x3 is not allowed; write 384, or 224x448, 16384 at most."),
        ("--device cuda:99", "device=cuda:99 is not here, "),
        ("--device tpu", "device=tpu is not allowed, it must be cpu, cuda, cuda:N or mps."),
        ("--device meta", "device=meta cannot be used here, it must be one that torch finds; try auto."),
        ("--rounds 1", "Invalid value for '--rounds': 1 is not in the range x>=3. See `main run --help`."),
        ("--limit many", "Invalid value for '--limit': 'many' is not a valid integer range. See `main run --help`."),
        ("--seed -1", "Invalid value for '--seed': -1 is not in the range 0<=x<=4294967295. See `main run --help`."),
        (
            "--workers -1",
            "Invalid value for '-j' / '--workers': -1 is not in the range 0<=x<=1024. See `main run --help`.",
        ),
        (
            "--precision fp8",
            "Invalid value for '--precision': 'fp8' is not one of 'fp32', 'bf16', 'fp16', 'int8'. See ",
        ),
        ("--labels l.csv", "--labels says something of the images in --data-dir; give that too."),
        ("--restrict-classes", "--restrict-classes says something of the images in --data-dir; give that too."),
        ("--class-order upwards --data-dir .", "Data folder '.' has no class folders; put the images of each class"),
        ("--precision fp16 --amp", "--amp means bf16 and --precision says fp16; give one of them."),
        (
            "--plugin none.py",
            "Plug-in 'none.py' is not a Python file; give the path of a .py file with a Method, Task or Backbone",
        ),
        ("--config none.toml", "Config 'none.toml' cannot be read (No such file or directory); give a TOML file."),
    ],
)
def test_usage_errors_are_one_sentence(args: str, sentence: str) -> None:
    code, out, err = call("run", *args.split())
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {sentence}") and err.count("\n") == 1 and err.endswith(".\n")
    assert not Path("results.jsonl").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "import nowhere_to_be_found\n",
            "does not import (ModuleNotFoundError: No module named 'nowhere_to_be_found' (own.py:1))",
        ),
        ("def (\n", "does not import (SyntaxError: "),
        ("x = 1\n", "holds no Method, Task or Backbone with a name; `tokenbench new NAME` writes one."),
    ],
)
def test_plugins_that_are_none(text: str, sentence: str) -> None:
    Path("own.py").write_text(text)
    code, _, err = call("list", "--plugin", "own.py")
    assert code == 2 and err.startswith(f"Error: Plug-in 'own.py' {sentence}") and err.count("\n") == 1


def test_unknown_commands_get_the_nearest() -> None:
    assert call("reprot") == (2, "", "Error: Unknown command 'reprot'. Did you mean report? See `tokenbench --help`.\n")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mean", "half"), "--mean half is not allowed; write one number, or one a channel as 0.485,0.456,0.406."),
        (("--mean", "0.5,0.5"), "--mean 0.5,0.5 is not allowed"),
        (("--std", "0"), "--std 0 is not allowed"),
        (("--std", "inf"), "--std inf is not allowed"),
        (
            ("--ema", "--weights-key", "model"),
            "--ema and --weights-key both say which weights to take; give one of them.",
        ),
        (("--weights", " , "), "--weights names no file; give auto, dense, random, or files and folders."),
    ],
)
def test_flags_of_weights_and_pixels_that_mean_nothing(flags: tuple[str, ...], says: str) -> None:
    for command in (("run", *QUICK), ("trace", "--methods", "evit")):
        code, _, err = call(*command, *flags)
        assert code == 2 and says in err, err


def test_pixels_and_the_weights_taken_are_in_the_row(weights: str) -> None:
    stored = files.read(weights)
    torch.save({"model": stored, "model_ema": stored}, "two.pth")
    code, out, err = call("run", *QUICK, "--weights", "two.pth", "--ema", "--crop-pct", "0.5", "--json")
    assert code == 0 and "deit_nano: the averaged weights ('model_ema')." in err
    for line in out.splitlines():
        row = json.loads(line)
        assert row["conditions"] == {"crop_pct": 0.5} and row["weights"]["name"] == "two.pth#model_ema"


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def spoilt(nano: bytes, kind: str) -> str:
    if kind == "another shape":
        files.save("other.safetensors", backbones.create("deit_t", classes=10).vit, {})
        return "other.safetensors"
    if kind == "cut short":
        Path("cut.safetensors").write_bytes(nano[: len(nano) // 2])
        return "cut.safetensors"
    if kind == "pickle":
        Path("evil.pth").write_bytes(pickle.dumps({"head.weight": Evil()}))
        return "evil.pth"
    if kind == "torch pickle":
        torch.save({"head.weight": Evil()}, "evil.pt")
        return "evil.pt"
    return "none.pth"


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("another shape", "it has width 192, blocks 12, and deit_nano has width 64, blocks 12; give --backbone deit_t"),
        ("cut short", "it is cut or damaged."),
        ("pickle", "could run code when loaded, so it is not read; convert it to safetensors."),
        ("torch pickle", ".mkdir), so it is not read; convert it to safetensors."),
        ("missing", "Weights file 'none.pth' does not exist; give a .safetensors or .pth file, 'auto' or 'random'."),
    ],
)
def test_weights_that_cannot_be_used(nano: bytes, kind: str, sentence: str) -> None:
    code, out, err = call("run", *QUICK, "--weights", spoilt(nano, kind))
    assert (code, out) == (1, "") and sentence in err and err.startswith("Error: ") and err.count("\n") == 1
    assert not Path("executed").exists() and not Path("results.jsonl").exists()


def test_weights_of_other_classes_are_not_scored_on_the_sample() -> None:
    files.save("three.safetensors", backbones.create("deit_nano", classes=3), {})
    code, out, err = call("run", *QUICK, "--weights", "three.safetensors")
    assert code == 0 and "no --data-dir, so no accuracy" in out, err


def test_data_that_cannot_be_used(weights: str, here: Path) -> None:
    (here / "empty").mkdir()
    folder(here / "three", 3)
    give = "give a folder that has one folder of images for each class, Parquet or tar files, or hfds/NAME."
    for given, sentence in {
        "nowhere": f"Data folder 'nowhere' does not exist; {give}",
        "empty": "Data folder 'empty' has no class folders; put the images of each class into one of its own.",
        weights: f"Data folder '{weights}' is a file; {give}",
        "three": "three has 3 classes but deit_nano has 10; give data of the model's classes, or weights ",
    }.items():
        code, out, err = call("run", *QUICK, "--weights", weights, "--data-dir", given)
        expected = 1 if given == "three" else 2  # a mistake in the command, and no job that failed
        assert (code, out) == (expected, "") and err.startswith(f"Error: {sentence}") and err.count("\n") == 1


def test_unreadable_images_are_seen_in_the_output_and_in_the_row(weights: str, here: Path) -> None:
    root = folder(here / "photos", 10)
    (root / "3" / "b.png").write_bytes((root / "3" / "a.png").read_bytes()[:40])
    code, out, err = call("run", *QUICK, "--limit", "99", "--weights", weights, "--data-dir", "photos")
    assert code == 0
    assert "1 of 11 images cannot be read and are left out: 3/b.png: " in err
    assert "unreadable images left out: 1." in out and "10 images of photos" in out
    assert {(row.images, row.skipped) for row in load("results.jsonl")[0]} == {(10, 1)}


def test_out_of_memory_is_a_row_and_exit_code_1(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Attentive, tokens: Any, attn: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Attentive, "forward", forward)
    code, out, _ = call("run", *QUICK, "--methods", "evit,topk", "--weights", weights)
    assert code == 1
    assert {row.method: row.status for row in load("results.jsonl")[0]} == {"dense": "ok", "evit": "oom", "topk": "ok"}
    assert "evit[keep_rate=0.7]: oom: " in out and "out of memory" in out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "Interrupted; what was measured is kept, and the same command goes on from there."),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "Error: No space left on device for /x; mend that"),
        (PermissionError(errno.EACCES, "Permission denied"), 1, "Error: Permission denied; mend that and run"),
    ],
)
def test_what_ends_a_command(error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise error

    monkeypatch.setattr(runner, "run", run)
    found, out, err = call("run", *QUICK)
    assert (found, out) == (code, "") and err.startswith(says) and err.count("\n") == 1


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = call("run", *QUICK, "--weights", "random", "-o", "here/results.jsonl")
    assert code == 0

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    code, out, err = call("run", *QUICK, "--weights", "random", "-o", "here/results.jsonl", "--force")
    assert code == 1 and out == ""
    assert "Error: here/results.jsonl cannot be written (No space left on device); free some space or give" in err
    rows = list(load("here/results.jsonl")[0])
    assert [row.status for row in rows] == ["ok", "ok"], "the rows from before are there"


@pytest.mark.parametrize("output", ["/dev/null", "pipe", "folder", "taken.jsonl", "file/results.jsonl"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(output: str) -> None:
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("file").write_text("")
    Path("taken.predictions").write_text("")  # where the predictions would go
    code, out, err = call("run", *QUICK, "--weights", "random", "-o", output)
    assert (code, out) == (1, "") and "counting" not in err
    assert err.splitlines()[-1].startswith("Error: ") and " cannot be written (" in err


def planned(*args: str) -> runner.Plan:
    """The plan that a command line makes, without running it."""
    with main.commands["run"].make_context("run", list(args), parent=click.Context(main)) as ctx:
        return plan_of(ctx.params)


def test_flag_over_file_over_default() -> None:
    Path("a.toml").write_text(
        'methods = ["tome[r=4,8]", "evit"]\nbatch-size = [1, 2]\nrounds = 5\ncompile = true\ndata_dir = "photos"\n'
    )
    plan = planned("--config", "a.toml", "--rounds", "7")
    assert [m.label for m in plan.methods] == ["tome[r=4]", "tome[r=8]", "evit[keep_rate=0.7]"]
    assert (plan.batches, plan.rounds, plan.compile, plan.data_dir) == ([1, 2], 7, True, Path("photos"))
    assert (plan.seed, plan.precision, plan.backbones) == (42, "fp32", ["deit_nano"]), "as without a file"
    assert planned("--rounds", "7", "--config", "a.toml") == plan


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("backbon = 'x'", "Unknown config key 'backbon'. Did you mean backbone? See `tokenbench run --help`."),
        ("config = 'x'", "Unknown config key 'config'. See `tokenbench run --help`."),
        ("methods = [", "Config 'a.toml' is not TOML (Invalid value (at end of document)); write lines like "),
        (
            "rounds = 'many'",
            "Invalid value for '--rounds': 'many' is not a valid integer range. See `main run --help`.",
        ),
        ("plugin = 'none.py'", "Plug-in 'none.py' is not a Python file; give the path of a .py file"),
        ("methods = 'evti'", "Unknown method 'evti'. Did you mean evit? See `tokenbench list`."),
    ],
)
def test_configs_that_mean_nothing(text: str, sentence: str) -> None:
    Path("a.toml").write_text(text)
    code, out, err = call("run", "--config", "a.toml")
    assert (code, out) == (2, "") and err.startswith(f"Error: {sentence}") and err.count("\n") == 1


def test_flags_reach_the_plan() -> None:
    plan = planned("-b", "1,8,1", "--amp", "--image-size", "28x56", "-j", "2", "--seed", "3", "--force", "--limit", "9")
    assert (plan.batches, plan.precision, plan.image_size) == ([1, 8], "bf16", (28, 56))
    assert (plan.workers, plan.seed, plan.force, plan.limit) == (2, 3, True, 9)
    assert planned("-b", "auto").batches == [] and planned("--backbone", "deit_s, deit_s").backbones == ["deit_s"]
    assert {"dense", "evit", "tome"} < {m.name for m in planned().methods}


def test_report_without_rows() -> None:
    sentence = "There is no results.jsonl here; run `tokenbench run` first, or name a results file."
    assert call("report") == (2, "", f"Error: {sentence}\n")
    code, _, err = call("report", "none.jsonl")
    assert code == 1 and err.startswith("Error: none.jsonl cannot be read (No such file or directory); give the path")
    Path("results.jsonl").write_text("")
    assert call("report")[0] == 2
    Path("results.jsonl").write_bytes(b"\x00\xff{")
    code, _, err = call("report")
    assert code == 2 and err.startswith(
        "Left out results.jsonl:1: the line is cut or damaged\nError: There are no rows"
    )


def test_merge_takes_the_newest_good_row_and_names_what_is_damaged() -> None:
    call("run", *QUICK, "--weights", "random", "-o", "a.jsonl")
    lines = Path("a.jsonl").read_bytes().splitlines(keepends=True)
    Path("b.jsonl").write_bytes(lines[0] + lines[1][:50])
    code, out, err = call("merge", "b.jsonl", "a.jsonl", "-o", "all.jsonl")
    assert (code, err) == (0, "Left out b.jsonl:2: the line is cut or damaged\n")
    assert out == "Rows in all.jsonl: 2, of 2 files.\n"
    code, _, err = call("merge", "a.jsonl", "-o", "all.jsonl")
    assert (code, err) == (1, "Error: all.jsonl exists already; give the merged file a new name.\n")
    assert call("merge", "-o", "new.jsonl")[0] == 2
    assert call("merge", "none.jsonl", "-o", "new.jsonl")[0] == 1 and not Path("new.jsonl").exists()


def test_list_and_show_and_env() -> None:
    code, out, _ = call("list")
    assert code == 0 and "ICLR 2022, arXiv 2202.07800" in out and "CC-BY-NC-4.0" in out
    order = [line.split()[0] for line in out.splitlines() if line.strip()]
    kinds = [order.index(kind) for kind in KINDS if kind in order]
    assert kinds == sorted(kinds) and kinds[0] < order.index("dynamicvit") < kinds[1] < order.index("tome") < kinds[2]
    code, out, _ = call("show", "evit")
    assert code == 0 and "number > 0 ≤ 1" in out and "reported by the paper" in out and "79.5" in out
    code, out, _ = call("env", "--device", "cpu")
    assert code == 0 and "hardware" in out and torch.__version__.split("+")[0] in out


def test_backbones_say_which_methods_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark for each method, or the number of a reason below."""
    shown = {name: backbones.SHORT_NAMES[name] for name in ("deit_s", "siglip_b", "swin_t", "swin_s", "swin_b")}
    all_methods()  # so that the code is asked, and not the file
    monkeypatch.setattr(backbones, "SHORT_NAMES", shown)
    code, out, _ = call("list", "--backbones")
    head, *lines = (line.split() for line in out.splitlines()[: len(shown) + 1])
    methods = head[head.index("tokens") + 1 :]
    cells = {line[0]: dict(zip(methods, line[-len(methods) :], strict=True)) for line in lines}
    assert code == 0 and list(cells) == list(shown)
    assert [name for name, cell in cells["deit_s"].items() if cell != "✓"] == ["convstem"]
    swin = [name for name, cell in cells["swin_s"].items() if cell == "✓"]
    assert swin == ["convstem", "dynamicvit", "stvit", "stvit_r"]
    assert cells["swin_t"] == cells["swin_s"] == cells["swin_b"]
    number = cells["siglip_b"]["evit"]
    (line,) = (line for line in out.splitlines() if line.startswith(f"{number}  "))
    stopped, reason = line.split(": ", 1)
    assert {"evit", "topk"} <= set(stopped.split("  ")[1].split(", "))
    assert reason.startswith("it scores patches by the attention of a class token, and this backbone has")


HEAVY = "sorted({'torch', 'timm', 'pandas', 'torchvision', 'matplotlib'} & set(sys.modules))"


@pytest.mark.parametrize(
    "code",
    [
        "import tokenbench",
        "from tokenbench.cli import main\ntry: main(['--help'])\nexcept SystemExit as e: assert e.code == 0",
    ],
)
def test_help_and_import_are_light(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}\nprint({HEAVY})"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_keeps_the_rows_and_the_next_run_goes_on() -> None:
    sizes = ("1", "2", "8")
    args = ["run", "--methods", "evit", "--weights", "random", "--rounds", "20", "--max-seconds", "0", "--threads", "1"]
    command = [sys.executable, "-m", "tokenbench.cli", *args, "-b", ",".join(sizes)]
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a background job would ignore it
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, handler)
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if "speed at batch 2" in line:
                running.send_signal(signal.SIGINT)
                break
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, out) == (130, "")
    assert err == "Interrupted; what was measured is kept, and the same command goes on from there.\n"
    rows, problems = load("results.jsonl")
    assert not problems and len(rows) == 2 * len(sizes)
    done = {(row.method, row.batch): row for row in rows if row.status == "ok"}
    assert set(done) == {("dense", 1), ("evit", 1)} and all(row.images_per_s for row in done.values())
    threads = torch.get_num_threads()
    code, _, err = call(*args, "-b", "1,2", "--rounds", "3")
    torch.set_num_threads(threads)
    assert code == 0 and "deit_nano: 2 of 4 jobs are done already" in err and "speed at batch 1\n" not in err
    assert done.items() <= {(row.method, row.batch): row for row in load("results.jsonl")[0]}.items()
