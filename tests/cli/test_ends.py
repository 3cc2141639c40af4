"""How commands end: signals, encodings, plug-ins that misbehave, and how much is said meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tokenbench import methods
from tokenbench.cli import main
from tokenbench.runs import runner
from tokenbench.runs.results import load
from tokenbench.training import together

QUICK = ("run", "--weights", "random", "-b", "2", "--rounds", "3")
PLUGIN = """
import sys
from pydantic import Field
from tokenbench import Method, Reducer

class Mine(Reducer):
    where = "after"
    def forward(self, tokens, attn):
        {forward}
        return tokens

class Plugged(Method):
    '''A method.'''
    name = {name}
    block: {kind} = Field(1, description="where")
    {more}
    def reducers(self, vit):
        return {{1: [Mine()]}}

{end}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    methods.all_methods()
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def call(*args: str, charset: str = "utf-8") -> tuple[int, str, str]:
    result = CliRunner(charset=charset).invoke(main, args)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr or "--verbose" in args
    return result.exit_code, result.stdout, result.stderr


def plugged(forward: str = "pass", name: str = "'plugged'", kind: str = "int", more: str = "", end: str = "") -> str:
    Path("mine.py").write_text(PLUGIN.format(forward=forward, name=name, kind=kind, more=more, end=end))
    return "mine.py"


