"""What documentation tells to type is what commands take."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from tokenbench.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "site").glob("*.md"))]


def told(page: Path) -> list[str]:
    """Each command of an indented block, whole, without what is remarked or piped."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (tokenbench .*)$", text, re.MULTILINE)
    found = [part.strip() for line in lines for part in re.split(r"; (?=tokenbench )", line.split("  #")[0])]
    return [re.split(r" [>|] ", command)[0] for command in found if "|" not in command.split()[1]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_flags_exist(page: Path) -> None:
    found = told(page)
    for text in found:
        _, name, *words = shlex.split(text, comments=True)
        command = main.commands.get(name)
        assert command is not None, text
        flags = {flag for parameter in command.params if isinstance(parameter, click.Option) for flag in parameter.opts}
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= flags, (text, given - flags)
    assert found or page.stem in ("extending", "python")


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r": (\w+\.md)$", text, re.MULTILINE)) == {page.name for page in PAGES[2:]}
