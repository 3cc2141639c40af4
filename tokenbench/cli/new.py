"""`tokenbench new`: a package to begin from, that brings one method."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import click

from tokenbench.core import atomic
from tokenbench.errors import TokenbenchError, UsageError

PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "tokenbench-{name}"
version = "0.1.0"
dependencies = ["tokenbench"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points."tokenbench.methods"]
{name} = "{name}"

[tool.setuptools]
py-modules = ["{name}"]
"""

METHOD = '''\
# {name}.py
from pydantic import Field
from tokenbench import Method, Reducer


class Best(Reducer):
    where = "between"  # the block's attention and its MLP; or "before", "attention", "after"

    def forward(self, tokens, attn):
        scores = attn.class_row()  # (B, N - prefix); computed only because it is asked for
        count = int(self.method.share * scores.shape[1])
        return tokens.keep(scores.topk(count, dim=1).indices)


class {cls}(Method):
    """{cls}: keep the patches that the class token attends to, after one block."""

    name = "{name}"
    block: int = Field(3, ge=0, description="the block after whose attention patches go")
    share: float = Field(0.5, gt=0, le=1, description="share of the patches that stay")

    def reducers(self, vit):
        return {{self.block: [Best()]}}
'''

TEST = """\
# test_{name}.py
import pytest
from {name} import {cls}
from tokenbench import contract


def name(part):
    return getattr(part, "family", None) or part.__name__


@pytest.mark.parametrize("check", contract.CHECKS, ids=name)
@pytest.mark.parametrize("subject", contract.subjects({cls}()), ids=name)
def test_what_every_method_keeps(subject, check):
    reason = check(subject)
    if reason:
        pytest.skip(reason)
"""

NEXT = """\
{folder}/{name}.py is the method, {folder}/test_{name}.py holds it to what every method keeps,
{folder}/pyproject.toml makes a package of it. Next:

    tokenbench run --plugin {folder}/{name}.py --methods "{name}[share=0.3,0.5],evit"
    tokenbench check {folder}/{name}.py
    pip install -e "{folder}[test]"        # from then on without --plugin
    python -m pytest {folder}"""


@click.command()
@click.argument("folder", metavar="NAME", type=click.Path(path_type=Path))
def new(folder: Path) -> None:
    """Write a package of a method of your own, to begin from: a folder NAME with the method and its test."""
    name = folder.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(f"'{name}' cannot be a method's and a module's name; use small letters, digits and _.")
    ours = Path(__file__).parents[1] / "methods"
    if (ours / name).exists() or (ours / f"{name}.py").exists():
        raise UsageError(f"Method '{name}' exists already; give another name.")
    if folder.exists():
        raise UsageError(f"'{folder}' exists already; give another name, or remove it.")
    if importlib.util.find_spec(name) is not None:
        raise UsageError(f"A Python module '{name}' exists already, which would be hidden; give another name.")
    texts = {"pyproject.toml": PROJECT, f"{name}.py": METHOD, f"test_{name}.py": TEST}
    for file, text in texts.items():
        whole = text.format(name=name, cls="".join(part.capitalize() for part in name.split("_")))
        atomic.write(folder / file, whole, TokenbenchError, "give another folder")
    click.echo(NEXT.format(folder=folder, name=name))
