"""Whatever is typed or written into a config, a command ends with a result or with one sentence, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tokenbench import contract, methods, training
from tokenbench.backbones import hub
from tokenbench.cli import main, screen
from tokenbench.maps import following
from tokenbench.reports import files
from tokenbench.reports.maps import traces
from tokenbench.runs import runner
from tokenbench.runs import verify as verifying
from tokenbench.training import loop

BOUNDED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # to shrink a line takes longer than to read it
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = (
    *("0", "1", "3", "-1", "5.5", "1_0", "٣", "0x10", "1e3", "1e999", "nan", "inf", "-inf", " 7 ", "+2", "", " "),
    *(str(2**31), str(2**63), str(2**64), "9" * 400, "9" * 5000, "true", "None", "1,2", "1x2", "x"),
)
PATHS = (
    *("", ".", "..", "/", "file", "file/below", "folder", "folder/new", "pipe", "loop", "none", "new/er/file", "link"),
    *("/dev/null", "rows.jsonl", "good.py", "bad.py", "values.toml", "weights.safetensors", "weights.pth", "n" * 300),
    *("bell\x07", "line\nline", "esc\x1b[31m", os.fsdecode(b"caf\xe9"), "naïve–×", "-", "--", "~", "%s{}", "a" * 5000),
)
TEXTS = (
    *(
        "evit",
        "tome[r=4,8]",
        "evit[keep_rate=nan]",
        "evit[keep_rate=1e999]",
        "tome[r=",
        "tome[r=]",
        "[]",
        "[",
        "]",
        ",",
    ),
    *(
        "tome[r=" + "9" * 5000 + "]",
        "evit[places=3/6/9]",
        "evit[places=/]",
        "all,all",
        "all",
        "dense[x=1]",
        "evit[[1]]",
    ),
    *("auto", "random", "dense", "a=b", "lr=1", "lr=", "=", "lr=nan", "epochs=inf", "lr=1e999", "224x224", "1x1x1"),
    *("cpu", "cpu:0", "cpu:99", "cuda", "cuda:1000", "cuda:-1", "xpu", "hpu", "meta", "mps", "cpu:cpu", ":", "deit_s"),
    *("deit_nano", "deit_s,deit_s", "hf-hub:", "local-dir:", "resnet18", "a/b/c.pth", "classification", "../../x"),
)
odd = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with things of all kinds, and nothing heavy behind the commands."""
    methods.all_methods()
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))
    monkeypatch.chdir(tmp_path)
    for name in ("file", "rows.jsonl", "bad.py", "values.toml", "weights.safetensors", "weights.pth"):
        Path(name).write_text("\x00{")
    Path("good.py").write_text(
        "from tokenbench import Method\nclass Mine(Method):\n    '''Mine.'''\n    name = 'mine'\n"
    )
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("link").symlink_to("file")
    done = loop.Trained(Path("x"), 1.0, 1, "val", 1, False)
    monkeypatch.setattr(runner, "run", lambda *_: [])
    monkeypatch.setattr(verifying, "checks", lambda *_, **__: iter(()))
    monkeypatch.setattr(training, "train", lambda *_: done)
    monkeypatch.setattr(training, "train_all", lambda jobs, *_: ((job, done) for job in jobs))
    monkeypatch.setattr(following, "trace_all", lambda *_, **__: [])
    monkeypatch.setattr(traces, "write", lambda *_: [])
    monkeypatch.setattr(screen, "print_maps", lambda *_: None)
    monkeypatch.setattr(files, "write", lambda *_: files.Written(Path("x"), [], [], []))
    monkeypatch.setattr(contract, "verdicts", lambda *_: [])
    monkeypatch.setattr(hub, "from_hub", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no hub in tests")))
    yield tmp_path


def values(parameter: click.Parameter) -> st.SearchStrategy[str]:
    """What might be typed for it: of its type, of others, and of none."""
    if isinstance(parameter.type, click.Choice):
        return st.sampled_from([*map(str, parameter.type.choices), "", "FP32", "x"])
    if isinstance(parameter.type, click.Path):
        return st.sampled_from(PATHS)
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType):
        return st.sampled_from(NUMBERS)
    return st.sampled_from((*TEXTS, *NUMBERS, *PATHS)) | odd