def stopping(number: int) -> Any:
    def stop(*_: Any) -> None:
        os.kill(os.getpid(), number)

    return stop


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_signals_end_a_command(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    number = getattr(signal, name)
    default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, default)  # whoever started us may ignore it
    try:
        monkeypatch.setattr(runner, "run", stopping(number))
        word = "Interrupted" if name == "SIGINT" else f"Stopped by {name}"
        kept = "what was measured is kept, and the same command goes on from there"
        assert call(*QUICK) == (code, "", f"{word}; {kept}.\n")
        monkeypatch.setattr(together, "prepare", stopping(number))
        found = call("train", "--method", "evit", "--data-dir", "x", "-o", "y")
        assert found == (code, "", f"{word}; the same command goes on from the last checkpoint.\n")
        assert signal.getsignal(number) is default, "nothing is left behind"
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(runner, "run", lambda *_: os.kill(os.getpid(), signal.SIGHUP) or [])
        assert call(*QUICK, "--json")[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_workers_that_are_ended_say_nothing() -> None:
    """They are forked with our handlers, and torch ends them by SIGTERM."""
    code = """
import os, signal, time
from tokenbench.cli.streams import stopped_by_signals
with stopped_by_signals():
    child = os.fork()
    if not child:
        time.sleep(60)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"-{signal.SIGTERM.value}\n", "")


@pytest.mark.parametrize("charset", ["ascii", "cp1252", "latin-1"])
def test_every_encoding_shows_what_was_measured(charset: str) -> None:
    code, out, err = call(*QUICK, "--methods", "evit", "--backbone", "deit_nano", charset=charset)
    assert (code, err.count("Error")) == (0, 0) and "evit[keep_rate=0.7]" in out and "GMAC" in out
    sign = {"ascii": "28x28", "cp1252": "28×28", "latin-1": "28×28"}[charset]
    assert sign in out
    assert call("list", charset=charset)[0] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_names_that_are_not_utf8() -> None:
    """A results file and folders of such names: written, reported, and still read."""
    name = os.fsdecode(b"caf\xe9")
    code, _, _ = call(*QUICK, "--methods", "evit", "-o", f"{name}/{name}.jsonl")
    assert code == 0
    assert [row.status for row in load(f"{name}/{name}.jsonl")[0]] == ["ok", "ok"]
    code, out, _ = call("report", f"{name}/{name}.jsonl", "-o", name)
    assert code == 0 and "caf\\udce9" in out and Path(name, "index.html").is_file()
    code, _, err = call("report", f"{name}.jsonl")
    assert code == 1 and err.startswith("Error: caf\\udce9.jsonl cannot be read")


def test_nothing_in_an_error_steers_a_terminal() -> None:
    for args in (("show", "\x1b[31mred\n"), ("run", "--methods", "\x1b[2J"), ("list", "--\x1b[31m"), ("--\x1b[31m",)):
        code, out, err = call(*args)
        assert (code, out) == (2, "") and err.startswith("Error: ") and err.endswith("\n")
        assert err[:-1].isprintable() and "\\x1b[" in err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (("run", "-b", ""), "-b is empty; give it a value, or leave it out."),
        (("run", "--weights="), "--weights is empty"),
        (("run", "--weights", " "), "--weights is empty"),
        (("report", ""), "An argument is empty"),
        (("run", "-b", "1_0"), "--batch-size 1_0 is not allowed; write 32, or 1,32,128, or auto."),
        (("run", "-b", "٣"), "--batch-size ٣ is not allowed"),
        (("run", "--image-size", "99999"), "--image-size 99999 is not allowed; write 384, or 224x448, 16384 at most."),
        (("run", "--seed", str(2**64)), "Invalid value for '--seed'"),
        (("run", "--device", "xpu"), "device=xpu cannot be used here"),
        (("run", "--device", "hpu"), "device=hpu cannot be used here"),
        (("run", "--device", "cuda:1000"), "device=cuda:1000 is not "),
        (("env", "--device", "nonsense"), "device=nonsense is not allowed"),
        (("run", "--config", "pipe"), "Config 'pipe' cannot be read (it is a device or a pipe, not a regular file)"),
    ],
)
def test_values_that_mean_nothing(args: tuple[str, ...], what: str) -> None:
    os.mkfifo("pipe")
    code, out, err = call(*args)
    assert (code, out) == (2, "") and err.startswith(f"Error: {what}") and err.count("\n") == 1


def test_pipes_are_not_waited_for() -> None:
    os.mkfifo("pipe")
    for args in (("report", "pipe"), ("merge", "pipe", "-o", "new.jsonl")):
        code, _, err = call(*args)
        assert code == 1 and "pipe cannot be read (it is a device or a pipe" in err


def test_merging_what_holds_no_row_is_a_mistake() -> None:
    Path("empty.jsonl").write_text("")
    Path("damaged.jsonl").write_text("{")
    code, out, err = call("merge", "empty.jsonl", "damaged.jsonl", "-o", "new.jsonl")
    assert (code, out) == (1, "") and not Path("new.jsonl").exists()
    assert "Error: There is no row in empty.jsonl, damaged.jsonl; " in err


def test_quiet_and_verbose() -> None:
    args = (*QUICK, "--plugin", plugged(forward="raise KeyError('sign')"), "--methods", "plugged", "--json")
    code, out, err = call(*args)
    assert code == 1 and "deit_nano: counting" in err and "Traceback" not in err
    dense, mine = map(json.loads, out.splitlines())
    assert mine["reason"] == "KeyError: KeyError (mine.py:9)" and dense["status"] == "ok"
    code, out, err = call(*args, "--quiet", "--force")
    assert code == 1 and err == "" and len(out.splitlines()) == 2
    code, _, err = call(*args, "--verbose", "--quiet")
    assert code == 1 and "Traceback" in err and "mine.py" in err and "KeyError: 'sign'" in err
    code, _, err = call("run", "--methods", "evti", "--verbose")
    assert code == 2 and err.startswith("Traceback") and err.splitlines()[-1].startswith("Error: Unknown method 'evti'")


def test_both_commands_know_both_words() -> None:
    for word in ("--method", "--methods"):
        assert call(*QUICK, word, "evti")[2].startswith("Error: Unknown method 'evti'")
        code, _, err = call("train", word, "evti", "--data-dir", "x", "-o", "y")
        assert code == 2 and err.startswith("Error: Unknown method 'evti'")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"name": "''"}, "Method '' of mine.py cannot be called that; use letters, digits, - and _."),
        ({"name": "'a,b'"}, "Method 'a,b' of mine.py cannot be called that"),
        ({"name": "'../../x'"}, "Method '../../x' of mine.py cannot be called that"),
        ({"name": "'all'"}, "Method 'all' of mine.py cannot be called that"),
        ({"name": "5"}, "Method 5 of mine.py cannot be called that"),
        ({"name": "'evit'"}, "Method 'evit' of mine.py exists already; give it another name."),
        ({"end": "sys.exit(0)"}, "Plug-in 'mine.py' does not import (SystemExit: 0 (mine.py:20)); mend it."),
        ({"end": "1 / 0"}, "Plug-in 'mine.py' does not import (ZeroDivisionError: division by zero (mine.py:20))"),
        ({"end": "def"}, "Plug-in 'mine.py' does not import (SyntaxError: invalid syntax (mine.py, line 20)"),
        ({"more": "label = property(lambda self: 5)"}, "plugged: its label is 5, it must be a line that no other"),
        ({"kind": "object", "more": "of: object = object()"}, "plugged: its knobs cannot be written as JSON"),
    ],
)
def test_plugins_that_cannot_be_used(what: dict[str, str], sentence: str) -> None:
    code, out, err = call(*QUICK, "--plugin", plugged(**what), "--methods", "plugged")
    sentence = sentence.replace(" of mine.py", f" of {Path('mine.py').absolute()}")
    assert (code, out) == (2, "") and err.startswith(f"Error: {sentence}") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "code", "reason"),
    [
        ({"forward": "sys.exit(0)"}, 1, "SystemExit: 0 (mine.py:9)"),
        ({"forward": "open('none')"}, 1, "FileNotFoundError: [Errno 2] No such file or directory: 'none' (mine.py:9)"),
        ({"more": "supports = lambda self, vit: 5"}, 1, "TypeError: supports must give None or the reason in words"),
        ({"more": "supports = lambda self, vit: 1 / 0"}, 1, "ZeroDivisionError: division by zero (mine.py:16)"),
        ({"more": "of: dict[str, int] = {}"}, 0, None),
    ],
)
def test_plugins_that_fail_cost_their_own_row(what: dict[str, str], code: int, reason: str | None) -> None:
    found, out, _ = call(*QUICK, "--plugin", plugged(**what), "--methods", "plugged,evit", "--json")
    rows = {row["method"]: row for row in map(json.loads, out.splitlines())}
    assert found == code and rows["dense"]["status"] == rows["evit"]["status"] == "ok"
    assert rows["plugged"]["status"] == ("failed" if reason else "ok")
    assert (rows["plugged"]["reason"] or "").startswith(reason or "random weights, so no accuracy")


def test_what_fails_outside_of_a_row_says_where() -> None:
    args = ("--plugin", plugged(more="label = property(lambda self: 1 / 0)"), "--methods", "plugged")
    code, out, err = call(*QUICK, *args)
    assert (code, out) == (1, "")
    assert err == "Error: A plug-in stopped the command: ZeroDivisionError: division by zero (mine.py:16).\n"
    code, _, err = call("trace", "--weights", "random", "--plugin", plugged(forward="sys.exit(0)"), *args[2:])
    assert code == 1 and err.endswith("A plug-in stopped the command: SystemExit: 0 (mine.py:9).\n")


def test_a_label_of_two_settings_is_refused() -> None:
    file = plugged(more="label = property(lambda self: 'plugged')")
    code, _, err = call(*QUICK, "--plugin", file, "--methods", "plugged[block=1,2]")
    assert code == 2 and "plugged: its label is 'plugged', it must be a line that no other setting has." in err


def test_what_a_plugin_prints_is_not_among_the_results() -> None:
    file = plugged(forward="print('inside')", end="print('outside')")
    code, out, err = call(*QUICK, "--plugin", file, "--methods", "plugged", "--json")
    assert code == 0 and [json.loads(line)["method"] for line in out.splitlines()] == ["dense", "plugged"]
    assert "inside" in err and "outside" in err


def test_two_files_of_one_name_are_two_and_annotations_are_found() -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text("from __future__ import annotations\n" + Path(plugged()).read_text())
    code, _, err = call("list", "--plugin", "a/mine.py", "--plugin", "b/mine.py")
    assert code == 2 and "b/mine.py exists already; give it another name." in err
