"""What documentation tells to type is what commands take; what it links to is there; its Python is Python."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from tokenbench.backbones import SHORT_NAMES
from tokenbench.cli import main
from tokenbench.methods.sweep import parse

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TOLD = [*PAGES, *sorted((ROOT / "notebooks").glob("*.py"))]
LINKED = [*PAGES, ROOT / "ARCHITECTURE.md", *sorted((ROOT / "benchmarks").glob("**/*.md"))]
LINK = re.compile(r"\]\((?!\w+:)([^)\s]*)\)")


def told(page: Path) -> list[str]:
    """Each command of an indented block or between backticks, whole, without what is remarked or piped."""
    text = (
        page.read_text(encoding="utf-8").replace("\n# ", "\n" if page.suffix == ".py" else "\n# ").replace("\\\n", " ")
    )
    lines = re.findall(r"^    (?:torchrun .* -m )?(tokenbench .*)$", text, re.MULTILINE)
    found = [part.strip() for line in lines for part in re.split(r"; (?=tokenbench )", line.split("  #")[0])]
    found += re.findall(r"`(tokenbench \w+ [^`…]*)`", text.replace("\n", " "))
    return [re.split(r" [>|] ", command)[0].replace(" ...", "") for command in found if "|" not in command.split()[1]]


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.name)
def test_commands_are_taken(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed as if typed in the repository, settings and backbones too; only plug-ins are not there to load."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("tokenbench.tasks.load_plugin", lambda path: [])
    for text in told(page):
        _, name, *words = shlex.split(text, comments=True)
        context = main.commands[name].make_context(name, [*words])
        given, plugin = context.params, "--plugin" in words
        settings = given.get("methods") or given.get("method")
        assert plugin or not isinstance(settings, str) or parse(settings), text
        known = given.get("backbone", "deit_nano") or "deit_nano"
        assert {*known.split(",")} <= {*SHORT_NAMES}, text


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "sweep.slurm"], ids=lambda page: page.name)
def test_backbones_are_called_so(page: Path) -> None:
    """In whatever starts a command, too, such as sbatch."""
    for names in re.findall(r"--backbone ([a-z][\w,]*)", page.read_text(encoding="utf-8")):
        assert {*names.split(",")} <= {*SHORT_NAMES}, names


def test_commands_are_found() -> None:
    counts = {page.stem: len(told(page)) for page in PAGES}
    assert counts["README"] >= 10 and sum(counts.values()) >= 50
    assert {page for page, count in counts.items() if not count} <= {"CONTRIBUTING", "findings", "python", "reference"}
    with pytest.raises(click.NoSuchOption):
        main.commands["choose"].make_context("choose", ["--max-dorp", "1"])


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{link}: a site has files, not folders"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_is_python_and_what_is_run_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        ast.parse(block)
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE):
        assert f"\n{target}:" in targets, target
    for script in re.findall(r"(?:^    |`)python ((?:benchmarks|scripts)/\w+\.py)", text, re.MULTILINE):
        assert (ROOT / script).is_file(), script


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT).as_posix() for page in PAGES} | {"ARCHITECTURE.md", "CHANGELOG.md"}
    notebooks = {f"notebooks/{path.name}.md" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r": (\S+\.md)$", text, re.MULTILINE)) == pages | notebooks | {"benchmarks/README.md"}