@st.composite
def lines(draw: st.DrawFn, command: click.Command) -> list[str]:
    """A command line with what is required, and some of the rest."""
    line = []
    for parameter in command.params:
        if parameter.required or draw(st.integers(0, 3)) == 0:
            for _ in range(draw(st.integers(1, 2)) if parameter.multiple or parameter.nargs < 0 else 1):
                flag = isinstance(parameter, click.Option) and parameter.is_flag
                name = draw(st.sampled_from(parameter.opts)) if isinstance(parameter, click.Option) else None
                line += [name] if name else []
                line += [] if flag else [draw(values(parameter))]
    return line


def check(args: list[str]) -> int:
    result = CliRunner().invoke(main, args)
    assert result.exception is None or isinstance(result.exception, SystemExit), (args, result.exception)
    assert result.exit_code in (0, 1, 2), args
    assert all(line.isprintable() for line in result.stderr.split("\n")), (args, result.stderr)
    if result.exit_code == 2 and args:
        assert result.stderr.splitlines()[-1].startswith("Error: "), (args, result.stderr)
    return result.exit_code


@pytest.mark.parametrize("name", list(main.commands))
@BOUNDED
@given(data=st.data())
def test_any_value_of_any_option(name: str, data: st.DataObject) -> None:
    check([name, *data.draw(lines(main.commands[name]))])


@BOUNDED
@given(st.lists(odd | st.sampled_from([*main.commands, "-h", "--version", "--", "-", "--x", "-x"]), max_size=3))
def test_any_words(words: list[str]) -> None:
    check(words)


TOML = (
    *("1", "0", "-1", "5.5", "1e400", "inf", "-inf", "nan", "true", "false", '""', '" "', '"x"', '"5"', '"\\u0000"'),
    *("1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "{}", "{ a = 1 }", "[]", "[1, 2]", "[true]", "[[1], [2]]"),
    *('["evit", "tome"]', "[1, 'a', {}]", "0x" + "f" * 5000, "9" * 5000, "[" * 2000, "'\x07'", '"caf\\u00e9"'),
)


@st.composite
def configs(draw: st.DrawFn, command: click.Command) -> str:
    keys = [p.opts[-1].lstrip("-") for p in command.params if isinstance(p, click.Option)] + ["recipe", "unknown", '""']
    chosen = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
    text = "".join(f"{key} = {draw(st.sampled_from(TOML))}\n" for key in chosen)
    recipe = draw(st.dictionaries(st.sampled_from(["lr", "epochs", "frozen", "knobs", "x"]), st.sampled_from(TOML)))
    table = "[recipe]\n" + "".join(f"{key} = {value}\n" for key, value in recipe.items())
    return text + (table if "recipe" not in chosen and recipe else "")


@pytest.mark.parametrize("name", ["run", "train"])
@BOUNDED
@given(data=st.data())
def test_any_value_of_any_key(name: str, data: st.DataObject) -> None:
    Path("values.toml").write_text(data.draw(configs(main.commands[name])), encoding="utf-8")
    needed = ["--method", "evit", "--data-dir", "folder", "-o", "new"] if name == "train" else []
    check([name, *needed, "--config", "values.toml"])


@pytest.mark.parametrize("key", ["methods", "batch-size", "rounds", "seed", "compile", "output", "precision", "plugin"])
@pytest.mark.parametrize("value", TOML)
def test_no_value_of_another_kind_is_taken_for_one(key: str, value: str) -> None:
    """5.5 is no 5, and true no 1."""
    Path("values.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
    good: dict[str, Any] = {
        "batch-size": ("1", "[1, 2]", '"5"'),
        "rounds": ('"5"',),
        "seed": ("1", "0", '"5"'),
        "compile": ("true", "false"),
        "output": ('"x"', "1", "5.5", '"5"', '"caf\\u00e9"', "-1", "0", "inf", "-inf", "nan", "1e400"),
        "methods": ('["evit", "tome"]',),
        "plugin": ("[]",),
    }
    assert (check(["run", "--config", "values.toml", "--json"]) == 0) == (value in good.get(key, ()))
