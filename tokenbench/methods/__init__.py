"""The registry: every module here and in the folders here that holds a Method with a name, and every plug-in file."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

from tokenbench.errors import PLUGIN, UnknownName, UsageError, first_line, place
from tokenbench.methods.base import Method, Paper

NAME = re.compile(r"[\w-]+")

_registry: dict[str, type[Method]] = {}


def all_methods() -> dict[str, type[Method]]:
    """Every method by name: dense first, then in order of name."""
    if "dense" not in _registry:
        for module in pkgutil.walk_packages(__path__, f"{__name__}."):
            _register(importlib.import_module(module.name))
    return dict(sorted(_registry.items(), key=lambda item: (item[0] != "dense", item[0])))


def get(name: str) -> type[Method]:
    """The method of that name; raises `UnknownName` with the nearest one."""
    methods = all_methods()
    if name not in methods:
        raise UnknownName("method", name, methods, "`tokenbench list`")
    return methods[name]


def load_plugin(path: str | Path) -> list[str]:
    """Register the methods of a file and return their names; the file is run, so load only what you trust.

    What it prints goes to stderr, for stdout is for results.

    Raises:
        UsageError: no Python file, one that does not import, or no Method in it that can be used.
    """
    path = Path(path)
    place_of = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]  # files of one name stay two
    spec = importlib.util.spec_from_file_location(f"{PLUGIN}{path.stem}_{place_of}", path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"Plug-in '{path}' is not a Python file; give the path of a .py file with a Method in it.")
    all_methods()
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses and pydantic look names of annotations up
    try:
        with redirect_stdout(sys.stderr):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        what = f"{type(error).__name__}: {first_line(error)}{place(error)}"
        raise UsageError(f"Plug-in '{path}' does not import ({what}); mend it.") from error
    names = _register(module)
    if not names:
        raise UsageError(f"Plug-in '{path}' holds no Method with a name; see CONTRIBUTING.md for an example.")
    return names


def _register(module: ModuleType) -> list[str]:
    classes = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, Method)
        and hasattr(cls, "name")
        and cls.__module__ == module.__name__
    ]
    for cls in classes:
        name, where = cls.name, module.__file__
        if not isinstance(name, str) or not NAME.fullmatch(name) or name == "all":
            raise UsageError(f"Method {name!r} of {where} cannot be called that; use letters, digits, - and _.")
        if name in _registry and _registry[name].__module__ != cls.__module__:
            raise UsageError(f"Method '{name}' of {where} exists already; give it another name.")
        for what, kind in (("paper", Paper | None), ("recipes", Mapping), ("reported", tuple)):
            if not isinstance(getattr(cls, what), kind):
                raise UsageError(f"Method '{name}' of {where} has {what}={getattr(cls, what)!r}; see methods/base.py.")
    _registry.update({cls.name: cls for cls in classes})
    return [cls.name for cls in classes]
